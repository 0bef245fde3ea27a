//! The virtual addresses of imports, decided purely.
//!
//! Owns who has which address: one that is given stays for the import's life and rests after it, so that a client with an old
//! answer never reaches another service. Never touches an interface. The engine keeps the value as a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_federation_api::{
    ClusterId, ServiceKey,
    catalog::{EndpointId, IpFamily},
};

use crate::records::Record;

/// Seconds a released address is kept for its old owner: as long as a lost peer's entries live, so that a peer that is away for a
/// day comes back to the same addresses.
pub const KEEP_SECONDS: u64 = 24 * 3600;
/// Seconds a released address rests before another may have it when the range is short: sixty times the DNS answers' lifetime.
pub const REST_SECONDS: u64 = 300;
/// Addresses looked at in one range, at most: a larger range only spreads them.
const PROBE_MAX: u128 = 1 << 24;

/// What has an address of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// An import as a whole.
    Service(ServiceKey),
    /// One cluster's part of an import, for its per-cluster name.
    Cluster(ServiceKey, ClusterId),
    /// One member of a headless import at a peer.
    Member(ServiceKey, ClusterId, EndpointId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "{service}"),
            Self::Cluster(service, cluster) => write!(f, "{service} at {cluster}"),
            Self::Member(service, cluster, member) => write!(f, "{service} member {} at {cluster}", member.0),
        }
    }
}

/// Addresses of a network that may be given: its first and last are left out, since v4 networks reserve them.
fn usable(range: &IpNet) -> u128 {
    size(range).saturating_sub(2)
}

fn holds(range: &IpNet, ip: IpAddr) -> bool {
    IpFamily::of(ip) == IpFamily::of(range.addr())
        && to_bits(ip)
            .checked_sub(first(range))
            .is_some_and(|offset| offset < usable(range))
}

fn size(range: &IpNet) -> u128 {
    1_u128
        .checked_shl(u32::from(range.max_prefix_len() - range.prefix_len()))
        .unwrap_or(u128::MAX)
}

fn first(range: &IpNet) -> u128 {
    to_bits(range.network()) + 1
}

/// The address at `offset`, which is below [`usable`].
fn at(range: &IpNet, offset: u128) -> IpAddr {
    let bits = first(range) + offset;
    match range {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "base and offset of a v4 range lie below 2^32"
        )]
        IpNet::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    owner: Owner,
    /// Unix seconds; `None` while in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<u64>,
}

/// Every address given, and to whom. A record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipTable {
    given: BTreeMap<IpAddr, Given>,
}

impl Record for VipTable {
    const KIND: &'static str = "vips";
    const SCHEMA: u32 = 1;
}

/// What [`VipTable::settle`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The table changed and must be saved before anyone learns an address from it.
    pub changed: bool,
    /// Owners for which no address was left.
    pub exhausted: BTreeSet<(Owner, IpFamily)>,
}

impl VipTable {
    /// Gives every wanted owner its address, releases the others', and forgets what rested long enough. A wanted family without a
    /// range is skipped: nothing is exhausted, that family is just not served.
    pub fn settle(&mut self, wanted: &BTreeSet<(Owner, IpFamily)>, ranges: &[IpNet], now: u64) -> Settled {
        let before = self.clone();
        self.release(wanted, ranges, now);
        let held: BTreeSet<_> = self.in_use().collect();
        let mut exhausted = BTreeSet::new();
        for key in wanted.difference(&held) {
            let mut fitting = ranges
                .iter()
                .filter(|range| IpFamily::of(range.addr()) == key.1)
                .peekable();
            if fitting.peek().is_none() {
                continue;
            }
            match fitting.find_map(|range| self.find(&key.0, range, now)) {
                Some(ip) => {
                    let owner = key.0.clone();
                    self.given.insert(
                        ip,
                        Given {
                            owner,
                            released: None,
                        },
                    );
                }
                None => {
                    exhausted.insert(key.clone());
                }
            }
        }
        Settled {
            changed: *self != before,
            exhausted,
        }
    }

    /// The address of an owner.
    #[must_use]
    pub fn get(&self, owner: &Owner, family: IpFamily) -> Option<IpAddr> {
        let mine = |(ip, given): (&IpAddr, &Given)| {
            (given.released.is_none() && given.owner == *owner && IpFamily::of(*ip) == family).then_some(*ip)
        };
        self.given.iter().find_map(mine)
    }

    /// Every owner with its addresses.
    #[must_use]
    pub fn by_owner(&self) -> BTreeMap<(Owner, IpFamily), IpAddr> {
        let live = self.given.iter().filter(|(_, given)| given.released.is_none());
        live.map(|(ip, given)| ((given.owner.clone(), IpFamily::of(*ip)), *ip))
            .collect()
    }

    fn in_use(&self) -> impl Iterator<Item = (Owner, IpFamily)> + '_ {
        let live = self.given.iter().filter(|(_, given)| given.released.is_none());
        live.map(|(ip, given)| (given.owner.clone(), IpFamily::of(*ip)))
    }

    fn release(&mut self, wanted: &BTreeSet<(Owner, IpFamily)>, ranges: &[IpNet], now: u64) {
        self.given.retain(|ip, given| {
            if !ranges.iter().any(|range| holds(range, *ip)) {
                return false;
            }
            let is_wanted = wanted.contains(&(given.owner.clone(), IpFamily::of(*ip)));
            match given.released {
                None if !is_wanted => given.released = Some(now),
                Some(at) if now >= at.saturating_add(KEEP_SECONDS) && !is_wanted => return false,
                _ => {}
            }
            true
        });
        self.take_back(wanted);
    }

    /// An owner that returns has its old address again.
    fn take_back(&mut self, wanted: &BTreeSet<(Owner, IpFamily)>) {
        let mut held: BTreeSet<_> = self.in_use().collect();
        for (ip, given) in &mut self.given {
            let key = (given.owner.clone(), IpFamily::of(*ip));
            if given.released.is_some() && wanted.contains(&key) && held.insert(key) {
                given.released = None;
            }
        }
    }

    /// A free address: from the owner's hash onwards, so that two clusters and a lost record tend to agree; else the one that has
    /// rested longest.
    fn find(&self, owner: &Owner, range: &IpNet, now: u64) -> Option<IpAddr> {
        let span = usable(range);
        let start = hash(owner) % span;
        let fresh = (0..span.min(PROBE_MAX))
            .map(|step| at(range, (start + step) % span))
            .find(|ip| !self.given.contains_key(ip));
        fresh.or_else(|| {
            let rested = |(ip, given): (&IpAddr, &Given)| {
                let at = given
                    .released
                    .filter(|at| now >= at.saturating_add(REST_SECONDS))?;
                holds(range, *ip).then_some((at, *ip))
            };
            self.given.iter().filter_map(rested).min().map(|(_, ip)| ip)
        })
    }
}

fn hash(owner: &Owner) -> u128 {
    let sum = digest(&SHA256, owner.to_string().as_bytes());
    sum.as_ref()
        .iter()
        .take(8)
        .fold(0, |value, byte| (value << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn service(n: u32) -> (Owner, IpFamily) {
        (
            Owner::Service(ServiceKey::parse("demo", &format!("s{n}")).unwrap()),
            IpFamily::V4,
        )
    }

    fn wanted(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<(Owner, IpFamily)> {
        numbers.into_iter().map(service).collect()
    }

    fn ip_of(table: &VipTable, n: u32) -> Option<IpAddr> {
        table.get(&service(n).0, IpFamily::V4)
    }

    #[test]
    fn the_ends_of_a_range_are_never_given() {
        let small = range("10.0.0.0/30");
        let given: Vec<bool> = (0..4)
            .map(|n| holds(&small, format!("10.0.0.{n}").parse().unwrap()))
            .collect();
        assert_eq!(given, [false, true, true, false]);
        assert!(usable(&range("::/0")) > 1 << 100);
        assert!(holds(&range("fd00::/64"), "fd00::1".parse().unwrap()));
        assert!(!holds(&range("fd00::/64"), "10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_returning_service_has_its_address_again() {
        let ranges = [range("127.64.0.0/16")];
        let mut table = VipTable::default();
        table.settle(&wanted([1, 2]), &ranges, 0);
        let ip = ip_of(&table, 1).unwrap();
        assert!(table.settle(&wanted([2]), &ranges, 10).changed);
        assert_eq!(ip_of(&table, 1), None);
        table.settle(&wanted([1, 2]), &ranges, 10 + KEEP_SECONDS - 1);
        assert_eq!(ip_of(&table, 1), Some(ip));
        assert!(
            !table
                .settle(&wanted([1, 2]), &ranges, 10 + 9 * KEEP_SECONDS)
                .changed
        );
    }

    #[test]
    fn a_short_range_reuses_only_what_has_rested_and_says_when_it_is_out() {
        let ranges = [range("10.0.0.0/30")];
        let mut table = VipTable::default();
        let settled = table.settle(&wanted([1, 2, 3]), &ranges, 0);
        assert_eq!(settled.exhausted.len(), 1);
        let lost = settled.exhausted.first().unwrap().clone();
        let others: BTreeSet<_> = wanted([1, 2, 3]).into_iter().filter(|key| *key != lost).collect();
        let kept = others.first().unwrap().clone();
        let now: BTreeSet<_> = [kept, lost.clone()].into();
        assert_eq!(
            table.settle(&now, &ranges, 100).exhausted.len(),
            1,
            "the address must rest"
        );
        assert!(
            table
                .settle(&now, &ranges, 100 + REST_SECONDS)
                .exhausted
                .is_empty()
        );
        assert!(table.get(&lost.0, lost.1).is_some());
    }

    #[test]
    fn a_family_without_a_range_is_not_exhausted() {
        let mut table = VipTable::default();
        let v6 = (service(1).0, IpFamily::V6);
        let settled = table.settle(&[v6].into(), &[range("127.64.0.0/16")], 0);
        assert_eq!(settled, Settled::default());
    }

    #[test]
    fn a_changed_range_moves_only_what_lies_outside() {
        let mut table = VipTable::default();
        let both = [range("10.1.0.0/24"), range("10.2.0.0/24")];
        table.settle(&wanted(0..10), &both[..1], 0);
        let before = table.by_owner();
        assert!(!table.settle(&wanted(0..10), &both, 1).changed);
        assert_eq!(table.by_owner(), before);
        table.settle(&wanted(0..10), &both[1..], 2);
        assert!(table.by_owner().values().all(|ip| holds(&both[1], *ip)));
        assert_eq!(table.by_owner().len(), 10);
    }

    proptest! {
        /// Whatever comes and goes: addresses are unique, in range, and never move while their owner stays.
        #[test]
        fn addresses_are_unique_and_stable(steps in prop::collection::vec((prop::collection::btree_set(0_u32..24, 0..16), 0_u64..2000), 1..20)) {
            let ranges = [range("10.0.0.0/28")];
            let mut table = VipTable::default();
            let mut now = 0;
            let mut before: BTreeMap<(Owner, IpFamily), IpAddr> = BTreeMap::new();
            for (numbers, pause) in steps {
                now += pause;
                let wanted = wanted(numbers);
                let settled = table.settle(&wanted, &ranges, now);
                let present = table.by_owner();
                let unique: BTreeSet<_> = present.values().collect();
                prop_assert_eq!(unique.len(), present.len());
                prop_assert!(present.values().all(|ip| holds(&ranges[0], *ip)));
                prop_assert_eq!(present.len() + settled.exhausted.len(), wanted.len());
                for (key, ip) in &present {
                    prop_assert!(before.get(key).is_none_or(|was| was == ip));
                }
                let json = serde_json::to_string(&table).unwrap();
                prop_assert_eq!(&serde_json::from_str::<VipTable>(&json).unwrap(), &table);
                before = present;
            }
        }
    }
}
