//! Rows: one function a resource, from its view to a table.
//!
//! Owns which columns a resource has. Never sorts or filters: the view's order stands. Used by `get` and the status page.

use std::time::Duration;

use strait_federation_api::{
    catalog::{ServiceKind, ServicePort},
    observation::{GatewayStatus, TunnelKind},
    snapshot::{Backend, BackendCluster},
    view::{
        ConditionStatus, ConditionView, ExportView, FederationView, ImportsView, InviteView, RotationView,
    },
};

use super::{Table, count, plain, round_trip, span};

/// `get federations`.
pub(crate) fn federations(views: &[FederationView], now: i64) -> Table {
    let mut table = Table::new(
        &[
            "NAME", "CLUSTER", "MODE", "TRUST", "LINK", "TUNNELS", "RTT", "OFFERED", "IMPORTED", "EXPORTED",
            "STATE",
        ],
        &["SYNCED", "BUNDLE", "ADDRESSES", "TRUST DOMAIN", "MESSAGE"],
    );
    for view in views {
        let (state, message) = gravest(&view.conditions);
        let link = match (view.link.control, view.link.usable_tunnels) {
            (true, 1..) => "Up",
            (true, 0) => "Control",
            (false, 1..) => "Data",
            (false, 0) => "Down",
        };
        table.row([
            view.name.clone(),
            view.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
            format!("{:?}", view.mode),
            view.trust.clone(),
            link.to_owned(),
            format!("{}/{}", view.link.usable_tunnels, view.link.tunnels),
            view.link.rtt.map(round_trip).unwrap_or_default(),
            view.offered.to_string(),
            view.imported.to_string(),
            view.exported.to_string(),
            state,
            view.synced.map(|at| ago(at, now)).unwrap_or_default(),
            view.bundle_sequence.map(|s| s.to_string()).unwrap_or_default(),
            if view.addresses.is_empty() {
                "dials us".to_owned()
            } else {
                view.addresses.join(",")
            },
            view.trust_domain
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            message,
        ]);
    }
    table
}

/// `get exports`.
pub(crate) fn exports(views: &[ExportView]) -> Table {
    let mut table = Table::new(
        &["SERVICE", "TYPE", "PORTS", "READY", "PEERS", "STATE"],
        &["VERDICTS", "MESSAGE"],
    );
    for view in views {
        let (state, message) = gravest(&view.conditions);
        let peers: Vec<_> = view.peers.iter().map(|p| p.cluster.to_string()).collect();
        let verdicts: Vec<_> = view
            .peers
            .iter()
            .map(|p| format!("{}={}", p.cluster, p.reason))
            .collect();
        table.row([
            view.service.to_string(),
            view.kind.map(kind).unwrap_or_default(),
            ports(&view.ports),
            view.ready.to_string(),
            peers.join(","),
            state,
            verdicts.join(","),
            message,
        ]);
    }
    table
}

/// `get imports`: what is served, then what is offered and not let in, with the rule that would.
pub(crate) fn imports(view: &ImportsView, wide: bool) -> String {
    let mut table = Table::new(
        &["SERVICE", "TYPE", "VIP", "PORTS", "FROM", "READY", "STATE"],
        &["MESSAGE"],
    );
    for import in &view.imports {
        let (state, message) = gravest(&import.conditions);
        let vips: Vec<_> = import.vips.iter().map(ToString::to_string).collect();
        let from: Vec<_> = import.backends.iter().map(backend).collect();
        let ready: u32 = import.backends.iter().map(|b| b.ready).sum();
        table.row([
            import.service.to_string(),
            kind(import.kind),
            vips.join(","),
            ports(&import.ports),
            from.join(","),
            ready.to_string(),
            state,
            message,
        ]);
    }
    let served = if table.is_empty() {
        "No service is imported.\n".to_owned()
    } else {
        table.render(wide)
    };
    if view.offers.is_empty() {
        return served;
    }
    let mut offers = Table::new(&["OFFERED BY", "SERVICE", "WHY NOT", "WHAT WOULD LET IT IN"], &[]);
    for offer in &view.offers {
        offers.row([
            offer.cluster.to_string(),
            offer.service.to_string(),
            offer.reason.to_string(),
            plain(&offer.rule),
        ]);
    }
    format!("{served}\n{}", offers.render(wide))
}

/// `get gateways`: this gateway, then its listeners.
pub(crate) fn gateways(status: &GatewayStatus, wide: bool) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let mut table = Table::new(
        &[
            "INSTANCE",
            "LISTEN",
            "SOCKS",
            "WORKERS",
            "TUNNELS",
            "LISTENERS",
            "LEAF",
        ],
        &["RECEIVE BUFFER", "SEND BUFFER", "GSO"],
    );
    let bound = status.listeners.iter().filter(|l| l.bound.is_ok()).count();
    let least = |granted: fn(&strait_federation_api::observation::SocketStatus) -> (u64, u64)| {
        status
            .sockets
            .iter()
            .map(granted)
            .min()
            .map(|(have, asked)| format!("{}/{}K", have >> 10, asked >> 10))
    };
    table.row([
        text(status.instance.as_ref().map(ToString::to_string)),
        text(status.listen.map(|a| a.to_string())),
        text(status.socks.map(|a| a.to_string())),
        status.workers.to_string(),
        status.tunnels.len().to_string(),
        format!("{bound}/{}", status.listeners.len()),
        text(status.leaf_expires_in.map(|s| span(Duration::from_secs(s)))),
        text(least(|s| (s.receive_granted, s.receive_asked))),
        text(least(|s| (s.send_granted, s.send_asked))),
        text(
            status
                .sockets
                .iter()
                .map(|s| s.gso_segments)
                .min()
                .map(|n| n.to_string()),
        ),
    ]);
    let mut listeners = Table::new(&["SERVICE", "VIP", "PORT", "BOUND"], &["DETAIL"]);
    for listener in &status.listeners {
        let (bound, detail) = match &listener.bound {
            Ok(address) => (address.to_string(), String::new()),
            Err(e) => (e.reason.to_string(), plain(&e.detail)),
        };
        let port = format!("{}/{}", listener.port, listener.protocol);
        listeners.row([
            listener.service.to_string(),
            listener.vip.to_string(),
            port,
            bound,
            detail,
        ]);
    }
    if listeners.is_empty() {
        table.render(wide)
    } else {
        format!("{}\n{}", table.render(wide), listeners.render(wide))
    }
}

/// `get tunnels`.
pub(crate) fn tunnels(status: &GatewayStatus) -> Table {
    let mut table = Table::new(
        &["ID", "PEER", "KIND", "REMOTE", "RTT", "STREAMS", "AGE", "STATE"],
        &["DIALLED", "INSTANCE", "WORKER", "MTU", "LOST", "SILENT"],
    );
    for tunnel in &status.tunnels {
        let kind = match tunnel.kind {
            TunnelKind::Data => "data",
            TunnelKind::Control => "control",
        };
        table.row([
            tunnel.id.to_string(),
            tunnel.peer.to_string(),
            kind.to_owned(),
            tunnel.remote.to_string(),
            round_trip(tunnel.rtt),
            tunnel.streams.to_string(),
            span(tunnel.age),
            if tunnel.draining { "Draining" } else { "Open" }.to_owned(),
            if tunnel.dialled { "here" } else { "there" }.to_owned(),
            tunnel.instance.to_string(),
            tunnel.worker.to_string(),
            tunnel.mtu.to_string(),
            count(tunnel.lost_packets),
            round_trip(tunnel.silent_for),
        ]);
    }
    table
}

/// `invite --list`.
pub(crate) fn invites(views: &[InviteView], now: i64) -> Table {
    let mut table = Table::new(&["FEDERATION", "SERIAL", "STATE", "EXPIRES"], &["USED BY"]);
    for view in views {
        let left = u64::try_from(view.expires.saturating_sub(now))
            .ok()
            .filter(|&s| s > 0);
        table.row([
            view.federation.clone(),
            view.serial.to_string(),
            view.state.to_string(),
            left.map_or_else(
                || "past".to_owned(),
                |s| format!("in {}", span(Duration::from_secs(s))),
            ),
            view.bound_to
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]);
    }
    table
}

/// `rotate-root --status`.
pub(crate) fn rotation(view: &RotationView) -> String {
    let root = |role: &str, hash: &Option<String>| {
        hash.as_ref()
            .map(|h| format!("{role:<10}{h}\n"))
            .unwrap_or_default()
    };
    let lagging = if view.lagging.is_empty() {
        "every peer has acknowledged\n".to_owned()
    } else {
        view.lagging
            .iter()
            .map(|td| format!("lagging   {td}\n"))
            .collect()
    };
    format!(
        "phase     {}\nsequence  {}\n{}{}{}{lagging}",
        view.phase,
        view.sequence,
        root("issuing", &Some(view.current.clone())),
        root("next", &view.next),
        root("previous", &view.previous),
    )
}

/// The first condition that is not well, else the last that is: its reason and message.
pub(crate) fn gravest(conditions: &[ConditionView]) -> (String, String) {
    // `Conflict` is well when False; every other condition when True.
    let well = |c: &&ConditionView| (c.status == ConditionStatus::True) != (c.kind == "Conflict");
    let chosen = conditions
        .iter()
        .find(|c| !well(c))
        .or_else(|| conditions.iter().rfind(|c| c.kind != "Conflict"));
    chosen
        .map(|c| (c.reason.to_string(), plain(&c.message)))
        .unwrap_or_default()
}

fn kind(kind: ServiceKind) -> String {
    match kind {
        ServiceKind::ClusterSetIp => "ClusterSetIP",
        ServiceKind::Headless => "Headless",
    }
    .to_owned()
}

fn ports(ports: &[ServicePort]) -> String {
    ports
        .iter()
        .map(|p| format!("{}/{}", p.port, p.protocol))
        .collect::<Vec<_>>()
        .join(",")
}

/// `west:1` (priority 1), `west:1*50` (weight 50), `west:1?` (stale).
fn backend(backend: &Backend) -> String {
    let cluster = match &backend.cluster {
        BackendCluster::Local => "local".to_owned(),
        BackendCluster::Peer(cluster) => cluster.to_string(),
    };
    let weight = if backend.weight == 100 {
        String::new()
    } else {
        format!("*{}", backend.weight)
    };
    let stale = if backend.stale { "?" } else { "" };
    format!("{cluster}:{}{weight}{stale}", backend.priority)
}

fn ago(at: i64, now: i64) -> String {
    format!(
        "{} ago",
        span(Duration::from_secs(
            u64::try_from(now.saturating_sub(at)).unwrap_or_default()
        ))
    )
}

#[cfg(test)]
mod tests {
    use strait_federation_api::Reason;

    use super::*;

    fn condition(kind: &str, status: ConditionStatus, reason: Reason) -> ConditionView {
        ConditionView {
            kind: kind.into(),
            status,
            reason,
            message: String::new(),
            since: 0,
        }
    }

    #[test]
    fn the_state_is_the_first_condition_that_is_not_well() {
        use ConditionStatus::{False, True};
        let trusted = condition("Trusted", True, Reason::Trusted);
        let synced = condition("Synced", True, Reason::Synced);
        let away = condition("Connected", False, Reason::Unreachable);
        let calm = condition("Conflict", False, Reason::NoConflicts);
        let conflict = condition("Conflict", True, Reason::PortConflict);
        let of = |conditions: &[&ConditionView]| {
            gravest(&conditions.iter().map(|&c| c.clone()).collect::<Vec<_>>()).0
        };
        assert_eq!(of(&[&trusted, &synced]), "Synced");
        assert_eq!(of(&[&trusted, &away, &synced]), "Unreachable");
        assert_eq!(of(&[&trusted, &synced, &calm]), "Synced");
        assert_eq!(of(&[&trusted, &synced, &conflict]), "PortConflict");
    }

    #[test]
    fn a_gateway_without_listeners_is_one_table() {
        let text = gateways(&GatewayStatus::default(), false);
        assert_eq!(text.lines().count(), 2);
    }
}
