//! A TLS handshake in memory, for the tests of the configurations.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::unwrap_in_result
)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{ServerName, UnixTime};
use strait_trust_bridge::tls::{Refusal, RefusalSink, RefusedAt};

/// A fixed moment for tests of pure functions: 2026-11-24.
pub fn noon() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_795_521_600))
}

/// The present, for tests with a handshake: rustls reads the clock itself.
pub fn clock() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

/// A sink that keeps what it is told.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<Refusal>>>);

impl Kept {
    pub fn sink(&self) -> RefusalSink {
        let kept = Arc::clone(&self.0);
        RefusalSink::new(move |refusal| kept.lock().unwrap().push(refusal.clone()))
    }

    /// The place and code of every refusal so far, and forgets them.
    pub fn take(&self) -> Vec<(RefusedAt, &'static str)> {
        self.0
            .lock()
            .unwrap()
            .drain(..)
            .map(|r| (r.at, r.error.code()))
            .collect()
    }
}

/// Runs a handshake to its end; the error is that of whichever side failed first.
pub fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("gateway.invalid").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |bytes| client.read_tls(bytes));
        client.process_new_packets()?;
        if !client.is_handshaking()
            && !server.is_handshaking()
            && !client.wants_write()
            && !server.wants_write()
        {
            return Ok((client, server));
        }
    }
    panic!("the handshake did not end");
}

fn feed(mut wire: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !wire.is_empty() {
        read(&mut wire).unwrap();
    }
}
