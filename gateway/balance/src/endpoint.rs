//! Which endpoint of a local service a stream ends at.
//!
//! Owns power-of-two-choices over in-flight streams, rendezvous hashing for session affinity, and the panic rule. The receiving
//! gateway alone decides this: it knows its endpoints best.

use crate::{hash::unit, stable_hash, tunnel::two_of};

/// Below this percentage of usable endpoints not ejected, ejections are ignored: most endpoints failing at once says more about the
/// network or the check than about them, and loading the few left would bring those down too.
const PANIC_PERCENT: usize = 50;

/// One endpoint as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointView {
    /// [`stable_hash`] of its id, for affinity.
    pub id_hash: u64,
    /// Ready by its slice and healthy by its checks.
    pub usable: bool,
    /// Rests after failures.
    pub ejected: bool,
    /// This stream tried it already.
    pub tried: bool,
    /// Streams alive on it.
    pub in_flight: u32,
}

/// Picks one of `endpoints`; returns its position, `None` when none is usable and untried.
///
/// With `affinity` the same key meets the same endpoint as long as that one is usable (rendezvous hashing: losing an endpoint
/// moves only its own clients).
#[must_use]
pub fn pick_endpoint(
    endpoints: &[EndpointView],
    affinity: Option<u64>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let usable = endpoints.iter().filter(|e| e.usable).count();
    let resting = endpoints.iter().filter(|e| e.usable && e.ejected).count();
    let panic = (usable - resting) * 100 < usable * PANIC_PERCENT;
    let fits = |e: &EndpointView, rest_counts: bool| e.usable && !e.tried && !(rest_counts && e.ejected);
    pick(endpoints, |e| fits(e, !panic), affinity, rng)
        // All that are awake were tried: a resting one is better than a refusal.
        .or_else(|| pick(endpoints, |e| fits(e, false), affinity, rng))
}

fn pick(
    endpoints: &[EndpointView],
    fits: impl Fn(&EndpointView) -> bool,
    affinity: Option<u64>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let within = || endpoints.iter().enumerate().filter(|(_, e)| fits(e));
    if let Some(key) = affinity {
        let score = |e: &EndpointView| unit(stable_hash(key, &e.id_hash.to_be_bytes()));
        return within()
            .max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)))
            .map(|(i, _)| i);
    }
    let (a, b) = two_of(within().count(), rng);
    let (first, second) = (within().nth(a)?, within().nth(b)?);
    Some(if second.1.in_flight < first.1.in_flight {
        second.0
    } else {
        first.0
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(id: u64) -> EndpointView {
        EndpointView {
            id_hash: stable_hash(0, &id.to_be_bytes()),
            usable: true,
            ejected: false,
            tried: false,
            in_flight: 0,
        }
    }

    fn endpoints() -> impl Strategy<Value = Vec<EndpointView>> {
        prop::collection::vec((any::<[bool; 3]>(), 0u32..4), 0..8).prop_map(|list| {
            list.into_iter()
                .zip(0..)
                .map(|(([usable, ejected, tried], in_flight), id)| EndpointView {
                    usable,
                    ejected,
                    tried,
                    in_flight,
                    ..endpoint(id)
                })
                .collect()
        })
    }

    #[test]
    fn losing_an_endpoint_moves_only_its_own_clients() {
        let mut rng = fastrand::Rng::with_seed(7);
        let all: Vec<_> = (0..5).map(endpoint).collect();
        let mut fewer = all.clone();
        fewer[2].usable = false;
        let mut moved = 0;
        for key in 0..1000 {
            let before = pick_endpoint(&all, Some(key), &mut rng).unwrap();
            let after = pick_endpoint(&fewer, Some(key), &mut rng).unwrap();
            if before == 2 {
                moved += 1;
                assert_ne!(after, 2);
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(
            (120..280).contains(&moved),
            "a fifth of the clients, found {moved}"
        );
    }

    #[test]
    fn ejections_are_ignored_when_most_are_out() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut all: Vec<_> = (0..4).map(endpoint).collect();
        all[0].ejected = true;
        let picks = |all: &[EndpointView], rng: &mut fastrand::Rng| -> std::collections::BTreeSet<usize> {
            (0..200).filter_map(|_| pick_endpoint(all, None, rng)).collect()
        };
        assert_eq!(picks(&all, &mut rng), [1, 2, 3].into());
        all[1].ejected = true;
        all[2].ejected = true;
        assert_eq!(picks(&all, &mut rng), [0, 1, 2, 3].into());
    }

    proptest! {
        #[test]
        fn a_pick_is_usable_and_untried_and_exists_when_there_is_one(
            list in endpoints(), key: Option<u64>, seed: u64,
        ) {
            let picked = pick_endpoint(&list, key, &mut fastrand::Rng::with_seed(seed));
            let possible = list.iter().any(|e| e.usable && !e.tried);
            prop_assert_eq!(picked.is_some(), possible);
            if let Some(i) = picked {
                prop_assert!(list[i].usable && !list[i].tried);
                let awake = list.iter().any(|e| e.usable && !e.tried && !e.ejected);
                let (usable, out) = (
                    list.iter().filter(|e| e.usable).count(),
                    list.iter().filter(|e| e.usable && e.ejected).count(),
                );
                if awake && (usable - out) * 2 >= usable {
                    prop_assert!(!list[i].ejected);
                }
            }
        }
    }
}
