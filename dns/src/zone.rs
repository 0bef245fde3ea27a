//! The answer to one question, as a pure function.
//!
//! Owns Multicluster DNS 1.0.0 and the per-cluster zone: which names exist, what they hold, and the right negative answer. Never
//! does I/O, reads a clock or keeps state: the same question over the same snapshot and health gives the same answer. Called by
//! the message layer for every well-formed question.

use std::net::IpAddr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, HINFO, SOA, SRV, TXT},
    },
};
use strait_federation_api::snapshot::Snapshot;

use crate::{
    health::HealthView,
    shape::{self, Shape, Zone},
    view::{Node, Target, View},
};

/// Version of the schema both zones follow.
pub const SCHEMA_VERSION: &str = "1.0.0";
/// Seconds a positive answer may be kept: the standard's example value, short because members come and go.
pub const RECORD_TTL: u32 = 4;
/// Seconds a negative answer may be kept (RFC 2308): a client that asked too early must see a new import soon.
pub const NEGATIVE_TTL: u32 = 5;

/// Weight of every SRV record; the standard prescribes none.
const SRV_WEIGHT: u16 = 100;
/// Addresses of SRV targets sent along, at most: more would not fit a datagram anyway.
const ADDITIONALS_MAX: usize = 32;

/// A complete answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, or `ServFail` while there is no snapshot yet.
    pub code: ResponseCode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the SOA of a negative answer (RFC 2308).
    pub authorities: Vec<Record>,
    /// Additional section: addresses of SRV targets; may be left out when space is short.
    pub additionals: Vec<Record>,
}

/// Answers a question of class IN; `None` if its name lies outside both zones. `rotation` turns the order of several records, so
/// that clients which take the first spread their load.
#[must_use]
pub fn answer(query: &Query, snapshot: &Snapshot, health: &HealthView, rotation: u16) -> Option<Answer> {
    let (zone, shape) = shape::of(query.name())?;
    let known = matches!(shape, Shape::Apex | Shape::Services | Shape::Version);
    if snapshot.is_unset() && !known {
        return Some(Answer {
            code: ResponseCode::ServFail,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        });
    }
    let view = View { snapshot, health };
    let Some(node) = view.node(&shape) else {
        return Some(negative(zone, snapshot, ResponseCode::NXDomain));
    };
    let (mut answers, additionals) = records(query, zone, node, snapshot);
    if answers.is_empty() {
        return Some(negative(zone, snapshot, ResponseCode::NoError));
    }
    let turn = usize::from(rotation) % answers.len();
    answers.rotate_left(turn);
    Some(Answer {
        code: ResponseCode::NoError,
        answers,
        authorities: Vec::new(),
        additionals,
    })
}

fn negative(zone: Zone, snapshot: &Snapshot, code: ResponseCode) -> Answer {
    Answer {
        code,
        answers: Vec::new(),
        authorities: soa(zone, snapshot).into_iter().collect(),
        additionals: Vec::new(),
    }
}

/// The zone's SOA. `None` cannot happen for our two constant names, and an answer without SOA is still a valid one.
fn soa(zone: Zone, snapshot: &Snapshot) -> Option<Record> {
    let apex = fqdn(zone.name())?;
    let server = fqdn(&format!("ns.dns.{}", zone.name()))?;
    let mailbox = fqdn(&format!("hostmaster.{}", zone.name()))?;
    // Rises within an epoch and over epochs, as far as 32 bits go (RFC 1982 arithmetic wraps).
    let serial = (snapshot.epoch.0 << 16).wrapping_add(snapshot.version) & u64::from(u32::MAX);
    let serial = u32::try_from(serial).unwrap_or_default();
    let data = SOA::new(server, mailbox, serial, 7200, 1800, 86_400, NEGATIVE_TTL);
    Some(Record::from_rdata(apex, NEGATIVE_TTL, RData::SOA(data)))
}

fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The records of one type at a node, and the addresses of their targets.
fn records(query: &Query, zone: Zone, node: Node, snapshot: &Snapshot) -> (Vec<Record>, Vec<Record>) {
    let (owner, kind) = (query.name(), query.query_type());
    let own = |data: RData| Record::from_rdata(owner.clone(), RECORD_TTL, data);
    if kind == RecordType::ANY {
        // RFC 8482: one small synthesised record, so that ANY never amplifies.
        let data = HINFO::new("RFC8482".to_owned(), String::new());
        return (vec![own(RData::HINFO(data))], Vec::new());
    }
    match (node, kind) {
        (Node::Apex, RecordType::SOA) => (soa(zone, snapshot).into_iter().collect(), Vec::new()),
        (Node::Version, RecordType::TXT) => (
            vec![own(RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()])))],
            Vec::new(),
        ),
        (Node::Host { addresses, .. }, RecordType::A | RecordType::AAAA) => {
            let data = addresses
                .into_iter()
                .map(address)
                .filter(|d| d.record_type() == kind);
            (data.map(own).collect(), Vec::new())
        }
        (Node::Host { targets, .. } | Node::Port(targets), RecordType::SRV) => srv(owner, &targets),
        _ => (Vec::new(), Vec::new()),
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn srv(owner: &Name, targets: &[Target]) -> (Vec<Record>, Vec<Record>) {
    let (mut answers, mut additionals) = (Vec::with_capacity(targets.len()), Vec::new());
    for Target {
        host,
        port,
        addresses,
    } in targets
    {
        let Some(host) = fqdn(host) else { continue };
        for &ip in addresses {
            let record = Record::from_rdata(host.clone(), RECORD_TTL, address(ip));
            if !additionals.contains(&record) && additionals.len() < ADDITIONALS_MAX {
                additionals.push(record);
            }
        }
        // Equal shares (RFC 2782): every target of a set is as good as the other.
        let data = SRV::new(0, SRV_WEIGHT, *port, host);
        answers.push(Record::from_rdata(owner.clone(), RECORD_TTL, RData::SRV(data)));
    }
    (answers, additionals)
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
