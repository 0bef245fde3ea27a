//! What the gateway tells.
//!
//! Owns what follows from each event. Called by the engine.

use strait_federation_api::{
    ClusterId,
    control::{ControlStream, GatewayEvent},
    observation::{LinkState, Observation},
    snapshot::PeerMode,
};

use super::Engine;
use crate::metrics::ReasonLabel;

impl Engine {
    /// Takes in an event; gives whether anything follows from it.
    pub(super) fn on_gateway(&mut self, event: GatewayEvent) -> bool {
        match event {
            GatewayEvent::Control(stream) => self.on_control(stream),
            GatewayEvent::Join(stream) => {
                self.serve_join(stream);
                false
            }
            GatewayEvent::Observed(observation) => self.on_observation(observation),
        }
    }

    fn on_control(&mut self, stream: ControlStream) -> bool {
        let peer = stream.peer.clone();
        if let Err(error) = self.activate(&peer.cluster, &peer.trust_domain) {
            tracing::warn!(peer = %peer.cluster, reason = %error.reason(), "a control stream is refused: {error}");
            return false;
        }
        if self.mode_of(&peer.cluster) == Some(PeerMode::Suspended) {
            tracing::info!(peer = %peer.cluster, reason = "PeerSuspended", "a control stream is refused: the Federation is suspended");
            return false;
        }
        self.start_tasks();
        if let Some(task) = self
            .peerings
            .get(&peer.cluster)
            .and_then(|peering| peering.task.as_ref())
        {
            tracing::info!(peer = %peer.cluster, remote = %stream.remote, role = ?stream.role, "a control stream is up");
            task.hand(stream);
        }
        true
    }

    fn mode_of(&self, peer: &ClusterId) -> Option<PeerMode> {
        let record = self.trusted.get(peer)?;
        self.set()
            .federations
            .get(&record.federation)
            .map(|federation| federation.spec.mode)
    }

    fn on_observation(&mut self, observation: Observation) -> bool {
        match observation {
            Observation::Link { peer, state } => self.on_link(&peer, state),
            Observation::EndpointHealth {
                service,
                endpoint,
                healthy,
                reason,
            } => {
                let failed = (!healthy).then(|| reason.unwrap_or(strait_federation_api::Reason::ProbeFailed));
                self.health.observe(&service, &endpoint, failed)
            }
            Observation::Listener {
                service,
                vip,
                port,
                bound,
            } => {
                let before = self.listeners.insert((service, vip, port), bound.clone());
                before.as_ref() != Some(&bound)
            }
            Observation::Refused { remote, peer, reason } => {
                self.metrics
                    .refused
                    .get_or_create(&ReasonLabel {
                        reason: reason.name(),
                    })
                    .inc();
                tracing::debug!(%remote, ?peer, %reason, "the gateway refused something");
                false
            }
        }
    }

    fn on_link(&mut self, peer: &ClusterId, state: LinkState) -> bool {
        let Some(peering) = self.peerings.get_mut(peer) else {
            return false;
        };
        let up = state.usable_tunnels > 0;
        if let Some(task) = &peering.task {
            task.tell(|inputs| std::mem::replace(&mut inputs.tunnels_up, up) != up);
        }
        let changed = peering.link != state;
        peering.link = state;
        changed
    }
}
