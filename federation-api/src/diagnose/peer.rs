//! The steps of a peer: address, reach, handshake, trust, catalog, policy, probe.

use std::time::Duration;

use super::{Side, Step, Steps, side_of, words};
use crate::{
    Reason,
    observation::LinkState,
    snapshot::PeerMode,
    view::{ConditionStatus, ConditionView, ExportView, FederationView},
};

/// What is known about a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInput {
    /// The Federation with it.
    pub federation: FederationView,
    /// Export rules the Federation has.
    pub export_rules: usize,
    /// Import rules the Federation has.
    pub import_rules: usize,
    /// Our exports, with the peers' verdicts.
    pub exports: Vec<ExportView>,
    /// A probe through a tunnel: round trip, or why not. `None` when none was made.
    pub probe: Option<Result<Duration, (Reason, String)>>,
}

impl PeerInput {
    const fn link(&self) -> &LinkState {
        &self.federation.link
    }

    fn is_up(&self) -> bool {
        self.link().control || self.link().usable_tunnels > 0
    }

    fn condition(&self, kind: &str) -> Option<&ConditionView> {
        self.federation.conditions.iter().find(|c| c.kind == kind)
    }

    /// Why the last dial failed, while nothing is up.
    fn dial_error(&self) -> Option<&(Reason, String)> {
        self.link().last_error.as_ref().filter(|_| !self.is_up())
    }

    /// A join that is not done: its reason and words.
    fn join(&self) -> Option<(Reason, &str)> {
        let trusted = self
            .condition("Trusted")
            .filter(|c| c.status != ConditionStatus::True)?;
        is_join(trusted.reason).then_some((trusted.reason, trusted.message.as_str()))
    }
}

pub(super) fn steps(p: &PeerInput) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    if let Some((reason, message)) = p.join() {
        // Without a finished join there is neither a peer to dial nor trust to check it with: the join is the one thing to say.
        steps.add("trust", &[], || join_step(reason, message));
        for name in ["address", "reach", "handshake", "catalog", "policy", "probe"] {
            steps.add(name, &["trust"], || Step::skipped(name, ""));
        }
        let order = ["address", "reach", "handshake", "trust"];
        steps
            .0
            .sort_by_key(|s| order.iter().position(|n| *n == s.name).unwrap_or(order.len()));
        return steps.0;
    }
    steps.add("address", &[], || address(p));
    steps.add("reach", &["address"], || reach(p));
    steps.add("handshake", &["reach"], || handshake(p));
    steps.add("trust", &["handshake"], || trust(p));
    steps.add("catalog", &["trust"], || catalog(p));
    steps.add("policy", &["catalog"], || policy(p));
    steps.add("probe", &["trust"], || probe(p));
    steps.0
}

const fn is_join(reason: Reason) -> bool {
    matches!(reason.code(), 400..=499)
}

const fn is_trust(reason: Reason) -> bool {
    matches!(reason.code(), 300..=399) && !matches!(reason, Reason::TlsFailed)
}

/// The handshake was answered, and refused for a reason of protocol.
const fn is_handshake(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AlpnRefused
            | Reason::VersionSkew
            | Reason::NoClientCertificate
            | Reason::TooManyConnections
            | Reason::TlsFailed
    )
}

fn join_step(reason: Reason, message: &str) -> Step {
    Step::fail("trust", reason, side_of(reason), words(reason, message))
}

fn address(p: &PeerInput) -> Step {
    let f = &p.federation;
    if f.mode == PeerMode::Suspended {
        let detail = format!("spec.mode of the Federation {} is Suspended", f.name);
        return Step::fail("address", Reason::PeerSuspended, Side::Ours, detail);
    }
    if let Some((reason @ Reason::NameNotResolved, detail)) = p.dial_error() {
        return Step::fail("address", *reason, Side::Ours, words(*reason, detail));
    }
    if !f.addresses.is_empty() {
        return Step::ok(
            "address",
            Reason::Accepted,
            format!("dials {}", f.addresses.join(", ")),
        );
    }
    if p.is_up() {
        return Step::ok(
            "address",
            Reason::Accepted,
            "lists no address; the peer dialled in",
        );
    }
    let detail = format!(
        "the Federation {} lists no address and the peer has not dialled in",
        f.name
    );
    Step::fail("address", Reason::NoAddress, Side::Theirs, detail)
        .with_fix("check on the other side that it lists an address of ours and that UDP to it is open, or give spec.peer.addresses here")
}

fn reach(p: &PeerInput) -> Step {
    if p.link().tunnels > 0 && p.link().usable_tunnels == 0 {
        // A control connection is given up later than a tunnel: it says nothing about now.
        let detail = format!("none of {} tunnels is heard from", p.link().tunnels);
        return Step::fail("reach", Reason::PeerSilent, Side::Path, detail)
            .with_fix("see whether the peer's strait runs, then whether UDP passes in both directions");
    }
    if p.is_up() {
        let rtt = p
            .link()
            .rtt
            .map_or_else(String::new, |r| format!(", round trip {r:.1?}"));
        let detail = format!(
            "{} of {} tunnels usable{rtt}",
            p.link().usable_tunnels,
            p.link().tunnels
        );
        return Step::ok("reach", Reason::Connected, detail);
    }
    match p.dial_error() {
        // Somebody answered.
        Some((reason, _)) if is_trust(*reason) || is_handshake(*reason) => {
            Step::ok("reach", Reason::Connected, "packets go both ways")
        }
        Some((reason, detail)) => Step::fail("reach", *reason, side_of(*reason), words(*reason, detail)),
        None => Step::fail("reach", Reason::Dialling, Side::Path, "no dial has ended yet"),
    }
}

fn handshake(p: &PeerInput) -> Step {
    match p.dial_error() {
        Some((reason, detail)) if is_handshake(*reason) => {
            Step::fail("handshake", *reason, side_of(*reason), words(*reason, detail))
        }
        _ => Step::ok(
            "handshake",
            Reason::Connected,
            "both sides speak the same protocol",
        ),
    }
}

fn trust(p: &PeerInput) -> Step {
    if let Some((reason, detail)) = p.dial_error().filter(|(r, _)| is_trust(*r)) {
        return Step::fail("trust", *reason, side_of(*reason), words(*reason, detail));
    }
    match p.condition("Trusted") {
        Some(c) if c.status == ConditionStatus::True => {
            Step::ok("trust", c.reason, words(c.reason, &c.message))
        }
        Some(c) => Step::fail("trust", c.reason, side_of(c.reason), words(c.reason, &c.message)),
        None => Step::fail(
            "trust",
            Reason::Pending,
            Side::Ours,
            "trust has not been looked at yet",
        ),
    }
}

fn catalog(p: &PeerInput) -> Step {
    if !p.link().control {
        let detail =
            "data tunnels are up, the control connection is not: what is known stays, nothing new arrives";
        return Step::fail("catalog", Reason::Stale, Side::Path, detail);
    }
    match p.condition("Synced") {
        Some(c) if c.status == ConditionStatus::True => Step::ok(
            "catalog",
            c.reason,
            format!("it offers {} services", p.federation.offered),
        ),
        Some(c) => Step::fail(
            "catalog",
            c.reason,
            side_of(c.reason),
            words(c.reason, &c.message),
        ),
        None => Step::fail("catalog", Reason::Syncing, Side::Path, "no sync has ended yet"),
    }
}

/// Verdicts of this peer on our exports: how many are refused, and the first such service with its reason.
fn refused(p: &PeerInput) -> Vec<(&ExportView, Reason)> {
    let cluster = p.federation.cluster.as_ref();
    p.exports
        .iter()
        .filter_map(|e| {
            let verdict = e.peers.iter().find(|v| Some(&v.cluster) == cluster)?;
            let bad = !matches!(verdict.reason, Reason::Accepted | Reason::Pending);
            bad.then_some((e, verdict.reason))
        })
        .collect()
}

fn policy(p: &PeerInput) -> Step {
    let f = &p.federation;
    let fail = |reason, side, detail: String| Step::fail("policy", reason, side, detail);
    if f.mode == PeerMode::Drain {
        return fail(
            Reason::PeerDraining,
            Side::Ours,
            format!("spec.mode of the Federation {} is Drain", f.name),
        );
    }
    if p.export_rules == 0 && p.import_rules == 0 {
        let detail = format!(
            "the Federation {} has neither export nor import rules: nothing may pass",
            f.name
        );
        return fail(Reason::NotCovered, Side::Ours, detail)
            .with_fix("add spec.exports for what the peer may see, or spec.imports for what may come in");
    }
    if p.export_rules > 0 && f.exported == 0 {
        let detail = "export rules exist, but no ServiceExport that they cover".to_owned();
        return fail(Reason::NotCovered, Side::Ours, detail)
            .with_fix("add a ServiceExport for each service, see `strait get exports`");
    }
    if p.import_rules > 0 && f.offered == 0 {
        let detail = "import rules exist, but the peer offers nothing to us".to_owned();
        return fail(Reason::NotCovered, Side::Theirs, detail)
            .with_fix("add a ServiceExport and an export rule for this cluster on the other side");
    }
    if p.import_rules > 0 && f.imported == 0 {
        let detail = format!(
            "of {} services it offers, no import rule here allows any",
            f.offered
        );
        return fail(Reason::NotAllowed, Side::Ours, detail).with_fix(
            "add a rule to spec.imports; `strait get imports` prints the line for each offered service",
        );
    }
    let refused = refused(p);
    if let [(export, reason), ..] = refused.as_slice()
        && refused.len() >= f.exported as usize
    {
        let detail = format!(
            "the peer takes none of our {} exports; {}: {reason}",
            f.exported, export.service
        );
        return fail(*reason, Side::Theirs, detail);
    }
    let detail = format!(
        "{} of {} offered services imported; {} exported, {} of them not taken",
        f.imported,
        f.offered,
        f.exported,
        refused.len()
    );
    Step::ok("policy", Reason::Accepted, detail)
}

fn probe(p: &PeerInput) -> Step {
    match &p.probe {
        Some(Ok(rtt)) => Step::ok("probe", Reason::Connected, format!("answered in {rtt:.1?}")),
        Some(Err((reason @ Reason::NoTunnel, detail))) => {
            Step::fail("probe", *reason, Side::Path, words(*reason, detail)).with_fix(
                "see whether the peer's strait runs and UDP passes in both directions; `strait get tunnels -o wide` shows what is left",
            )
        }
        Some(Err((reason, detail))) => Step::fail("probe", *reason, side_of(*reason), words(*reason, detail)),
        None => Step::skipped("probe", "no probe was made"),
    }
}
