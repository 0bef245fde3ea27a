//! Entry points for fuzzers: arbitrary bytes in, a panic is a finding.
//!
//! Owns nothing. Called by property tests and the fuzz room.

use crate::{
    header::{Answer, PREFIX_LEN, Request, body_len},
    socks,
};

/// Both frames of the stream header. What decodes must survive a round trip.
///
/// # Panics
/// When a decoded value does not survive its own encoding: that is the finding.
pub fn header(data: &[u8]) {
    if let Some(prefix) = data.first_chunk::<PREFIX_LEN>() {
        let _ = body_len(*prefix);
    }
    if let Ok(request) = Request::decode(data) {
        assert_eq!(
            Request::decode(&request.encode()[PREFIX_LEN..]).as_ref(),
            Ok(&request)
        );
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(
            Answer::decode(&answer.encode()[PREFIX_LEN..]).as_ref(),
            Ok(&answer)
        );
    }
}

/// The SOCKS5 messages of a client.
pub fn socks(data: &[u8]) {
    let _ = socks::greeting(data);
    let _ = socks::request(data);
}
