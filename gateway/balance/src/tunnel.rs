//! Which tunnel to a peer carries a new stream.
//!
//! Owns power-of-two-choices over streams in flight. Two random looks avoid both the herd of "always the least loaded" and the blind
//! spots of round robin.

use std::time::Duration;

/// One tunnel as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelView {
    /// Streams alive on it.
    pub in_flight: u32,
    /// Smoothed round trip: the tie-break.
    pub rtt: Duration,
    /// It lives on the asking worker: using another's costs a cross-thread wake per chunk.
    pub same_worker: bool,
    /// Opens wait for a free stream there.
    pub saturated: bool,
}

/// Picks one of `tunnels` (only usable and untried ones are passed in); returns its position. A tunnel of the asking worker
/// comes first as long as it has a free stream; a saturated one is the last resort.
#[must_use]
pub fn pick_tunnel(tunnels: &[TunnelView], rng: &mut fastrand::Rng) -> Option<usize> {
    let class = |t: &TunnelView| (t.saturated, !t.same_worker);
    let best = tunnels.iter().map(class).min()?;
    let within = || tunnels.iter().enumerate().filter(|(_, t)| class(t) == best);
    let count = within().count();
    let (a, b) = two_of(count, rng);
    let first = within().nth(a)?;
    let second = within().nth(b)?;
    let load = |(_, t): &(usize, &TunnelView)| (t.in_flight, t.rtt);
    Some(if load(&second) < load(&first) {
        second.0
    } else {
        first.0
    })
}

/// Two different random positions below `count`, the same one twice when there is only one. `count` must not be 0.
pub(crate) fn two_of(count: usize, rng: &mut fastrand::Rng) -> (usize, usize) {
    if count < 2 {
        return (0, 0);
    }
    let a = rng.usize(..count);
    let b = rng.usize(..count - 1);
    (a, if b >= a { b + 1 } else { b })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(in_flight: u32, rtt: u64, same_worker: bool, saturated: bool) -> TunnelView {
        TunnelView {
            in_flight,
            rtt: Duration::from_millis(rtt),
            same_worker,
            saturated,
        }
    }

    fn views() -> impl Strategy<Value = Vec<TunnelView>> {
        prop::collection::vec(
            (0u32..5, 0u64..5, any::<bool>(), any::<bool>()).prop_map(|(i, r, w, s)| view(i, r, w, s)),
            1..8,
        )
    }

    #[test]
    fn of_two_the_less_loaded_wins_and_rtt_breaks_ties() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..50 {
            assert_eq!(
                pick_tunnel(&[view(3, 1, true, false), view(2, 9, true, false)], &mut rng),
                Some(1)
            );
            assert_eq!(
                pick_tunnel(&[view(2, 1, true, false), view(2, 9, true, false)], &mut rng),
                Some(0)
            );
        }
        assert_eq!(pick_tunnel(&[], &mut rng), None);
    }

    proptest! {
        #[test]
        fn own_worker_first_saturated_last_never_the_worst_of_its_class(tunnels in views(), seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let picked = pick_tunnel(&tunnels, &mut rng).unwrap();
            let class = |t: &TunnelView| (t.saturated, !t.same_worker);
            let best = tunnels.iter().map(class).min().unwrap();
            prop_assert_eq!(class(&tunnels[picked]), best);
            let peers: Vec<_> = tunnels.iter().filter(|t| class(t) == best).collect();
            let load = |t: &TunnelView| (t.in_flight, t.rtt);
            if peers.len() > 1 {
                let worst = peers.iter().map(|t| load(t)).max().unwrap();
                let worst_is_unique = peers.iter().filter(|t| load(t) == worst).count() == 1;
                prop_assert!(!worst_is_unique || load(&tunnels[picked]) < worst);
            }
        }

        #[test]
        fn two_of_are_different_and_in_range(count in 2usize..50, seed: u64) {
            let (a, b) = two_of(count, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(a != b && a < count && b < count);
        }
    }
}
