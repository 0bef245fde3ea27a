//! Tests of the copy loop: half-close, reset, idle limits, buffers.

use proptest::prelude::*;

use super::*;

/// What stays in memory for each direction of each idle flow. Together with tasks, flow and QUIC state this keeps an idle proxied
/// connection far below 8 KiB.
const FUTURE_MAX: usize = 1024;

fn of3<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn of4<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn what_stays_for_an_idle_flow_is_small() {
    let (out, back, local) = (of4(tcp_to_stream), of4(stream_to_tcp), of3(tcp_to_tcp));
    assert!(
        out <= FUTURE_MAX && back <= FUTURE_MAX && local <= FUTURE_MAX,
        "{out} {back} {local}"
    );
    assert!(size_of::<Flow>() <= 512, "{}", size_of::<Flow>());
}

proptest! {
    #[test]
    fn pending_gives_out_what_it_took_in(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10),
        cut in 0usize..200,
    ) {
        let whole: Vec<u8> = chunks.concat();
        let mut pending = Pending::default();
        chunks.into_iter().for_each(|chunk| pending.push(chunk.into()));
        prop_assert_eq!(pending.len(), whole.len());
        prop_assert_eq!(pending.peek::<3>().map(|b| b.to_vec()), whole.get(..3).map(<[u8]>::to_vec));
        let first = pending.take(cut);
        prop_assert_eq!(&first, &whole[..cut.min(whole.len())]);
        prop_assert_eq!(pending.len(), whole.len() - first.len());
        prop_assert_eq!(pending.take(usize::MAX), whole[first.len()..].to_vec());
        prop_assert!(pending.is_empty());
    }
}
