//! `token decode`: what a token says, without its secret.
//!
//! Owns that view of a token. Never sends it anywhere nor repeats it in an error. Called by dispatch.

use serde::Serialize;
use strait_federation_api::Reason;
use strait_trust_bridge::{Address, JoinToken};

use super::{emit, text_or_stdin, unix_now};
use crate::{
    args::{OutputFormat, TokenCommand},
    exit::{CliError, Exit},
    output::{self, show},
};

/// What a person may know of a token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenView {
    invite: String,
    trust_domain: String,
    root_sha256: String,
    addresses: Vec<String>,
    expires: u64,
}

impl TokenView {
    fn of(token: &JoinToken) -> Self {
        Self {
            invite: token.invite().to_string(),
            trust_domain: token.trust_domain().to_string(),
            root_sha256: token.pin().root.to_string(),
            addresses: token
                .addresses()
                .iter()
                .map(Address::as_str)
                .map(str::to_owned)
                .collect(),
            expires: token.expires(),
        }
    }
}

/// `strait token`.
pub(super) fn token(command: TokenCommand) -> Result<Exit, CliError> {
    let TokenCommand::Decode { token, output } = command;
    let token = JoinToken::decode(&text_or_stdin(&token)?)
        .map_err(|e| CliError::failed(format!("token: {e}")).because(Reason::TokenInvalid))?;
    emit(&text(&TokenView::of(&token), output)?)
}

fn text(view: &TokenView, format: OutputFormat) -> Result<String, CliError> {
    show(view, format, |view, _| {
        let now = u64::try_from(unix_now()).unwrap_or_default();
        let left = view.expires.checked_sub(now).filter(|&s| s > 0);
        let expires = left.map_or_else(
            || "past, by this machine's clock".to_owned(),
            |s| {
                format!(
                    "in {}, by this machine's clock",
                    output::span(std::time::Duration::from_secs(s))
                )
            },
        );
        let addresses = match view.addresses.as_slice() {
            [] => "none: the inviting cluster cannot be dialled".to_owned(),
            some => some.join(", "),
        };
        format!(
            "invite        {}\ntrust domain  {}\nroot SHA-256  {}\naddresses     {addresses}\nexpires       {expires}\nsecret        (not shown)\n",
            view.invite, view.trust_domain, view.root_sha256
        )
    })
}
