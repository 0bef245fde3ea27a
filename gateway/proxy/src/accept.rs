//! Streams that peers open: read the header, authorise, connect, answer, copy.
//!
//! Owns the receiving end of the stream contract. A stream from a peer ends at a local endpoint or is refused; a refusal proves that no
//! payload reached one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strait_federation_api::{
    ClusterId, Reason,
    catalog::{Protocol, SessionAffinity},
    snapshot::PeerMode,
};
use strait_tunnel::{RecvHalf, SendHalf, StreamAcceptor, Tunnel};

use crate::{
    copy::{self, Joint, Pending},
    endpoint,
    flow::{Direction, Ended, Flow, FlowInfo, ResetOnDrop},
    header::{Answer, HeaderError, PREFIX_LEN, Refusal, Request, body_len},
    route::{ExportRoute, PortRoute, View},
    worker::Worker,
};

/// Time for a header to arrive whole: it is sent in one piece, so only loss stretches it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The receiving end of one worker.
pub struct Acceptor(pub Arc<Worker>);

impl StreamAcceptor for Acceptor {
    fn accept(&self, tunnel: Arc<Tunnel>, send: SendHalf, recv: RecvHalf) {
        let worker = Arc::clone(&self.0);
        tokio::spawn(async move {
            let inbound = Inbound::new(&worker, &tunnel);
            // On the heap, so that what stays for the life of a flow is small.
            Box::pin(inbound.serve(send, recv)).await;
        });
    }
}

struct Inbound<'a> {
    worker: &'a Arc<Worker>,
    peer: &'a ClusterId,
    info: FlowInfo,
    started: Instant,
}

impl<'a> Inbound<'a> {
    fn new(worker: &'a Arc<Worker>, tunnel: &'a Tunnel) -> Self {
        let peer = &tunnel.peer().cluster;
        Self {
            worker,
            peer,
            info: FlowInfo {
                direction: Direction::Inbound,
                service: None,
                port: 0,
                peer: Some(peer.clone()),
                remote: tunnel.remote(),
            },
            started: Instant::now(),
        }
    }

    async fn serve(mut self, mut send: SendHalf, mut recv: RecvHalf) {
        match self.open(&mut send, &mut recv).await {
            Ok((mut connected, early)) => {
                let answered = send.write_chunk(Answer::Ok.encode()).await;
                let (Ok(()), Some(tcp)) = (answered, connected.tcp.take()) else {
                    return self.record(Reason::PeerReset, String::new());
                };
                let recorder = Arc::clone(&self.worker.shared.recorder);
                let held: Box<dyn Send + Sync> = Box::new(connected.held);
                let flow = Flow::new(tcp, None, self.info, self.started, recorder, Some(held));
                self.worker.flows.add(&flow);
                let joint = Joint {
                    send,
                    recv,
                    kept: bytes::Bytes::new(),
                    early,
                };
                copy::spawn_tunnel(&flow, joint);
            }
            Err(Stop::Gone(reason)) => self.record(reason, String::new()),
            Err(Stop::Refused(refusal)) => {
                recv.stop(refusal.reason);
                let answer = Answer::Refused(refusal.clone()).encode();
                // The peer may be gone by now; then there is nobody to tell.
                if send.write_chunk(answer).await.is_ok() {
                    let _ = send.finish();
                }
                self.record(refusal.reason, refusal.message);
            }
        }
    }

    async fn open(&mut self, send: &mut SendHalf, recv: &mut RecvHalf) -> Result<(Held, Pending), Stop> {
        let (request, early) = tokio::time::timeout(HEADER_TIMEOUT, read_request(recv))
            .await
            .map_err(|_| Refusal::new(Reason::Malformed, "no whole header in time"))??;
        self.info.service = Some(request.service.clone());
        self.info.port = request.port;
        let shared = &self.worker.shared;
        if shared.is_draining() {
            return Err(Refusal::new(Reason::Draining, "this gateway is going away").into());
        }
        let permit = shared.admit().ok_or_else(|| {
            Refusal::new(Reason::Overloaded, "this gateway has no place for another stream")
        })?;
        let view = shared.view.load_full();
        let (route, port) = authorise(&view, self.peer, &request)?;
        let sticky = matches!(route.export.session_affinity, SessionAffinity::ClientIp { .. });
        let affinity = request.affinity.filter(|_| sticky);
        let limit = request.deadline;
        let connecting = endpoint::connect(self.worker, port, request.endpoint.as_ref(), affinity, limit);
        let connected = tokio::select! {
            connected = connecting => connected?,
            // Another candidate was quicker: the endpoint is spared.
            stopped = send.stopped() => return Err(Stop::Gone(stopped.unwrap_or(Reason::PeerReset))),
        };
        let held = Held {
            tcp: connected.tcp,
            held: (connected.in_flight, permit),
        };
        Ok((held, early))
    }

    fn record(self, reason: Reason, detail: String) {
        let recorder = &self.worker.shared.recorder;
        if is_policy(reason) {
            recorder.refused(self.info.remote, self.peer, reason);
        }
        recorder.ended(&failed(self.info, reason, detail, self.started), false);
    }
}

struct Held {
    tcp: ResetOnDrop,
    held: (crate::route::InFlight, crate::worker::Permit),
}

/// A flow that never had an endpoint.
pub(crate) fn failed(info: FlowInfo, reason: Reason, detail: String, started: Instant) -> Ended {
    Ended {
        info,
        reason: Some(reason),
        detail,
        bytes_up: 0,
        bytes_down: 0,
        duration: started.elapsed(),
        answered_after: None,
    }
}

const fn is_policy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Denied
            | Reason::TransitRefused
            | Reason::Malformed
            | Reason::Unsupported
            | Reason::PeerSuspended
            | Reason::UnknownService
    )
}

enum Stop {
    /// The peer ended it: no answer is due.
    Gone(Reason),
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn read_request(recv: &mut RecvHalf) -> Result<(Request, Pending), Stop> {
    let refuse = |error: HeaderError| Refusal::new(error.reason(), error.to_string());
    let (body, early) = read_frame(recv).await.map_err(Stop::Gone)?.map_err(refuse)?;
    Ok((Request::decode(&body).map_err(refuse)?, early))
}

/// Reads one frame and keeps what came behind it. The outer error is the stream's, the inner one the frame's.
pub(crate) async fn read_frame(
    recv: &mut RecvHalf,
) -> Result<Result<(Vec<u8>, Pending), HeaderError>, Reason> {
    let mut got = Pending::default();
    loop {
        if let Some(prefix) = got.peek::<PREFIX_LEN>() {
            let len = match body_len(prefix) {
                Ok(len) => len,
                Err(error) => return Ok(Err(error)),
            };
            if got.len() >= PREFIX_LEN + len {
                got.take(PREFIX_LEN);
                let body = got.take(len);
                return Ok(Ok((body, got)));
            }
        }
        if !copy::read_into(recv, &mut got).await? {
            return Ok(Err(HeaderError::Truncated("the frame")));
        }
    }
}

/// May this peer have what it asks for? The last word of the exporting side; nothing the sender says is taken on trust.
pub(crate) fn authorise<'v>(
    view: &'v View,
    peer: &ClusterId,
    request: &Request,
) -> Result<(&'v ExportRoute, &'v PortRoute), Refusal> {
    let refuse = |reason, words: String| Err(Refusal::new(reason, words));
    if request.origin != *peer || request.hops != 1 {
        return refuse(
            Reason::TransitRefused,
            format!(
                "{} hops from {}: only {peer}'s own streams are taken from it",
                request.hops, request.origin
            ),
        );
    }
    match view.snapshot.peers.get(peer).map(|p| p.mode) {
        Some(PeerMode::Active) => {}
        Some(PeerMode::Drain) => {
            return refuse(Reason::PeerDraining, format!("spec.mode of {peer} is Drain"));
        }
        Some(PeerMode::Suspended) | None => {
            return refuse(
                Reason::PeerSuspended,
                format!("{peer} is suspended or no longer federated"),
            );
        }
    }
    if request.protocol != Protocol::Tcp {
        return refuse(
            Reason::ProtocolNotServed,
            format!("{} is not carried", request.protocol),
        );
    }
    let Some(route) = view.export(&request.service) else {
        return refuse(
            Reason::UnknownService,
            format!("{} is not exported", request.service),
        );
    };
    if !route.export.allowed.contains(peer) {
        return refuse(
            Reason::Denied,
            format!("no export rule offers {} to {peer}", request.service),
        );
    }
    let Some(port) = route.port(request.protocol, request.port) else {
        return refuse(
            Reason::UnknownService,
            format!("{} has no port {}", request.service, request.port),
        );
    };
    Ok((route, port))
}

#[cfg(test)]
mod tests;
