//! The story's second step: trust between east and its peers, by invites or by static bundles.
//!
//! Owns both ways and the waiting for them. Never judges traffic: there is none yet. Used by the story.

use std::time::Instant;

use serde_json::json;

use super::{
    ask::{self, wait},
    judge::Verdict,
    manifests,
    story::{Story, Told},
};
use crate::local::{Reply, Request};

impl Story {
    pub(super) async fn joined(&mut self) -> Told {
        let start = Instant::now();
        let how = if self.args.static_trust {
            self.trust_statically().await?;
            "by bundles in the manifests"
        } else {
            self.join_by_invite().await?;
            "by invite"
        };
        for peer in [&self.west, &self.north] {
            let what = format!("east and {} to trust and reach each other", peer.name);
            wait(&what, async || {
                let ours = ask::federation(&self.east, peer.name).await?;
                let theirs = ask::federation(peer, "east").await?;
                let both = [ours, theirs].iter().all(|f| f.as_ref().is_some_and(ask::is_up));
                Ok(both.then_some(()))
            })
            .await?;
        }
        let dialled = if self.args.dial_out_only {
            "; west has no address and dialled out"
        } else {
            ""
        };
        let text = format!(
            "east joined west and north {how} in {} ms: each side trusts and reaches the other{dialled}",
            start.elapsed().as_millis()
        );
        Ok(Verdict::new(
            true,
            text,
            json!({"how": how, "dialOutOnly": self.args.dial_out_only}),
        ))
    }

    async fn join_by_invite(&self) -> Result<(), String> {
        for peer in [&self.west, &self.north] {
            let invite = Request::Invite {
                federation: peer.name.to_owned(),
                ttl: None,
            };
            let token = match self.east.ask(invite).await? {
                Reply::Invited { token, .. } => token,
                other => return Err(format!("east: unexpected reply {other:?}")),
            };
            peer.ask(Request::Join {
                token,
                federation: Some("east".to_owned()),
            })
            .await?;
        }
        Ok(())
    }

    async fn trust_statically(&self) -> Result<(), String> {
        let ours = ask::bundle(&self.east).await?;
        for peer in [&self.west, &self.north] {
            let theirs = ask::bundle(peer).await?;
            let dial = !(self.args.dial_out_only && peer.name == "west");
            let written = manifests::write_static(&self.east, peer, &theirs.0, &theirs.1, dial)
                .and_then(|()| manifests::write_static(peer, &self.east, &ours.0, &ours.1, true));
            written.map_err(|e| format!("cannot write a manifest: {e}"))?;
        }
        Ok(())
    }
}
