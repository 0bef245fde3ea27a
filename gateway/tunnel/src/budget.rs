//! How much one peer may make us hold for it.
//!
//! Owns the receive window of each data connection, as a pure function of what the peer's other connections hold. A peer fills its windows
//! at will: bytes behind a gap are kept by QUIC and never reach a reader, so nothing above sees them. Called at admission.
//!
//! A window never changes once given. QUIC takes no credit back: a window that shrinks only delays the next credit, and one that
//! grows again hands the difference out a second time, so a peer that opens and closes connections would pump its credit up.

/// Received and unread bytes that all data connections of one peer may hold. Twenty peers gone bad at once fit in 8 GiB; the half
/// above the floors gives the usual handful of connections gigabits over a long path.
const PEER_BYTES: u64 = 384 << 20;
/// Least window of a data connection, bytes: two full streams, so that one stalled reader does not stop the others. 800 Mbit/s
/// at 80 ms.
const FLOOR: u32 = 2 * crate::transport::STREAM_RECEIVE_WINDOW;
/// Data connections of one peer, above which none is accepted: each has its floor within the budget, with a third of it to
/// spare. Room for 4 gateways with 4 workers and their successors during a renewal.
pub(crate) const MAX_DATA: usize = 32;
/// A new connection takes this share of what is to spare: first ones are wide, and something is left for later ones.
const SPARE_SHARE: u64 = 4;

const _: () = assert!(FLOOR as u64 * MAX_DATA as u64 <= PEER_BYTES);

/// The window of a new data connection, bytes, of a peer whose `live` others were given `held` bytes in all.
///
/// With at most [`MAX_DATA`] connections the sum stays within the budget, in whatever order they come and go: the floors of all
/// that may still come are set aside first.
pub(crate) fn window(live: usize, held: u64) -> u32 {
    let to_come = MAX_DATA.saturating_sub(live).max(1);
    let floors = u64::try_from(to_come)
        .unwrap_or(u64::MAX)
        .saturating_mul(FLOOR.into());
    let spare = PEER_BYTES.saturating_sub(held.saturating_add(floors));
    u32::try_from(spare / SPARE_SHARE).map_or(FLOOR, |more| FLOOR.saturating_add(more))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_connections_are_wide_and_later_ones_narrower() {
        assert_eq!(window(0, 0), 40 << 20);
        assert_eq!(window(1, 40 << 20), 32 << 20);
        let mut held = Vec::new();
        for live in 0..MAX_DATA {
            held.push(u64::from(window(live, held.iter().sum())));
        }
        assert!(held.is_sorted_by(|a, b| a >= b));
        assert!(held.iter().sum::<u64>() <= PEER_BYTES);
    }

    #[test]
    fn what_we_dial_beyond_the_cap_has_the_floor() {
        assert_eq!(window(MAX_DATA, PEER_BYTES), FLOOR);
        assert_eq!(window(usize::MAX, u64::MAX), FLOOR);
    }

    proptest! {
        /// `Some(n)` closes the n-th, `None` opens one.
        #[test]
        fn the_budget_holds_in_whatever_order_they_come_and_go(
            steps in proptest::collection::vec(proptest::option::of(0usize..MAX_DATA), 1..400),
        ) {
            let mut held: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Some(n) if n < held.len() => { held.swap_remove(n); }
                    None if held.len() < MAX_DATA => {
                        let given = window(held.len(), held.iter().sum());
                        prop_assert!(given >= FLOOR);
                        held.push(given.into());
                    }
                    Some(_) | None => {}
                }
                prop_assert!(held.iter().sum::<u64>() <= PEER_BYTES);
            }
        }
    }
}
