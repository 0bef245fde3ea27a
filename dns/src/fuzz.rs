//! Entry points for fuzzers: arbitrary bytes in, a panic is a finding. Owns nothing; called by the fuzz room.

use strait_federation_api::{ClusterId, snapshot::Snapshot};

use crate::{
    health::HealthView,
    message::{Context, Transport, handle},
};

/// A message from a client, by either transport, with and without upstreams.
pub fn message(data: &[u8]) {
    let Ok(cluster) = ClusterId::parse("fuzz") else {
        return;
    };
    let (snapshot, health) = (Snapshot::empty(cluster), HealthView::default());
    for (transport, forwarding) in [(Transport::Udp, true), (Transport::Tcp, false)] {
        let context = Context {
            snapshot: &snapshot,
            health: &health,
            forwarding,
        };
        let _ = handle(data, transport, context);
    }
}
