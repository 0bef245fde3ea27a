//! The way of gateway events to the controller, past DNS.
//!
//! Owns the fold of observations into the health DNS answers by. Never holds an event back: both channels are bounded, and a slow
//! controller is felt by the gateway as a full channel. Used by `run`.

use std::sync::Arc;

use strait_dns::HealthView;
use strait_federation_api::{control::GatewayEvent, snapshot::Snapshot};
use tokio::sync::{mpsc, watch};

/// Passes events on until either end is gone.
pub(super) async fn pass(
    mut from: mpsc::Receiver<GatewayEvent>,
    to: mpsc::Sender<GatewayEvent>,
    health: watch::Sender<Arc<HealthView>>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let mut peers = snapshots.borrow_and_update().peers.clone();
    loop {
        let event = tokio::select! {
            event = from.recv() => event,
            Ok(()) = snapshots.changed() => {
                let now = snapshots.borrow_and_update().peers.clone();
                let gone: Vec<_> = peers.keys().filter(|peer| !now.contains_key(*peer)).cloned().collect();
                if !gone.is_empty() {
                    health.send_modify(|view| gone.iter().for_each(|peer| Arc::make_mut(view).forget(peer)));
                }
                peers = now;
                continue;
            }
        };
        let Some(event) = event else { return };
        if let GatewayEvent::Observed(observation) = &event {
            health.send_if_modified(|view| Arc::make_mut(view).observe(observation));
        }
        if to.send(event).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use strait_federation_api::{
        ClusterId,
        observation::{LinkState, Observation},
        snapshot::{Peer, PeerMode},
    };

    use super::*;

    fn west() -> ClusterId {
        ClusterId::parse("west").unwrap()
    }

    fn link() -> GatewayEvent {
        let state = LinkState {
            usable_tunnels: 1,
            ..LinkState::default()
        };
        GatewayEvent::Observed(Observation::Link { peer: west(), state })
    }

    #[tokio::test]
    async fn events_pass_and_dns_learns_on_the_way() {
        let east = ClusterId::parse("east").unwrap();
        let mut snapshot = Snapshot::empty(east.clone());
        let peer = Peer {
            cluster: west(),
            trust_domain: strait_federation_api::TrustDomain::parse("west.aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .unwrap(),
            mode: PeerMode::Active,
            addresses: Vec::new(),
            instances: std::collections::BTreeSet::new(),
            importing: true,
        };
        snapshot.peers.insert(west(), Arc::new(peer));
        let (snapshot_tx, snapshot_rx) = watch::channel(Arc::new(snapshot));
        let (event_tx, event_rx) = mpsc::channel(4);
        let (out_tx, mut out_rx) = mpsc::channel(4);
        let (health_tx, mut health_rx) = watch::channel(Arc::new(HealthView::default()));
        let task = tokio::spawn(pass(event_rx, out_tx, health_tx, snapshot_rx));
        event_tx.send(link()).await.unwrap();
        assert!(matches!(out_rx.recv().await, Some(GatewayEvent::Observed(_))));
        assert_eq!(health_rx.borrow_and_update().link(&west()), Some(true));
        snapshot_tx.send(Arc::new(Snapshot::empty(east))).unwrap();
        health_rx.changed().await.unwrap();
        assert_eq!(
            health_rx.borrow().link(&west()),
            None,
            "a peer that is gone is forgotten"
        );
        drop(event_tx);
        task.await.unwrap();
    }
}
