//! The cache keeps, forgets, and distrusts itself.

use strait_federation_api::{
    Uid,
    catalog::{ServiceKind, SessionAffinity},
};

use super::*;

fn offered(name: &str, ready: u32) -> Arc<OfferedService> {
    Arc::new(OfferedService {
        service: ServiceKey::parse("demo", name).unwrap(),
        uid: Uid::parse("u1").unwrap(),
        created: 5,
        kind: ServiceKind::ClusterSetIp,
        ports: Vec::new(),
        session_affinity: SessionAffinity::Unset,
        internal_traffic_policy: None,
        traffic_distribution: None,
        ip_families: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        ready,
        locality: None,
        members: Vec::new(),
        replayable_ports: Vec::new(),
    })
}

fn catalog(number: u64, services: &[(&str, u32)]) -> HeldCatalog {
    HeldCatalog {
        epoch: Epoch(3),
        version: Some(CatalogVersion {
            epoch: Epoch(3),
            number,
        }),
        catalog: services
            .iter()
            .map(|(name, ready)| offered(name, *ready))
            .map(|s| (s.service.clone(), s))
            .collect(),
    }
}

fn west() -> ClusterId {
    ClusterId::parse("west").unwrap()
}

fn sled_at(dir: &Path) -> SledCache {
    try_open(&cache_dir(dir)).unwrap()
}

#[test]
fn it_keeps_what_it_was_told_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cache = sled_at(dir.path());
    let wes = ClusterId::parse("wes").unwrap();
    cache.keep(&west(), &catalog(1, &[("a", 1), ("b", 1), ("c", 1)]));
    cache.keep(&west(), &catalog(2, &[("a", 1), ("b", 9), ("d", 1)]));
    cache.keep(&wes, &catalog(7, &[("z", 1)]));
    cache.flush();
    drop(cache);
    let opened = SledCache::open(dir.path());
    assert_eq!(opened.rebuilt, None);
    let found = opened.store.load();
    assert_eq!(found[&west()], catalog(2, &[("a", 1), ("b", 9), ("d", 1)]));
    assert_eq!(found[&wes], catalog(7, &[("z", 1)]));
    opened.store.keep(&west(), &catalog(3, &[("d", 2)]));
    assert_eq!(opened.store.load()[&west()], catalog(3, &[("d", 2)]));
    opened.store.forget(&west());
    assert_eq!(opened.store.load().keys().collect::<Vec<_>>(), [&wes]);
}

#[test]
fn an_entry_that_is_lost_or_altered_drops_that_peer_only() {
    let (a, b) = (
        entry_key(&west(), &ServiceKey::parse("demo", "a").unwrap()),
        meta_key(&west()),
    );
    let harms: &[&dyn Fn(&sled::Db)] = &[
        &|db| drop(db.remove(&a).unwrap()),
        &|db| drop(db.insert(&a, framed(&body(&offered("a", 77)))).unwrap()),
        &|db| drop(db.insert(&a, b"short".to_vec()).unwrap()),
        &|db| drop(db.insert(&b, framed(b"{}")).unwrap()),
        &|db| {
            drop(
                db.insert(
                    [prefix(&west()), b"demo/x".to_vec()].concat(),
                    framed(&body(&offered("x", 1))),
                )
                .unwrap(),
            )
        },
    ];
    for (i, harm) in harms.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let cache = sled_at(dir.path());
        let north = ClusterId::parse("north").unwrap();
        cache.keep(&west(), &catalog(1, &[("a", 1), ("b", 1)]));
        cache.keep(&north, &catalog(1, &[("c", 1)]));
        harm(&cache.db);
        assert_eq!(cache.load().keys().collect::<Vec<_>>(), [&north], "harm {i}");
        cache.keep(&west(), &catalog(4, &[("a", 2)]));
        assert_eq!(cache.load()[&west()], catalog(4, &[("a", 2)]), "harm {i}");
    }
}

#[test]
fn garbage_on_disk_starts_empty_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    sled_at(dir.path()).keep(&west(), &catalog(1, &[("a", 1)]));
    for entry in std::fs::read_dir(cache_dir(dir.path())).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(&path, vec![0xA5; 4096]).unwrap();
        }
    }
    let opened = SledCache::open(dir.path());
    assert!(opened.rebuilt.is_some() || opened.store.load().is_empty());
    opened.store.keep(&west(), &catalog(2, &[("b", 1)]));
    assert_eq!(opened.store.load()[&west()], catalog(2, &[("b", 1)]));
}

#[test]
fn a_path_that_cannot_be_a_directory_runs_without() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(cache_dir(dir.path()), "a file").unwrap();
    let opened = SledCache::open(dir.path());
    assert!(opened.rebuilt.is_some());
    opened.store.keep(&west(), &catalog(2, &[("b", 1)]));
    opened.store.flush();
}
