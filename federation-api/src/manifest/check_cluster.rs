//! Rules of the Cluster.

use super::{
    ErrorCode,
    check::addresses,
    load::{Loader, Source},
};
use crate::resources::{
    Cluster,
    cluster::{Listener, taken_by},
};

pub(super) fn check(loader: &mut Loader, cluster: &Cluster) {
    let Some(source) = loader.source("Cluster", &cluster.id) else {
        return;
    };
    let spec = &cluster.spec;
    addresses(
        loader,
        &source,
        "spec.advertise",
        &spec.advertise,
        spec.allow_loopback,
    );
    if spec.listen == Listener::Off {
        let problem = "a gateway must listen: it dials from this socket too";
        loader.error_at(
            &source,
            "spec.listen",
            ErrorCode::BadListener,
            problem,
            "write ip:port, such as 0.0.0.0:7443",
        );
    }
    for (i, net) in spec.vip_range.nets().iter().enumerate() {
        if let Some((cidr, owner)) = taken_by(net) {
            let problem = format!("{net} overlaps {cidr}, which {owner} gives out by default");
            let fix = "take another range if that may run here too";
            loader.warn_at(
                &source,
                &format!("spec.vipRange[{i}]"),
                ErrorCode::RangeTaken,
                problem,
                fix,
            );
        }
    }
    listeners(loader, &source, cluster);
    let bounds: [(&str, u64, u64); 3] = [
        ("spec.workers", spec.workers.unwrap_or(1).into(), 256),
        (
            "spec.limits.streamsPerPeer",
            spec.limits.streams_per_peer.into(),
            1_000_000,
        ),
        (
            "spec.limits.servicesPerPeer",
            spec.limits.services_per_peer.into(),
            1_000_000,
        ),
    ];
    for (path, value, max) in bounds {
        if value == 0 || value > max {
            let fix = format!("use a whole number from 1 to {max}");
            loader.error_at(
                &source,
                path,
                ErrorCode::OutOfRange,
                format!("{value} is out of range"),
                fix,
            );
        }
    }
    // Less than one receive window cannot move a stream.
    let smallest = 1 << 20;
    if spec.limits.memory_per_peer.0 < smallest {
        let problem = format!("{} is too small", spec.limits.memory_per_peer);
        loader.error_at(
            &source,
            "spec.limits.memoryPerPeer",
            ErrorCode::OutOfRange,
            problem,
            "give at least 1Mi",
        );
    }
}

/// TCP listeners of one process must not share an address.
fn listeners(loader: &mut Loader, source: &Source, cluster: &Cluster) {
    let spec = &cluster.spec;
    let all = [
        ("spec.dns.listen", spec.dns.listen),
        ("spec.socks", spec.socks),
        ("spec.admin", spec.admin),
    ];
    for (i, (path, listener)) in all.iter().enumerate() {
        let Some(address) = listener.address().filter(|a| a.port() != 0) else {
            continue;
        };
        let clash = all
            .iter()
            .take(i)
            .find(|(_, other)| other.address() == Some(address));
        if let Some((other, _)) = clash {
            let problem = format!("{address} is the address of {other} too");
            loader.error_at(
                source,
                path,
                ErrorCode::ListenerClash,
                problem,
                "give each listener its own port, or off",
            );
        }
    }
    for (i, upstream) in spec.dns.upstreams.iter().enumerate() {
        let path = format!("spec.dns.upstreams[{i}]");
        if spec.dns.listen.address() == Some(*upstream) {
            let problem = format!("{upstream} is this name server itself");
            loader.error_at(
                source,
                &path,
                ErrorCode::UpstreamLoop,
                problem,
                "name another name server",
            );
        } else if upstream.port() == 0 || upstream.ip().is_unspecified() {
            let problem = format!("{upstream} cannot be asked");
            loader.error_at(
                source,
                &path,
                ErrorCode::BadAddress,
                problem,
                "write ip:port, such as 10.0.0.10:53",
            );
        }
    }
}
