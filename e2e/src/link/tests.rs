//! The link does what it says, and a seed decides alike twice.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::*;
use crate::apps::{self, App};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough that what is on the way on a clean loopback path has arrived.
const SETTLE: Duration = Duration::from_millis(300);

/// Answers each datagram with the source port it came from.
async fn mirror() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let mut answer = from.port().to_be_bytes().to_vec();
            answer.extend(&buffer[..length]);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

async fn client(link: &Link) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(link.address()).await.unwrap();
    socket
}

/// The port the target saw, and the number sent; `None` if nothing comes in time.
async fn receive(socket: &UdpSocket, patience: Duration) -> Option<(u16, u8)> {
    let mut buffer = [0; 2048];
    let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?.ok()?;
    assert!(length >= 3);
    Some((u16::from_be_bytes([buffer[0], buffer[1]]), buffer[2]))
}

/// Which of 200 datagrams come back.
async fn survivors(seed: u64) -> Vec<u8> {
    let link = Link::start(
        mirror().await,
        Conditions {
            loss: 0.3,
            ..Conditions::default()
        },
        seed,
    )
    .await
    .unwrap();
    let socket = client(&link).await;
    let mut back = Vec::new();
    for n in 0..200 {
        socket.send(&[n]).await.unwrap();
        // Lockstep: the order in which both lanes draw is the order of sending.
        let before = link.totals();
        while link.totals().lost == before.lost {
            if let Some((_, n)) = receive(&socket, Duration::from_millis(20)).await {
                back.push(n);
                break;
            }
        }
    }
    back
}

#[tokio::test]
async fn loss_is_decided_by_the_seed() {
    let (first, again, other) = (survivors(7).await, survivors(7).await, survivors(8).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    // 200 datagrams lost with 0.3 each way: 98 come back on average, standard deviation 7.
    assert!((50..150).contains(&first.len()), "{}", first.len());
}

#[tokio::test]
async fn delay_holds_for_each_direction() {
    let link = Link::start(mirror().await, Conditions::delayed(Duration::from_millis(60)), 1)
        .await
        .unwrap();
    let socket = client(&link).await;
    let started = Instant::now();
    socket.send(&[1]).await.unwrap();
    receive(&socket, PATIENCE).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn rate_holds() {
    let conditions = Conditions {
        rate: Some(100_000),
        ..Conditions::default()
    };
    let link = Link::start(mirror().await, conditions, 1).await.unwrap();
    let socket = client(&link).await;
    let started = Instant::now();
    for n in 0..20 {
        socket.send(&[n; 1000]).await.unwrap();
    }
    for _ in 0..20 {
        receive(&socket, PATIENCE).await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_cut_swallows_datagrams_one_way_or_both() {
    let link = Link::start(mirror().await, Conditions::default(), 1)
        .await
        .unwrap();
    let socket = client(&link).await;
    for cut in [Cut::Both, Cut::ToTarget, Cut::FromTarget] {
        link.change(|c| c.cut = cut);
        socket.send(&[1]).await.unwrap();
        assert_eq!(receive(&socket, SETTLE).await, None, "{cut:?}");
    }
    link.mend();
    socket.send(&[2]).await.unwrap();
    assert_eq!(receive(&socket, PATIENCE).await.map(|(_, n)| n), Some(2));
    assert_eq!(link.totals().lost, 3);
}

#[tokio::test]
async fn a_rebinding_changes_the_port_the_target_sees_and_nothing_else() {
    let link = Link::start(mirror().await, Conditions::default(), 1)
        .await
        .unwrap();
    let socket = client(&link).await;
    socket.send(&[1]).await.unwrap();
    let (before, _) = receive(&socket, PATIENCE).await.unwrap();
    socket.send(&[2]).await.unwrap();
    assert_eq!(
        receive(&socket, PATIENCE).await,
        Some((before, 2)),
        "the mapping is kept"
    );
    link.rebind();
    tokio::time::sleep(SETTLE).await;
    socket.send(&[3]).await.unwrap();
    let (after, n) = receive(&socket, PATIENCE).await.unwrap();
    assert_eq!(n, 3);
    assert_ne!(before, after);
}

#[tokio::test]
async fn blocked_udp_leaves_tcp_alone() {
    let echo = apps::echo().await.unwrap();
    let link = Link::start(
        echo.address(),
        Conditions {
            udp_blocked: true,
            ..Conditions::default()
        },
        1,
    )
    .await
    .unwrap();
    let socket = client(&link).await;
    socket.send(&[1]).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&back, link.totals().lost), (b"hello", 1));
}

#[tokio::test]
async fn tcp_is_black_holed_and_comes_back() {
    let echo = apps::echo().await.unwrap();
    let link = Link::start(echo.address(), Conditions::default(), 1)
        .await
        .unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    let mut back = [0; 2];
    stream.write_all(b"aa").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    link.cut();
    stream.write_all(b"bb").await.unwrap();
    assert!(timeout(SETTLE, stream.read_exact(&mut back)).await.is_err());
    link.mend();
    timeout(PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"bb");
}

#[tokio::test]
async fn half_close_passes_as_half_close() {
    let counting: App<_> = apps::half_close().await.unwrap();
    let link = Link::start(
        counting.address(),
        Conditions::delayed(Duration::from_millis(5)),
        1,
    )
    .await
    .unwrap();
    let stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(
        apps::half_close_exchange(stream, &vec![7; 300_000])
            .await
            .unwrap(),
        300_000
    );
}

#[tokio::test]
async fn a_reset_passes_as_a_reset_from_either_side_and_from_sever() {
    let resetting = apps::reset_after(1).await.unwrap();
    let link = Link::start(resetting.address(), Conditions::default(), 1)
        .await
        .unwrap();
    let read = |mut stream: TcpStream| async move {
        timeout(PATIENCE, stream.read(&mut [0; 16]))
            .await
            .unwrap()
            .map_err(|e| e.kind())
    };
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(read(stream).await, Err(io::ErrorKind::ConnectionReset));

    let echo = apps::echo().await.unwrap();
    let link = Link::start(echo.address(), Conditions::default(), 1)
        .await
        .unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
    link.sever();
    assert_eq!(read(stream).await, Err(io::ErrorKind::ConnectionReset));

    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    apps::eventually(PATIENCE, || echo.stats().resets() == 2)
        .await
        .unwrap();
}
