//! The status page: one cluster on one screen.
//!
//! Owns its layout. Used by `status`.

use std::{fmt::Write as _, time::Duration};

use super::{federations, plain, rows::gravest, span};
use crate::local::StatusReply;

/// The page, and whether all is well on it.
pub(crate) fn status_page(status: &StatusReply, now: i64, wide: bool) -> (String, bool) {
    let controller = &status.controller;
    let mut page = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(page, "{label:<14}{value}"); // a String cannot fail to grow
    };
    let ready = status.not_ready.is_empty();
    line(
        "cluster",
        &format!("{} ({})", controller.cluster, controller.trust_domain),
    );
    line(
        "process",
        &format!(
            "pid {}, version {}, up {}",
            status.pid,
            status.version,
            span(Duration::from_secs(status.uptime))
        ),
    );
    line(
        "ready",
        &if ready {
            "yes".to_owned()
        } else {
            format!("no: waiting for {}", status.not_ready.join(", "))
        },
    );
    line(
        "snapshot",
        &format!("epoch {}, version {}", controller.epoch, controller.version),
    );
    let gateway = &status.gateway;
    line(
        "gateway",
        &gateway.listen.map_or_else(
            || "not listening".to_owned(),
            |a| format!("{a}, {} workers", gateway.workers),
        ),
    );
    line(
        "socks",
        &gateway.socks.map_or_else(|| "off".to_owned(), |a| a.to_string()),
    );
    line(
        "certificate",
        &gateway.leaf_expires_in.map_or_else(
            || "none yet".to_owned(),
            |s| format!("{} left", span(Duration::from_secs(s))),
        ),
    );
    line(
        "root",
        &format!(
            "{} (sequence {})",
            controller.rotation.phase, controller.rotation.sequence
        ),
    );
    line("services", &services(status));
    let mut well = ready;
    for condition in &controller.conditions {
        let holds = condition.status == strait_federation_api::view::ConditionStatus::True;
        if !holds {
            well = false;
            line(
                &condition.kind,
                &format!("{} ({})", plain(&condition.message), condition.reason),
            );
        }
    }
    let table = federations(&controller.federations, now);
    if table.is_empty() {
        page.push_str("\nNo federation yet: `strait invite NAME` makes a token for another cluster.\n");
    } else {
        let _ = write!(page, "\n{}", table.render(wide));
    }
    (page, well)
}

fn services(status: &StatusReply) -> String {
    let controller = &status.controller;
    let failing = |conditions: &[_]| gravest(conditions).0;
    let troubled = controller
        .imports
        .imports
        .iter()
        .filter(|i| !matches!(failing(&i.conditions).as_str(), "Ready" | ""))
        .count();
    let mut text = format!(
        "{} exported, {} imported, {} offered and not allowed",
        controller.exports.len(),
        controller.imports.imports.len(),
        controller.imports.offers.len()
    );
    if troubled > 0 {
        let _ = write!(
            text,
            ", {troubled} imported in trouble (see `strait get imports`)"
        );
    }
    text
}
