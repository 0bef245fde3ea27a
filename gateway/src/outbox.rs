//! Observations on their way to the controller.
//!
//! Owns coalescing and the rate: the last word on each subject, at most a few times a second, however often it changes. Workers only touch
//! a map; nobody waits for the controller.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use strait_federation_api::{
    ClusterId, Reason, ServiceKey, catalog::EndpointId, control::GatewayEvent, observation::Observation,
};
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
};

/// Time between two sends: ready counts cross clusters, and a quarter of a second is a small part of any failover they serve.
const EVERY: Duration = Duration::from_millis(250);
/// Subjects held at a time. More means a flood of refusals; the first ones tell as much as all.
const HELD_MAX: usize = 4096;

/// What an observation is about: a later one replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Link(ClusterId),
    Endpoint(ServiceKey, EndpointId),
    Listener(IpAddr, u16),
    Refused(IpAddr, Option<ClusterId>, Reason),
}

fn subject(observation: &Observation) -> Subject {
    match observation {
        Observation::Link { peer, .. } => Subject::Link(peer.clone()),
        Observation::EndpointHealth {
            service, endpoint, ..
        } => Subject::Endpoint(service.clone(), endpoint.clone()),
        Observation::Listener { vip, port, .. } => Subject::Listener(*vip, *port),
        Observation::Refused { remote, peer, reason } => Subject::Refused(remote.ip(), peer.clone(), *reason),
    }
}

/// See the module. A clone is one reference count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    held: Mutex<BTreeMap<Subject, Observation>>,
    some: Notify,
    dropped: AtomicU64,
}

impl Outbox {
    /// Takes one in, to be sent soon.
    pub(crate) fn put(&self, observation: Observation) {
        let subject = subject(&observation);
        let mut held = self.0.held.lock();
        if held.len() >= HELD_MAX && !held.contains_key(&subject) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        held.insert(subject, observation);
        drop(held);
        self.0.some.notify_one();
    }

    /// Observations that found no place.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Sends until the controller is gone.
    pub(crate) async fn run(self, events: mpsc::Sender<GatewayEvent>) {
        loop {
            self.0.some.notified().await;
            if !self.flush(&events) {
                return;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Sends what the channel takes and keeps the rest; `false` when nobody listens any more.
    fn flush(&self, events: &mpsc::Sender<GatewayEvent>) -> bool {
        let mut held = self.0.held.lock();
        while let Some((subject, observation)) = held.pop_first() {
            match events.try_send(GatewayEvent::Observed(observation)) {
                Ok(()) => {}
                Err(TrySendError::Full(GatewayEvent::Observed(observation))) => {
                    held.insert(subject, observation);
                    drop(held);
                    self.0.some.notify_one();
                    return true;
                }
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(endpoint: &str, healthy: bool) -> Observation {
        Observation::EndpointHealth {
            service: ServiceKey::parse("demo", "greeter").unwrap(),
            endpoint: EndpointId(endpoint.parse().unwrap()),
            healthy,
            reason: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_on_each_subject_and_none_lost_to_a_slow_controller() {
        let (events, mut received) = mpsc::channel(1);
        let outbox = Outbox::default();
        for i in 0..10 {
            outbox.put(health("a", i % 2 == 0));
        }
        outbox.put(health("b", true));
        outbox.put(health("c", false));
        let running = tokio::spawn(outbox.clone().run(events));
        let mut seen = vec![];
        for _ in 0..3 {
            tokio::time::sleep(EVERY * 3).await;
            match received.recv().await {
                Some(GatewayEvent::Observed(observation)) => seen.push(observation),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [health("a", false), health("b", true), health("c", false)]);
        assert!(received.try_recv().is_err());
        drop(received);
        outbox.put(health("a", true));
        running.await.unwrap();
    }

    #[test]
    fn a_flood_is_bounded() {
        let outbox = Outbox::default();
        for i in 0..u32::try_from(HELD_MAX).unwrap() + 10 {
            outbox.put(Observation::Refused {
                remote: (std::net::Ipv4Addr::from(i), 1).into(),
                peer: None,
                reason: Reason::Denied,
            });
        }
        assert_eq!((outbox.0.held.lock().len(), outbox.dropped()), (HELD_MAX, 10));
    }
}
