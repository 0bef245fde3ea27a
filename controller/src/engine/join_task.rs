//! The task of a pending join: dial, one session, pause, again.
//!
//! Owns the retries. Holds addresses and pin of the token, never its secret: that stays with the engine. Started by the engine.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use strait_federation_api::{
    Reason,
    control::{DialError, GatewayRequest},
    resources::values::AddressText,
    snapshot::GatewayAddress,
};
use strait_trust_bridge::{Address, InviteId, JoinToken, RootPin};
use tokio::sync::{mpsc, oneshot};

use super::{Ask, ask::FederationDesk};
use crate::{
    clock,
    join::{Ended, Retry, join_once},
};

/// One dial over all addresses of a token.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Seconds a join is tried beyond the token's expiry: only the inviter's clock counts, and ours may be wrong by so much.
const CLOCKS_APART: u64 = 3600;

/// What a joining task needs of a token: never its secret.
pub(super) struct TokenFacts {
    addresses: Vec<GatewayAddress>,
    pin: RootPin,
    invite: InviteId,
    expires: u64,
}

pub(super) fn token_facts(token: &JoinToken) -> TokenFacts {
    TokenFacts {
        addresses: addresses_of(token),
        pin: token.pin(),
        invite: token.invite(),
        expires: token.expires(),
    }
}

/// Addresses of a token as they are dialled.
pub(super) fn addresses_of(token: &JoinToken) -> Vec<GatewayAddress> {
    let parse = |address: &Address| AddressText::parse(address.as_str()).ok().map(|text| text.0);
    token.addresses().iter().filter_map(parse).collect()
}

/// Tries until joined, refused for good, or hopelessly late.
pub(super) async fn keep_joining(
    token: TokenFacts,
    desk: FederationDesk,
    requests: mpsc::Sender<GatewayRequest>,
    first_pause: Duration,
) {
    let mut pauses = ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(first_pause)
        .with_max_delay(RETRY_MAX)
        .without_max_times()
        .build();
    loop {
        let Err(ended) = try_once(&token, &desk, &requests).await else {
            return;
        };
        let mut ended = ended;
        if ended.retry == Retry::Later && clock::unix_seconds() > token.expires.saturating_add(CLOCKS_APART) {
            ended.retry = Retry::Never;
            ended.reason = Reason::InviteExpired;
        }
        let is_final = ended.retry == Retry::Never;
        let federation = desk.federation.clone();
        if desk
            .desk
            .0
            .send(Ask::JoinEnded { federation, ended })
            .await
            .is_err()
            || is_final
        {
            return;
        }
        tokio::time::sleep(pauses.next().unwrap_or(RETRY_MAX)).await;
    }
}

async fn try_once(
    token: &TokenFacts,
    desk: &FederationDesk,
    requests: &mpsc::Sender<GatewayRequest>,
) -> Result<(), Ended> {
    let later = |reason, detail: String| Ended {
        retry: Retry::Later,
        reason,
        detail,
    };
    let (reply, dialled) = oneshot::channel();
    let request = GatewayRequest::JoinDial {
        addresses: token.addresses.clone(),
        trust_domain: token.pin.trust_domain.clone(),
        root: token.pin.root,
        timeout: DIAL_TIMEOUT,
        reply,
    };
    requests
        .send(request)
        .await
        .map_err(|_| later(Reason::NoTunnel, "the gateway has stopped".into()))?;
    let stream = match dialled.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(dial_failed(error)),
        Err(_) => return Err(later(Reason::NoTunnel, "the gateway gave no answer".into())),
    };
    join_once(stream, token.invite, desk).await
}

/// Every failed dial is tried again, a wrong root too: whoever stands in the path must not be able to end a join for good.
fn dial_failed(error: DialError) -> Ended {
    Ended {
        retry: Retry::Later,
        reason: error.reason,
        detail: error.detail,
    }
}
