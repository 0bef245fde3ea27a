//! What must hold at every step, and at the end.

use std::collections::BTreeSet;

use strait_federation_api::{
    Reason,
    exchange::{Event, Inbound, Message},
};

use super::sim::{A_DAY, World, verdict};

impl World {
    /// Follows what a side has been told, before its events are judged.
    pub(crate) fn before_events(&mut self, side: usize, cause: Option<&Inbound>) {
        let side = &mut self.sides[side];
        match cause {
            Some(Inbound::Message(Message::Hello(hello))) => side.link_epoch = Some(hello.epoch),
            Some(Inbound::Message(Message::BeginSync { full: true })) => side.stated = Some(BTreeSet::new()),
            Some(Inbound::Message(Message::Upsert(offer))) => {
                side.stated
                    .iter_mut()
                    .for_each(|s| _ = s.insert(offer.service.clone()));
            }
            Some(Inbound::Malformed {
                service: Some(key), ..
            }) => {
                side.stated.iter_mut().for_each(|s| _ = s.insert(key.clone()));
            }
            _ => {}
        }
    }

    pub(crate) fn check_event(&mut self, side: usize, event: &Event, cause: Option<&Inbound>) {
        let step = self.step;
        match event {
            Event::Upserted(_) | Event::SyncFinished { .. } => {
                let s = &mut self.sides[side];
                let epoch = s.link_epoch.expect("catalog words without a Hello");
                assert!(epoch >= s.heard_epoch, "step {step}: an older epoch was heard");
                s.heard_epoch = epoch;
                if let Event::SyncFinished { version, full, .. } = event {
                    assert_eq!(version.epoch, epoch, "step {step}");
                    assert_eq!(*full, s.stated.take().is_some(), "step {step}");
                }
            }
            Event::Withdrawn {
                service,
                reason: Reason::PeerExpired,
            } => {
                assert!(
                    self.away_for(side) >= A_DAY,
                    "step {step}: {service} expired too early"
                );
            }
            Event::Withdrawn { service, .. } => {
                match cause {
                    Some(Inbound::Message(Message::Delete(key))) => assert_eq!(key, service, "step {step}"),
                    Some(Inbound::Message(Message::EndOfSync { .. })) => {
                        let s = &self.sides[side];
                        assert!(
                            s.stated.as_ref().is_some_and(|stated| !stated.contains(service)),
                            "step {step}: {service} withdrawn by a sync that stated it or was not full"
                        );
                    }
                    other => panic!("step {step}: {service} withdrawn by {other:?}"),
                }
                let (absent, made) = self.absence(side, service);
                assert!(
                    absent.is_some_and(|absent| absent >= made),
                    "step {step}: {service} withdrawn, but its owner exported it all along"
                );
            }
            Event::Violation(refusal) => {
                let expected = match refusal.reason {
                    Reason::Malformed => self.is_damaged(side),
                    Reason::EpochTooOld => self.rolled_back(),
                    _ => false,
                };
                assert!(expected, "step {step}: an honest peer was accused: {refusal}");
            }
            _ => {}
        }
    }

    /// Events and catalog tell the same story, within bounds.
    pub(crate) fn check_mirror(&self) {
        for s in &self.sides {
            let held: BTreeSet<_> = s.machine.catalog().keys().cloned().collect();
            assert_eq!(held, s.mirror, "step {}: events and catalog differ", self.step);
            assert!(
                held.len() <= self.plan.limit.unwrap_or(usize::MAX),
                "step {}",
                self.step
            );
        }
    }

    /// After quiescence each side holds what the other offers, and each owner knows what became of it.
    pub(crate) fn check_convergence(&self) {
        for side in 0..2 {
            let machine = &self.sides[side].machine;
            let expected = self.expected(side);
            let limit = self.plan.limit.unwrap_or(usize::MAX);
            let (held, status) = (machine.catalog(), machine.status(self.now));
            if expected.len() <= limit {
                assert_eq!(
                    held, &expected,
                    "side {side} holds something else than it is offered"
                );
                assert!(status.refused.is_empty(), "{:?}", status.refused);
            } else {
                assert_eq!(held.len(), limit, "side {side} has room it does not use");
                assert!(
                    held.iter().all(|(k, o)| expected.get(k) == Some(o)),
                    "side {side}"
                );
                assert_eq!(status.refused.len(), expected.len() - limit);
            }
            assert!(status.synced && status.connected && !status.stale, "{status:?}");
            let owner = &self.sides[1 - side].machine;
            let offered = owner.status(self.now);
            assert_eq!(offered.acked, Some(offered.offered.number));
            let answered = owner.feedback().keys();
            assert!(
                answered.eq(self.truth(1 - side).keys()),
                "feedback is for what is offered"
            );
            for key in self.truth(1 - side).keys() {
                let said = owner.feedback().get(key);
                match held.get(key) {
                    Some(offer) => assert_eq!(said, Some(&verdict(offer)), "feedback on {key}"),
                    None => assert_eq!(said.map(|v| v.reasons.clone()), Some(vec![Reason::OverLimit])),
                }
            }
        }
    }

    /// A reconnect after quiescence resumes: no object is said again, unless something had been refused.
    pub(crate) fn check_resume(mut self) {
        let whole = (0..2).all(|s| self.truth(s).len() <= self.plan.limit.unwrap_or(usize::MAX));
        let said = self.reconnect();
        let full = said
            .iter()
            .any(|m| matches!(m, Message::BeginSync { full: true }));
        let begun = said
            .iter()
            .filter(|m| matches!(m, Message::BeginSync { .. }))
            .count();
        assert_eq!(begun, 2, "both sides sync after a reconnect");
        if whole {
            assert!(!full, "a complete catalog was said again instead of resumed");
            assert!(
                !said
                    .iter()
                    .any(|m| matches!(m, Message::Upsert(_) | Message::Delete(_)))
            );
        }
        self.quiesce();
        self.check_convergence();
    }
}
