//! Connecting to an endpoint of a local service.
//!
//! Owns the dial, its time-out and the second try at another endpoint. Called by the acceptor for peers' streams and by the
//! outbound side for the local backend: the same code, so both see the same health.

use std::{io, sync::Arc, time::Duration};

use strait_federation_api::{Reason, catalog::EndpointId};
use tokio::net::TcpStream;

use crate::{
    flow::ResetOnDrop,
    header::Refusal,
    route::{EndpointState, InFlight, PortRoute},
    worker::{ENDPOINT_TIMEOUT, Worker},
};

/// Endpoints tried before the stream is refused: one that just died is passed over without bothering the sender.
const TRIES: usize = 2;

/// A connection with its place among the endpoint's streams in flight.
pub(crate) struct Connected {
    /// Reset unless taken: an endpoint must not take an abandoned connection for an empty request.
    pub(crate) tcp: ResetOnDrop,
    pub(crate) in_flight: InFlight,
}

/// Connects to an endpoint of `route` within `limit`.
pub(crate) async fn connect(
    worker: &Worker,
    route: &PortRoute,
    member: Option<&EndpointId>,
    affinity: Option<u64>,
    limit: Duration,
) -> Result<Connected, Refusal> {
    let each = ENDPOINT_TIMEOUT.min(limit / TRIES as u32);
    let mut tried: Vec<Arc<EndpointState>> = Vec::new();
    let mut refusal = Refusal::new(Reason::NoEndpoint, "no endpoint is ready");
    for _ in 0..TRIES {
        let Some(state) = worker.with_rng(|rng| route.pick(member, affinity, &tried, rng)) else {
            break;
        };
        let in_flight = InFlight::new(Arc::clone(&state));
        match dial(&state, each).await {
            Ok(tcp) => {
                state.succeeded();
                let tcp = ResetOnDrop::new(tcp);
                return Ok(Connected { tcp, in_flight });
            }
            Err(error) => {
                route.failed(&state);
                // Our addresses are nobody else's business: the handle names the endpoint.
                let words = format!("endpoint {}: {}", state.id().0, error.kind());
                refusal = Refusal::new(Reason::ConnectFailed, words);
                tracing::debug!(endpoint = %state.address(), %error, "connect failed");
                tried.push(state);
            }
        }
    }
    Err(refusal)
}

async fn dial(state: &EndpointState, limit: Duration) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(limit, TcpStream::connect(state.address()))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // On loopback a dial to a free port may meet itself (simultaneous open, RFC 9293 section 3.5).
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
