//! A stub resolver for one question: the IPv4 addresses of a name (RFC 1035), over UDP, from one server.
//!
//! Owns the question and the reading of its answer, whose bytes it does not trust. Never retries and never caches. Used by `check`
//! and the demo.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// The server is on this machine: a second is an eternity.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Largest answer without EDNS, bytes (section 4.2.1).
const ANSWER_MAX: usize = 512;
/// Bytes of a header (section 4.1.1).
const HEADER: usize = 12;
/// Type A and class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// Asks `server` for the addresses of `name`.
///
/// # Errors
/// Words: no answer, a negative answer, or one that cannot be read.
pub(crate) async fn addresses(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let id = std::process::id() as u16;
    let question = question(id, name).ok_or_else(|| format!("{name:?} is no DNS name"))?;
    let local: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        "[::]:0".parse().map_err(|_| "no address")?
    };
    let exchange = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut answer = vec![0; ANSWER_MAX];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| format!("{server} does not answer"))?;
    read(id, question.len(), &answer.map_err(|e| format!("{server}: {e}"))?)
}

/// A query with recursion desired and one question.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&A_IN);
    Some(message)
}

/// The A records of an answer whose question section is as long as the one asked.
fn read(id: u16, asked: usize, answer: &[u8]) -> Result<Vec<IpAddr>, String> {
    let unreadable = || "the answer cannot be read".to_owned();
    let word = |at: usize| {
        answer
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
            .ok_or_else(unreadable)
    };
    if word(0)? != id {
        return Err(unreadable());
    }
    match word(2)? & 0xf {
        0 => {}
        3 => return Err("there is no such name (NXDOMAIN)".to_owned()),
        code => return Err(format!("the server answered with code {code}")),
    }
    let (mut at, mut found) = (asked.max(HEADER), Vec::new());
    for _ in 0..word(6)? {
        at = skip_name(answer, at).ok_or_else(unreadable)?;
        let (is_a, length) = (answer.get(at..at + 4) == Some(&A_IN), usize::from(word(at + 8)?));
        at += 10;
        let data = answer.get(at..at + length).ok_or_else(unreadable)?;
        if let (true, Ok(octets)) = (is_a, <[u8; 4]>::try_from(data)) {
            found.push(IpAddr::V4(Ipv4Addr::from(octets)));
        }
        at += length;
    }
    Ok(found)
}

/// Where the name at `at` ends: labels, or a pointer, which ends it.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            n if n & 0xc0 == 0xc0 => return Some(at + 2),
            n => at += 1 + usize::from(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `question`: flags, then records of (type, data), each named by a pointer to the question.
    fn answered(question: &[u8], code: u8, records: &[(u8, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
        message[7] = records.len() as u8;
        for (kind, data) in records {
            message.extend_from_slice(&[0xc0, 12, 0, *kind, 0, 1, 0, 0, 0, 5, 0, data.len() as u8]);
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn addresses_are_read_past_other_records() {
        let question = question(7, "greeter.demo.svc.clusterset.local").unwrap();
        let answer = answered(&question, 0, &[(5, b"\x01x\0"), (1, &[127, 77, 0, 1])]);
        assert_eq!(
            read(7, question.len(), &answer),
            Ok(vec!["127.77.0.1".parse().unwrap()])
        );
        assert!(read(8, question.len(), &answer).is_err(), "another id");
        let missing = answered(&question, 3, &[]);
        assert!(
            read(7, question.len(), &missing)
                .unwrap_err()
                .contains("NXDOMAIN")
        );
    }

    #[test]
    fn a_cut_answer_is_an_error_and_never_a_panic() {
        let question = question(7, "a.b").unwrap();
        let whole = answered(&question, 0, &[(1, &[127, 77, 0, 1])]);
        for length in 0..whole.len() {
            assert!(read(7, question.len(), &whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn only_dns_names_are_asked_for() {
        assert!(question(7, "a..b").is_none() && question(7, &"x".repeat(64)).is_none());
    }
}
