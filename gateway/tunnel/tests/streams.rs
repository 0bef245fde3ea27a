//! Streams over real tunnels: both ways, ends and resets, bulk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Options, PATIENCE, eventually, pair, read_all, round_trip};
use parking_lot::Mutex;
use strait_federation_api::Reason;
use strait_tunnel::{OpenError, RecvHalf, SendHalf, StreamError};
use tokio::time::timeout;

fn options() -> Options {
    Options::default()
}

#[tokio::test]
async fn streams_open_both_ways_over_one_dialled_connection() {
    let (east, west) = pair(options(), options()).await;
    let out = east.tunnel(&west.id()).await;
    let back = west.tunnel(&east.id()).await;
    assert!(out.dialled() && !back.dialled());
    assert_eq!(round_trip(&out, b"from the dialler").await, b"from the dialler");
    assert_eq!(
        round_trip(&back, b"from the other side").await,
        b"from the other side"
    );
    assert_eq!(out.peer().instance.as_str(), "gw-0");
    assert_eq!(out.peer().cluster, west.id());
    eventually("streams to be counted down", || {
        (out.in_flight() == 0).then_some(())
    })
    .await;
}

/// What the accepting side saw of one stream, given to the test.
type Seen = Arc<Mutex<Option<Result<Vec<u8>, StreamError>>>>;

fn watching(seen: &Seen) -> Options {
    let seen = Arc::clone(seen);
    Options {
        on_stream: Arc::new(move |_, mut send, mut recv| {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let result = read_all(&mut recv).await;
                *seen.lock() = Some(result);
                let _ = send.finish();
            });
        }),
        ..options()
    }
}

/// Opens a stream, writes, ends it by `end`, and gives what the other side saw.
async fn ended_by(end: impl FnOnce(SendHalf, RecvHalf)) -> Result<Vec<u8>, StreamError> {
    let seen = Seen::default();
    let (east, west) = pair(options(), watching(&seen)).await;
    let (mut send, recv) = east.tunnel(&west.id()).await.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"payload")).await.unwrap();
    end(send, recv);
    eventually("the other side to see the end", || seen.lock().take()).await
}

#[tokio::test]
async fn only_finish_is_a_clean_end() {
    let finished = ended_by(|mut send, recv| {
        send.finish().unwrap();
        // Reading on keeps the stream from being stopped.
        std::mem::forget(recv);
    });
    assert_eq!(finished.await, Ok(b"payload".to_vec()));
    let reset = ended_by(|mut send, _recv| send.reset(Reason::ConnectFailed))
        .await
        .unwrap_err();
    assert_eq!(reset.reason(), Reason::ConnectFailed);
    let dropped = ended_by(|send, _recv| drop(send)).await.unwrap_err();
    assert_eq!(
        dropped,
        StreamError::Reset {
            reason: Some(Reason::PeerReset),
            code: u64::from(Reason::PeerReset.code())
        }
    );
}

#[tokio::test]
async fn a_cancelled_task_is_a_reset_and_never_a_short_clean_stream() {
    let error = ended_by(|send, recv| {
        let task = tokio::spawn(async move {
            let _halves = (send, recv);
            std::future::pending::<()>().await;
        });
        task.abort();
    })
    .await
    .unwrap_err();
    assert!(matches!(error, StreamError::Reset { .. }), "{error:?}");
}

#[tokio::test]
async fn stopping_carries_its_reason_to_the_sender() {
    let stopping = Options {
        on_stream: Arc::new(|_, _send, mut recv| recv.stop(Reason::Denied)),
        ..options()
    };
    let (east, west) = pair(options(), stopping).await;
    let (mut send, _recv) = east.tunnel(&west.id()).await.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        timeout(PATIENCE, send.stopped()).await.unwrap(),
        Some(Reason::Denied)
    );
    let error = send.write_chunk(Bytes::from_static(b"y")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Denied);
}

#[tokio::test]
async fn a_finished_stream_reports_that_all_was_taken() {
    let (east, west) = pair(options(), options()).await;
    let (mut send, mut recv) = east.tunnel(&west.id()).await.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"all of it")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(send.finish(), Err(StreamError::Closed));
    assert_eq!(timeout(PATIENCE, send.stopped()).await.unwrap(), None);
    assert_eq!(read_all(&mut recv).await.unwrap(), b"all of it");
}

/// Bytes that tell when they are out of place.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at / 251 + at * 7) as u8).collect()
}

async fn transfer(coalesce: bool, length: usize) {
    let options = || Options {
        coalesce,
        ..options()
    };
    let (east, west) = pair(options(), options()).await;
    let tunnel = east.tunnel(&west.id()).await;
    let (mut send, mut recv) = tunnel.open().await.unwrap();
    let payload = pattern(length);
    let sent = payload.clone();
    let sending = tokio::spawn(async move {
        for at in (0..sent.len()).step_by(64 << 10) {
            send.write_chunk(sent.slice(at..sent.len().min(at + (64 << 10))))
                .await
                .unwrap();
        }
        send.finish().unwrap();
        send
    });
    let back = timeout(10 * PATIENCE, read_all(&mut recv))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(back.len(), payload.len());
    assert!(back == payload, "bytes were altered on the way");
    sending.await.unwrap();
    let offload = east.hub.status().0.iter().all(|socket| socket.gso_segments > 1);
    if offload {
        assert_eq!(
            east.hub.batches() > 0,
            coalesce,
            "batched sends: {}",
            east.hub.batches()
        );
    }
}

#[tokio::test]
async fn transfers_are_byte_identical_with_coalesced_sends() {
    transfer(true, 64 << 10).await;
    transfer(true, 64 << 20).await;
}

#[tokio::test]
async fn transfers_are_byte_identical_with_plain_sends() {
    transfer(false, 64 << 10).await;
    transfer(false, 16 << 20).await;
}

/// Proxy keeps its scratch array per thread, so quinn's read future is built anew at every poll and must keep nothing.
#[tokio::test]
async fn a_read_that_is_rebuilt_at_every_poll_loses_nothing() {
    let (east, west) = pair(options(), options()).await;
    let (mut send, mut recv) = east.tunnel(&west.id()).await.open().await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..50u8 {
            send.write_chunk(Bytes::from(vec![number; 100])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        send.finish().unwrap();
        send
    });
    let (mut all, mut pending) = (Vec::new(), 0);
    loop {
        let read = std::future::poll_fn(|cx| {
            let mut chunks: [Bytes; 4] = Default::default();
            let polled = recv.poll_read_chunks(cx, &mut chunks);
            pending += u32::from(polled.is_pending());
            polled.map_ok(|count| count.map(|count| chunks[..count].concat()))
        });
        match timeout(PATIENCE, read).await.unwrap().unwrap() {
            Some(bytes) => all.extend(bytes),
            None => break,
        }
    }
    let expected: Vec<u8> = (0..50u8).flat_map(|number| [number; 100]).collect();
    assert_eq!(all, expected);
    assert!(pending > 0, "no poll had to wait, so nothing was shown");
    writing.await.unwrap();
}

#[tokio::test]
async fn many_streams_at_once_keep_their_bytes_apart() {
    let (east, west) = pair(options(), options()).await;
    let tunnel = east.tunnel(&west.id()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300usize {
        let tunnel = Arc::clone(&tunnel);
        tasks.spawn(async move {
            let payload = pattern(1000 + number * 17);
            assert!(round_trip(&tunnel, &payload).await == payload, "stream {number}");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn opening_at_the_limit_fails_in_time_and_says_how_many_wait() {
    let hold = Options {
        on_stream: Arc::new(|_, mut send, recv| {
            tokio::spawn(async move {
                let _recv = recv;
                send.stopped().await;
            });
        }),
        ..options()
    };
    let (east, west) = pair(options(), hold).await;
    let tunnel = east.tunnel(&west.id()).await;
    let mut held = Vec::new();
    let error = loop {
        match timeout(PATIENCE, tunnel.open())
            .await
            .expect("never waits for ever")
        {
            Ok((mut send, recv)) => {
                send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
                held.push((send, recv));
            }
            Err(error) => break error,
        }
        assert!(held.len() <= 1024);
    };
    assert_eq!(error, OpenError::Exhausted { waiting: 0 });
    assert_eq!(held.len(), 1024);
    // Places that come free are used; quinn gives credit back an eighth of the limit at a time.
    held.truncate(500);
    let start = Instant::now();
    while tunnel.open().await.is_err() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
