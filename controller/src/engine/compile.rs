//! From what is decided to the snapshot: addresses put in, unchanged entries kept.
//!
//! Owns the shape of the snapshot's entries and which addresses they want. Pure. Called by the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use strait_federation_api::{
    ClusterId, ServiceKey,
    catalog::{IpFamily, ServiceKind},
    snapshot::{BackendCluster, Import},
};

use crate::{
    merge::{MergedBackend, MergedImport},
    vip::{Owner, VipTable},
};

/// Imports by local name, before addresses.
pub(crate) type Merged = imbl::OrdMap<ServiceKey, Arc<MergedImport>>;

/// Every address the imports want: one a family for each import and for each cluster behind it, and one for each remote member.
pub(crate) fn wanted(imports: &Merged, own: &ClusterId, ranges: &[IpNet]) -> BTreeSet<(Owner, IpFamily)> {
    let mut wanted = BTreeSet::new();
    for (key, import) in imports {
        for backend in &import.backends {
            match import.kind {
                ServiceKind::ClusterSetIp => {
                    for family in served(import, ranges) {
                        wanted.insert((Owner::Service(key.clone()), family));
                        wanted.insert((
                            Owner::Cluster(key.clone(), name_of(&backend.cluster, own)),
                            family,
                        ));
                    }
                }
                ServiceKind::Headless => wanted.extend(members(key, backend, ranges)),
            }
        }
    }
    wanted
}

fn members<'a>(
    key: &'a ServiceKey,
    backend: &'a MergedBackend,
    ranges: &'a [IpNet],
) -> impl Iterator<Item = (Owner, IpFamily)> + 'a {
    backend.members.iter().filter_map(move |member| {
        let BackendCluster::Peer(peer) = &backend.cluster else {
            return None;
        };
        let owner = Owner::Member(key.clone(), peer.clone(), member.id.clone());
        Some((owner, member_family(member.ip, ranges)?))
    })
}

/// Families of an import that this cluster has addresses of, in the import's order.
pub(crate) fn served(import: &MergedImport, ranges: &[IpNet]) -> Vec<IpFamily> {
    let stated = if import.ip_families.is_empty() {
        &[IpFamily::V4][..]
    } else {
        &import.ip_families
    };
    stated
        .iter()
        .copied()
        .filter(|family| has(ranges, *family))
        .collect()
}

/// A remote member's own family where there is a range of it, else any: what answers there is this gateway.
fn member_family(ip: IpAddr, ranges: &[IpNet]) -> Option<IpFamily> {
    let own = IpFamily::of(ip);
    if has(ranges, own) {
        Some(own)
    } else {
        ranges.first().map(|range| IpFamily::of(range.addr()))
    }
}

fn has(ranges: &[IpNet], family: IpFamily) -> bool {
    ranges.iter().any(|range| IpFamily::of(range.addr()) == family)
}

fn name_of(cluster: &BackendCluster, own: &ClusterId) -> ClusterId {
    match cluster {
        BackendCluster::Local => own.clone(),
        BackendCluster::Peer(peer) => peer.clone(),
    }
}

/// The snapshot's imports, with addresses from the table.
pub(crate) fn imports(
    merged: &Merged,
    own: &ClusterId,
    ranges: &[IpNet],
    vips: &VipTable,
) -> BTreeMap<ServiceKey, Import> {
    let given = vips.by_owner();
    let address = |owner: Owner, family| given.get(&(owner, family)).copied();
    merged
        .iter()
        .map(|(key, import)| {
            let families = served(import, ranges);
            let addresses = |owner: &Owner| -> Vec<IpAddr> {
                if import.kind == ServiceKind::Headless {
                    return Vec::new();
                }
                families
                    .iter()
                    .filter_map(|family| address(owner.clone(), *family))
                    .collect()
            };
            let member =
                |peer: &ClusterId, _: &ServiceKey, member: &strait_federation_api::catalog::Member| {
                    let owner = Owner::Member(key.clone(), peer.clone(), member.id.clone());
                    address(owner, member_family(member.ip, ranges)?)
                };
            let of_cluster = |cluster: &BackendCluster, _: &ServiceKey| {
                addresses(&Owner::Cluster(key.clone(), name_of(cluster, own)))
            };
            (
                key.clone(),
                import.to_import(addresses(&Owner::Service(key.clone())), of_cluster, member),
            )
        })
        .collect()
}

/// The new map, with the entries of the old one wherever they are equal: a change costs what it changes.
pub(crate) fn carry_over<K: Ord + Clone, V: PartialEq>(
    old: &imbl::OrdMap<K, Arc<V>>,
    new: BTreeMap<K, V>,
) -> imbl::OrdMap<K, Arc<V>> {
    let mut map = old.clone();
    let gone: Vec<K> = old
        .keys()
        .filter(|key| !new.contains_key(*key))
        .cloned()
        .collect();
    for key in gone {
        map.remove(&key);
    }
    for (key, value) in new {
        if old.get(&key).is_none_or(|held| **held != value) {
            map.insert(key, Arc::new(value));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_entries_keep_their_place_in_memory() {
        let old: imbl::OrdMap<u8, Arc<&str>> = [(1, Arc::new("a")), (2, Arc::new("b")), (3, Arc::new("c"))]
            .into_iter()
            .collect();
        let new = carry_over(&old, BTreeMap::from([(1, "a"), (2, "x"), (4, "d")]));
        assert_eq!(
            new.iter().map(|(k, v)| (*k, **v)).collect::<Vec<_>>(),
            [(1, "a"), (2, "x"), (4, "d")]
        );
        assert!(Arc::ptr_eq(&old[&1], &new[&1]));
    }
}
