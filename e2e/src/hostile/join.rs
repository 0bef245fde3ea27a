//! Join sessions message by message, and tokens with one field changed.
//!
//! Owns the framing and the token's layout, so that what Strait's own types refuse to make can be sent.

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64URL_NOPAD;
use quinn::{ConnectionError, RecvStream, SendStream};
use strait_federation_api::control::JOIN_EXPORTER_LABEL;
use strait_trust_bridge::{
    CaRecord, JoinToken, RootFingerprint, RootPin,
    join::{Exporter, JoinAttempt, JoinMessage, JoinRequest},
    tls::{RefusalSink, join_client_config},
};
use tokio::time::timeout;

use super::{Line, PATIENCE, PREFACE, connect};

const PREFIX: &str = "straitjoin1_";

/// A field of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenField {
    /// A digit of the first address' port.
    Address,
    /// A character of the trust domain's random part.
    TrustDomain,
    /// A bit of the root's fingerprint.
    Root,
    /// A bit of the invite's id.
    Invite,
    /// A bit of the expiry: 256 seconds more or less.
    Expires,
    /// A bit of the secret.
    Secret,
    /// A bit of the checksum.
    Checksum,
}

impl TokenField {
    /// Every field.
    pub const ALL: [Self; 7] = [
        Self::Address,
        Self::TrustDomain,
        Self::Root,
        Self::Invite,
        Self::Expires,
        Self::Secret,
        Self::Checksum,
    ];
}

/// The token with one field changed, and a checksum that fits (unless the checksum is what is changed).
///
/// # Panics
/// If the text is no token with one address.
#[must_use]
pub fn alter(token: &str, field: TokenField) -> String {
    let body = token.trim().strip_prefix(PREFIX).expect("the prefix of a token");
    let mut bytes = BASE64URL_NOPAD.decode(body.as_bytes()).expect("base64url");
    let sum_at = bytes.len() - 4;
    assert_eq!(bytes[0], 1, "one address");
    let address = usize::from(u16::from_be_bytes([bytes[1], bytes[2]]));
    let domain_at = 3 + address;
    let domain = usize::from(bytes[domain_at]);
    let root_at = domain_at + 1 + domain;
    match field {
        TokenField::Address => rotate(&mut bytes[2 + address], b'1', b'2'),
        TokenField::TrustDomain => rotate(&mut bytes[root_at - 1], b'a', b'b'),
        TokenField::Root => bytes[root_at] ^= 1,
        TokenField::Invite => bytes[root_at + 32] ^= 1,
        TokenField::Expires => bytes[root_at + 32 + 16 + 6] ^= 1,
        TokenField::Secret => bytes[root_at + 32 + 16 + 8] ^= 1,
        TokenField::Checksum => bytes[sum_at] ^= 1,
    }
    if field == TokenField::Checksum {
        return format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
    }
    sealed(bytes, sum_at)
}

/// The token with its one address replaced, and a checksum that fits.
///
/// # Panics
/// If the text is no token with one address.
#[must_use]
pub fn readdress(token: &str, address: &str) -> String {
    let body = token.trim().strip_prefix(PREFIX).expect("the prefix of a token");
    let old = BASE64URL_NOPAD.decode(body.as_bytes()).expect("base64url");
    assert_eq!(old[0], 1, "one address");
    let length = usize::from(u16::from_be_bytes([old[1], old[2]]));
    let mut bytes = vec![1];
    bytes.extend(u16::try_from(address.len()).expect("short").to_be_bytes());
    bytes.extend(address.as_bytes());
    bytes.extend(&old[3 + length..]);
    let sum_at = bytes.len() - 4;
    sealed(bytes, sum_at)
}

/// Puts the checksum of what comes before it at `sum_at`.
fn sealed(mut bytes: Vec<u8>, sum_at: usize) -> String {
    {
        let signed = [PREFIX.as_bytes(), &bytes[..sum_at]].concat();
        // A fingerprint is SHA-256, whatever it is taken of.
        let sum = RootFingerprint::of_der(&signed);
        bytes[sum_at..].copy_from_slice(&sum.as_bytes()[..4]);
    }
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
}

/// Another character of the same alphabet.
fn rotate(byte: &mut u8, one: u8, other: u8) {
    *byte = if *byte == one { other } else { one };
}

/// One join session, as the joiner.
#[derive(Debug)]
pub struct JoinSession {
    /// Keying material of this TLS session.
    pub exporter: Exporter,
    _line: Line,
    send: SendStream,
    recv: RecvStream,
}

impl JoinSession {
    /// Opens a session from `from` with the inviter at `to`, whose root must be `pin`.
    ///
    /// # Errors
    /// As quinn says: the inviter lets nobody join, or is another.
    pub async fn open(from: IpAddr, to: SocketAddr, pin: RootPin) -> Result<Self, ConnectionError> {
        let (line, send, mut recv) = open_join(from, to, pin).await?;
        let mut exporter = [0; 32];
        line.quic
            .export_keying_material(&mut exporter, JOIN_EXPORTER_LABEL, b"")
            .expect("an exporter");
        let mut preface = [0; PREFACE.len()];
        match timeout(PATIENCE, recv.read_exact(&mut preface))
            .await
            .expect("a preface in time")
        {
            Ok(()) => assert_eq!(preface, PREFACE),
            Err(_) => return Err(line.quic.closed().await),
        }
        Ok(Self {
            exporter: Exporter(exporter),
            _line: line,
            send,
            recv,
        })
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If the session is gone.
    pub async fn say(&mut self, message: &JoinMessage) {
        self.say_bytes(&message.encode()).await;
    }

    /// Sends anything in the place of a message.
    ///
    /// # Panics
    /// If the session is gone.
    pub async fn say_bytes(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("short");
        self.send
            .write_all(&length.to_be_bytes())
            .await
            .expect("a session");
        self.send.write_all(body).await.expect("a session");
    }

    /// Waits for a message; `None` if the inviter closes instead.
    ///
    /// # Panics
    /// If neither comes, or the message cannot be read.
    pub async fn hear(&mut self) -> Option<JoinMessage> {
        let read = async {
            let mut head = [0; 4];
            self.recv.read_exact(&mut head).await.ok()?;
            let mut body = vec![0; u32::from_be_bytes(head) as usize];
            self.recv.read_exact(&mut body).await.ok()?;
            Some(JoinMessage::decode(&body).expect("a join message"))
        };
        timeout(PATIENCE, read).await.expect("an answer in time")
    }

    /// Goes through the whole session with `token` and `ca`, the request changed by `spoil`. Gives the last word.
    ///
    /// # Panics
    /// If the session breaks.
    pub async fn join(
        mut self,
        token: &JoinToken,
        ca: &CaRecord,
        spoil: impl FnOnce(&mut JoinRequest),
    ) -> Option<JoinMessage> {
        let exporter = self.exporter;
        self.join_over(token, ca, &exporter, spoil).await
    }

    /// As [`Self::join`], with proofs made over `exporter`: that of another session is what a man in the middle has.
    ///
    /// # Panics
    /// If the session breaks.
    pub async fn join_over(
        &mut self,
        token: &JoinToken,
        ca: &CaRecord,
        exporter: &Exporter,
        spoil: impl FnOnce(&mut JoinRequest),
    ) -> Option<JoinMessage> {
        self.say(&JoinMessage::Hello(token.invite())).await;
        let offer = match self.hear().await? {
            JoinMessage::Offer(offer) => offer,
            other => return Some(other),
        };
        let attempt = JoinAttempt::new(token.clone(), ca.trust_domain()).expect("another's token");
        let mut request = attempt.answer(&offer, exporter, ca).expect("an answer");
        spoil(&mut request);
        self.say(&JoinMessage::Request(request)).await;
        self.hear().await
    }

    /// As [`Self::join`]; a session that the inviter ends in the middle is none.
    pub async fn join_or_gone(
        mut self,
        token: &JoinToken,
        ca: &CaRecord,
        spoil: impl FnOnce(&mut JoinRequest),
    ) -> Option<JoinMessage> {
        let hello = JoinMessage::Hello(token.invite()).encode();
        let length = u32::try_from(hello.len()).expect("short").to_be_bytes();
        self.send.write_all(&[&length[..], &hello].concat()).await.ok()?;
        let JoinMessage::Offer(offer) = self.hear().await? else {
            return None;
        };
        let attempt = JoinAttempt::new(token.clone(), ca.trust_domain()).expect("another's token");
        let mut request = attempt.answer(&offer, &self.exporter, ca).expect("an answer");
        spoil(&mut request);
        self.say(&JoinMessage::Request(request)).await;
        self.hear().await
    }
}

/// Opens a join connection and its stream, preface said.
pub(super) async fn open_join(
    from: IpAddr,
    to: SocketAddr,
    pin: RootPin,
) -> Result<(Line, SendStream, RecvStream), ConnectionError> {
    let tls = join_client_config(pin, RefusalSink::new(|_| ())).expect("TLS");
    let line = connect(from, to, tls).await?;
    let (mut send, recv) = line.quic.open_bi().await?;
    // A failure shows at the next read.
    let _ = send.write_all(&PREFACE).await;
    Ok((line, send, recv))
}
