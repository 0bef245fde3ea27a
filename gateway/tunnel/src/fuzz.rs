//! Entry points for fuzzers: arbitrary bytes in, a panic is a finding. Owns nothing; called by the fuzz room.

use crate::hello::{self, HEADER_LEN};

/// The frames of the hello stream.
pub fn hello(data: &[u8]) {
    let Some((header, body)) = data.split_first_chunk::<HEADER_LEN>() else {
        return;
    };
    if let Ok(len) = hello::body_len(*header) {
        let _ = hello::decode(*header, &body[..len.min(body.len())]);
    }
}
