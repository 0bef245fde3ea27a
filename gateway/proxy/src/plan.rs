//! Which way the next try of a stream goes.
//!
//! Owns the walk over candidate clusters and their gateways: after silence another instance of the same cluster once, then the next
//! cluster; after a refusal for want of service the next cluster at once. No tunnel is tried twice. Pure: the shell passes in what is
//! usable now.

/// Why the last try is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// It is silent, lost, or its gateway is going away: the gateway is in question, not the cluster.
    Gateway,
    /// It was refused for want of an endpoint or service: the other gateways of the cluster would say the same.
    Cluster,
}

/// One way to go, from the lists that were passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The local endpoints of candidate `cluster`.
    Local {
        /// Position of the candidate.
        cluster: usize,
    },
    /// One of these tunnels of candidate `cluster`: those at `instance`, or any when it is `None`.
    Tunnel {
        /// Position of the candidate.
        cluster: usize,
        /// Only instances that were not tried.
        fresh_instance: bool,
    },
}

/// What a candidate cluster has to offer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is ours.
    Local,
    /// Usable tunnels that were not tried.
    Tunnels {
        /// Any at all.
        any: bool,
        /// Some lead to an instance that was not tried.
        fresh_instance: bool,
    },
}

/// The memory of one stream's tries.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Tries so far at each candidate.
    tries: Vec<u8>,
    current: usize,
}

/// Tries at one cluster before the next one, while gateways are in question: three tries over two clusters must reach the second.
const PER_CLUSTER: u8 = 2;

impl Plan {
    pub(crate) fn new(candidates: usize) -> Self {
        Self {
            tries: vec![0; candidates],
            current: 0,
        }
    }

    /// The next way, `None` when nothing is left. `last` is `None` for the first try.
    pub(crate) fn next(&mut self, last: Option<Last>, offer: impl Fn(usize) -> Offer) -> Option<Way> {
        let stays = last == Some(Last::Gateway)
            && self.tries.get(self.current).is_some_and(|n| *n < PER_CLUSTER)
            && matches!(
                offer(self.current),
                Offer::Tunnels {
                    fresh_instance: true,
                    ..
                }
            );
        let order = stays.then_some(self.current).into_iter();
        let untried = (0..self.tries.len()).filter(|i| self.tries[*i] == 0);
        // Nobody is left that was not asked: a tried cluster by another tunnel, unless it said no for all its gateways.
        let again = (0..self.tries.len()).filter(|_| last == Some(Last::Gateway));
        let (cluster, way) = order
            .chain(untried)
            .chain(again)
            .find_map(|i| Some((i, way(i, self.tries[i], offer(i))?)))?;
        self.tries[cluster] = self.tries[cluster].saturating_add(1);
        self.current = cluster;
        Some(way)
    }
}

const fn way(cluster: usize, tries: u8, offer: Offer) -> Option<Way> {
    match offer {
        // Our own endpoints do not become better by asking twice: the dial had its second try inside.
        Offer::Local if tries == 0 => Some(Way::Local { cluster }),
        Offer::Tunnels {
            any: true,
            fresh_instance,
        } => Some(Way::Tunnel {
            cluster,
            fresh_instance,
        }),
        Offer::Local | Offer::Tunnels { any: false, .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRESH: Offer = Offer::Tunnels {
        any: true,
        fresh_instance: true,
    };
    const USED: Offer = Offer::Tunnels {
        any: true,
        fresh_instance: false,
    };
    const NONE: Offer = Offer::Tunnels {
        any: false,
        fresh_instance: false,
    };

    fn cluster(way: Option<Way>) -> Option<usize> {
        match way? {
            Way::Local { cluster } | Way::Tunnel { cluster, .. } => Some(cluster),
        }
    }

    #[test]
    fn silence_asks_another_instance_once_and_then_the_next_cluster() {
        let mut plan = Plan::new(2);
        assert_eq!(cluster(plan.next(None, |_| FRESH)), Some(0));
        assert_eq!(cluster(plan.next(Some(Last::Gateway), |_| FRESH)), Some(0));
        assert_eq!(cluster(plan.next(Some(Last::Gateway), |_| FRESH)), Some(1));
    }

    #[test]
    fn two_tunnels_of_one_instance_are_one_gateway() {
        let mut plan = Plan::new(2);
        plan.next(None, |_| FRESH);
        assert_eq!(cluster(plan.next(Some(Last::Gateway), |_| USED)), Some(1));
    }

    #[test]
    fn a_cluster_that_has_nothing_is_left_at_once() {
        let mut plan = Plan::new(2);
        plan.next(None, |_| FRESH);
        assert_eq!(cluster(plan.next(Some(Last::Cluster), |_| FRESH)), Some(1));
        assert_eq!(plan.next(Some(Last::Cluster), |_| FRESH), None);
    }

    #[test]
    fn the_only_cluster_is_tried_by_another_tunnel() {
        let mut plan = Plan::new(1);
        plan.next(None, |_| FRESH);
        assert!(matches!(
            plan.next(Some(Last::Gateway), |_| USED),
            Some(Way::Tunnel {
                fresh_instance: false,
                ..
            })
        ));
        assert_eq!(plan.next(Some(Last::Gateway), |_| NONE), None);
    }

    #[test]
    fn local_endpoints_are_asked_once() {
        let mut plan = Plan::new(1);
        assert_eq!(plan.next(None, |_| Offer::Local), Some(Way::Local { cluster: 0 }));
        assert_eq!(plan.next(Some(Last::Gateway), |_| Offer::Local), None);
    }

    proptest! {
        /// With three tries every plan of two usable clusters reaches both.
        #[test]
        fn three_tries_reach_the_second_cluster(
            offers in prop::collection::vec(prop::sample::select(vec![FRESH, USED, Offer::Local]), 2..4),
            lasts in prop::collection::vec(prop::sample::select(vec![Last::Gateway, Last::Cluster]), 2),
        ) {
            let mut plan = Plan::new(offers.len());
            let mut seen = vec![cluster(plan.next(None, |i| offers[i]))];
            for last in lasts {
                seen.push(cluster(plan.next(Some(last), |i| offers[i])));
            }
            prop_assert!(seen.contains(&Some(0)) && seen.contains(&Some(1)), "{seen:?}");
        }
    }
}
