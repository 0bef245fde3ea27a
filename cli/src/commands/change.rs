//! `invite`, `join`, `drain`, `rotate-root`, `log-level`: commands that change something, all through the socket.
//!
//! Owns their words and the waiting of `join`. Never changes anything itself: the running process does. Called by dispatch.

use std::time::{Duration, Instant};

use strait_federation_api::view::ConditionStatus;

use super::{ask, emit, text_or_stdin, unexpected, unix_now};
use crate::{
    args::{DrainArgs, InviteArgs, JoinArgs, LogLevelArgs, OutputFormat, RotateArgs},
    exit::{CliError, Exit},
    local::{Reply, Request, RotateAction},
    output::{self, show},
};

/// How often a join is looked at: short beside the second or so it takes.
const JOIN_POLL: Duration = Duration::from_millis(200);

/// `strait invite`.
pub(super) async fn invite(args: InviteArgs) -> Result<Exit, CliError> {
    let request = match (args.name, args.list, args.revoke) {
        (Some(federation), _, true) => Request::RevokeInvite { federation },
        (Some(federation), _, false) => Request::Invite {
            federation,
            ttl: args.ttl.map(|t| t.as_secs()),
        },
        (None, ..) => Request::Invites,
    };
    match ask(&args.show.state, request).await? {
        Reply::Invited { token, invite }
            if matches!(args.show.output, OutputFormat::Table | OutputFormat::Wide) =>
        {
            // The token alone on standard output, so that it can be piped; the words go beside it.
            let left = u64::try_from(invite.expires - unix_now()).unwrap_or_default();
            eprintln!(
                "Invite for federation {:?}, valid {}. On the other cluster: strait join TOKEN --name NAME\nThe token is a secret until it is used:",
                invite.federation,
                output::span(Duration::from_secs(left))
            );
            emit(&(token + "\n"))
        }
        Reply::Invited { token, invite } => emit(&show(
            &serde_json::json!({"token": token, "invite": invite}),
            args.show.output,
            |_, _| String::new(),
        )?),
        Reply::Invites(views) => emit(&show(&views, args.show.output, |v, wide| {
            let table = output::invites(v, unix_now());
            if table.is_empty() {
                "No invite.\n".to_owned()
            } else {
                table.render(wide)
            }
        })?),
        Reply::Done { message } => emit(&(message + "\n")),
        other => Err(unexpected(&other)),
    }
}

/// `strait join`.
pub(super) async fn join(args: JoinArgs) -> Result<Exit, CliError> {
    let request = Request::Join {
        token: text_or_stdin(&args.token)?,
        federation: args.name,
    };
    let name = match ask(&args.state, request).await? {
        Reply::Joining { federation } => federation,
        other => return Err(unexpected(&other)),
    };
    let start = Instant::now();
    loop {
        let Reply::Status(status) = ask(&args.state, Request::Status).await? else {
            return Err(CliError::failed("the running strait gave no status"));
        };
        let federation = status.controller.federations.into_iter().find(|f| f.name == name);
        let trusted = federation
            .as_ref()
            .and_then(|f| f.conditions.iter().find(|c| c.kind == "Trusted"));
        match trusted {
            Some(c) if c.status == ConditionStatus::True => {
                let peer = federation
                    .as_ref()
                    .and_then(|f| f.cluster.as_ref())
                    .map(ToString::to_string);
                return emit(&format!(
                    "joined {} as federation {name:?}\n",
                    peer.unwrap_or_default()
                ));
            }
            Some(c) if c.reason.class() == strait_federation_api::reason::Class::Final => {
                return Err(
                    CliError::failed(format!("join {name:?}: {}", output::plain(&c.message)))
                        .because(c.reason),
                );
            }
            other if start.elapsed() >= args.wait => {
                let error = CliError::failed(format!(
                    "join {name:?}: not complete after {}: {}",
                    output::span(args.wait),
                    other.map_or_else(|| "nothing heard yet".to_owned(), |c| output::plain(&c.message))
                ));
                return Err(error.help("it goes on in the running process until the token expires; see `strait get federations -o wide`"));
            }
            _ => tokio::time::sleep(JOIN_POLL).await,
        }
    }
}

/// `strait drain`.
pub(super) async fn drain(args: DrainArgs) -> Result<Exit, CliError> {
    match ask(
        &args.state,
        Request::Drain {
            federation: args.peer,
            undo: args.undo,
        },
    )
    .await?
    {
        Reply::Done { message } => emit(&(message + "\n")),
        other => Err(unexpected(&other)),
    }
}

/// `strait rotate-root`.
pub(super) async fn rotate_root(args: RotateArgs) -> Result<Exit, CliError> {
    let action = match args.remove {
        Some(hash) => RotateAction::Remove(hash),
        None if args.status => RotateAction::Status,
        None if args.force => RotateAction::Force,
        None => RotateAction::Start,
    };
    match ask(&args.show.state, Request::RotateRoot { action }).await? {
        Reply::Rotation(view) => emit(&show(&view, args.show.output, |v, _| output::rotation(v))?),
        other => Err(unexpected(&other)),
    }
}

/// `strait log-level`.
pub(super) async fn log_level(args: LogLevelArgs) -> Result<Exit, CliError> {
    match ask(&args.state, Request::LogLevel { set: args.directives }).await? {
        Reply::LogLevel { directives } => emit(&(directives + "\n")),
        other => Err(unexpected(&other)),
    }
}
