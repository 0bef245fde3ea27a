//! Bytes in, verdict out: the rules of the message format.
//!
//! Owns which messages are dropped, refused, answered here or relayed, EDNS(0), and truncation. Never does I/O. Called by the UDP
//! and TCP shells for every message; whatever bytes come in, it returns and never answers with more than the client can take.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};
use strait_federation_api::snapshot::Snapshot;

use crate::{health::HealthView, zone};

/// Header length, bytes (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// What a client without EDNS can take over UDP, bytes (RFC 1035 section 2.3.4).
const UDP_PLAIN: u16 = 512;
/// The largest datagram we send or ask for, bytes: fits IPv6's minimum MTU, so nothing fragments (DNS flag day 2020).
pub(crate) const UDP_MAX: u16 = 1232;
/// Records of the additional section in a query, at most: one OPT and one signature.
const QUERY_ADDITIONALS: u16 = 2;
/// Length of an OPT record without options, bytes (RFC 6891 section 6.1.2).
const OPT_LEN: usize = 11;

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// One length-prefixed message of a connection.
    Tcp,
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: not a query. An answer to an answer would let two servers be set on each other.
    Drop,
    /// Send this.
    Reply(Reply),
    /// Ask an upstream.
    Forward(Forward),
}

/// A finished reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The message, without TCP's length prefix.
    pub(crate) bytes: Vec<u8>,
    /// Its code.
    pub(crate) code: ResponseCode,
    /// The client is told to come back over TCP.
    pub(crate) truncated: bool,
}

/// A question for an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The query to send, with id 0: equal questions have equal bytes. The client's EDNS options are not in it, for they concern
    /// one hop (RFC 6891 section 6.1.1).
    pub(crate) query: Vec<u8>,
    /// End of the question section in `query`.
    pub(crate) question_end: usize,
    /// The client's id.
    pub(crate) id: u16,
    /// The largest answer the client can take, bytes.
    pub(crate) limit: u16,
    /// How it came in; a truncated answer is enough for UDP only.
    pub(crate) transport: Transport,
}

/// What the shells know beside the bytes.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Names.
    pub(crate) snapshot: &'a Snapshot,
    /// Reachability.
    pub(crate) health: &'a HealthView,
    /// There are upstreams.
    pub(crate) forwarding: bool,
}

/// Judges one message.
pub(crate) fn handle(bytes: &[u8], transport: Transport, context: Context<'_>) -> Verdict {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Verdict::Drop;
    };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[2] & 0x80 != 0 {
        return Verdict::Drop;
    }
    if (header[2] >> 3) & 0x0f != 0 {
        return bare(header, ResponseCode::NotImp);
    }
    // Counts are judged before the parser sees them: it reserves memory by them. RFC 9619: a query has one question.
    let counts_ok = word(4) == 1 && word(6) == 0 && word(8) == 0 && word(10) <= QUERY_ADDITIONALS;
    let parsed = counts_ok.then(|| Message::from_vec(bytes).ok()).flatten();
    let (Some(query), Some(question_end)) = (parsed, question_end(bytes)) else {
        return bare(header, ResponseCode::FormErr);
    };
    let Some(question) = query.queries.first().cloned() else {
        return bare(header, ResponseCode::FormErr);
    };
    let asked = Asked {
        query: &query,
        question: &question,
        transport,
        context,
    };
    match asked.refusal() {
        Some(code) => asked.reply(code),
        None => asked.resolve(&bytes[..question_end]),
    }
}

/// A parsed query.
struct Asked<'a> {
    query: &'a Message,
    question: &'a Query,
    transport: Transport,
    context: Context<'a>,
}

impl Asked<'_> {
    fn refusal(&self) -> Option<ResponseCode> {
        if self.query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Some(ResponseCode::BADVERS);
        }
        let transfer = matches!(self.question.query_type(), RecordType::AXFR | RecordType::IXFR);
        (self.question.query_class() != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
    }

    fn resolve(&self, head: &[u8]) -> Verdict {
        let Context {
            snapshot,
            health,
            forwarding,
        } = self.context;
        if let Some(answer) = zone::answer(self.question, snapshot, health, self.query.metadata.id) {
            return self.answer(answer);
        }
        // A relay that answers without recursion being asked for would tell strangers what others looked up.
        if !forwarding || !self.query.metadata.recursion_desired {
            return self.reply(ResponseCode::Refused);
        }
        if self.question.query_type() == RecordType::ANY && self.transport == Transport::Udp {
            // The amplifier's favourite: over TCP the source is proven.
            let mut message = self.message(ResponseCode::NoError);
            message.metadata.truncation = true;
            return self.send(message);
        }
        Verdict::Forward(self.forward(head))
    }

    fn forward(&self, head: &[u8]) -> Forward {
        let mut query = Vec::with_capacity(head.len() + OPT_LEN);
        let flags = [head[2] & 0x01, head[3] & 0x30]; // RD; AD and CD (RFC 6840 section 5.7)
        let additionals = u8::from(self.query.edns.is_some());
        query.extend([0, 0, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, additionals]);
        query.extend(&head[HEADER..]);
        let question_end = query.len();
        if let Some(edns) = &self.query.edns {
            query.extend(opt(edns.flags().dnssec_ok));
        }
        Forward {
            query,
            question_end,
            id: self.query.metadata.id,
            limit: self.limit(),
            transport: self.transport,
        }
    }

    /// The largest reply the client can take, bytes.
    fn limit(&self) -> u16 {
        match (self.transport, &self.query.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => UDP_PLAIN,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_PLAIN, UDP_MAX),
        }
    }

    fn message(&self, code: ResponseCode) -> Message {
        let request = &self.query.metadata;
        let mut message = Message::response(request.id, OpCode::Query);
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_desired = request.recursion_desired;
        message.metadata.checking_disabled = request.checking_disabled;
        message.metadata.recursion_available = self.context.forwarding;
        message.metadata.response_code = code;
        message.queries = vec![self.question.clone()];
        if let Some(theirs) = &self.query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX)
                .set_dnssec_ok(theirs.flags().dnssec_ok);
            message.edns = Some(edns);
        }
        message
    }

    fn reply(&self, code: ResponseCode) -> Verdict {
        self.send(self.message(code))
    }

    fn answer(&self, answer: zone::Answer) -> Verdict {
        let mut message = self.message(answer.code);
        message.metadata.authoritative = answer.code != ResponseCode::ServFail;
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        self.send(message)
    }

    /// Fits a reply to the client: first without the additional section, which is a courtesy, then truncated.
    fn send(&self, mut message: Message) -> Verdict {
        let limit = self.limit();
        let mut bytes = encode(&message, limit);
        if bytes.is_none() && !message.additionals.is_empty() {
            message.additionals.clear();
            bytes = encode(&message, limit);
        }
        if bytes.is_none() {
            message = message.truncate();
            bytes = encode(&message, limit);
        }
        bytes.map_or(Verdict::Drop, |bytes| {
            Verdict::Reply(Reply {
                bytes,
                code: message.metadata.response_code,
                truncated: message.metadata.truncation,
            })
        })
    }
}

/// The whole message, or `None` if it is longer than `limit` bytes.
fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut buffer = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut buffer);
    message.emit(&mut encoder).ok()?;
    // At 65,535 bytes the encoder itself cuts sections short and sets TC.
    let cut = buffer.get(2).is_some_and(|flags| flags & 0x02 != 0) && !message.metadata.truncation;
    (buffer.len() <= usize::from(limit) && !cut).then_some(buffer)
}

/// A reply of nothing but a header, for queries that could not be parsed.
fn bare(header: &[u8; HEADER], code: ResponseCode) -> Verdict {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&header[..2]);
    bytes[2] = 0x80 | (header[2] & 0x79); // QR; opcode and RD as asked
    bytes[3] = code.low();
    Verdict::Reply(Reply {
        bytes,
        code,
        truncated: false,
    })
}

/// Where the question section ends, if it holds one uncompressed name. In a query there is nothing a pointer could point at.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 => {}
            _ => return None,
        }
    }
    (at + 4 <= bytes.len()).then_some(at + 4)
}

fn opt(dnssec_ok: bool) -> [u8; OPT_LEN] {
    let [size_high, size_low] = UDP_MAX.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    [0, 0, 41, size_high, size_low, 0, 0, flags, 0, 0, 0]
}

impl Forward {
    /// The query as sent to an upstream under `id`.
    pub(crate) fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.query.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// A datagram or message is the answer to this query under `id`: id, QR, opcode and question agree (RFC 5452 section 9.1).
    /// The question may come back in another case.
    pub(crate) fn is_answer(&self, id: u16, bytes: &[u8]) -> bool {
        bytes.len() >= self.question_end
            && bytes[..2] == id.to_be_bytes()
            && bytes[2] & 0xf8 == 0x80
            && bytes[4..6] == [0, 1]
            && bytes[HEADER..self.question_end].eq_ignore_ascii_case(&self.query[HEADER..self.question_end])
    }

    /// What the client gets of an upstream's answer.
    pub(crate) fn relay(&self, answer: &[u8]) -> Reply {
        let mut bytes = answer.to_vec();
        if bytes.len() > usize::from(self.limit) {
            bytes.truncate(self.question_end);
            bytes[2] |= 0x02;
            bytes[6..HEADER].fill(0);
            self.finish(&mut bytes);
        }
        bytes[..2].copy_from_slice(&self.id.to_be_bytes());
        bytes[HEADER..self.question_end].copy_from_slice(&self.query[HEADER..self.question_end]);
        Reply {
            code: ResponseCode::from_low(bytes[3] & 0x0f),
            truncated: bytes[2] & 0x02 != 0,
            bytes,
        }
    }

    /// No upstream gave an answer.
    pub(crate) fn failure(&self) -> Reply {
        let mut bytes = self.query[..self.question_end].to_vec();
        bytes[..2].copy_from_slice(&self.id.to_be_bytes());
        bytes[2] |= 0x80;
        bytes[3] = (bytes[3] & 0x10) | 0x80 | ResponseCode::ServFail.low();
        bytes[10..HEADER].fill(0);
        self.finish(&mut bytes);
        Reply {
            bytes,
            code: ResponseCode::ServFail,
            truncated: false,
        }
    }

    /// Adds the OPT record a client with EDNS expects to a reply that ends after its question.
    fn finish(&self, bytes: &mut Vec<u8>) {
        if let Some(opt) = self.query.get(self.question_end..).filter(|opt| !opt.is_empty()) {
            bytes[11] = 1;
            bytes.extend(opt);
        }
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
