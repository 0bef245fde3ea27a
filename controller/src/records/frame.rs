//! The stored form of a record: one header line, then the JSON payload.
//!
//! Owns format version and checksum. `{"format":1,"kind":"vips","schema":1,"sha256":"..."}`, newline, payload. A file that does
//! not verify is never half-read.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of the framing itself.
const FORMAT: u32 = 1;

/// A type that is kept as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is, one word; also the stem of its file name.
    const KIND: &'static str;
    /// Version of the payload. An unknown one is refused: a downgrade must not misread what a newer version wrote.
    const SCHEMA: u32;
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    kind: String,
    schema: u32,
    sha256: String,
}

/// Writes the stored form.
pub(crate) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, serde_json::Error> {
    let payload = serde_json::to_vec(record)?;
    let header = Header {
        format: FORMAT,
        kind: R::KIND.into(),
        schema: R::SCHEMA,
        sha256: checksum(&payload),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(payload);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Checks frame and checksum without knowing the payload's type, and gives its kind.
pub(crate) fn verify(bytes: &[u8]) -> Result<String, String> {
    split(bytes).map(|(header, _)| header.kind)
}

/// Reads the stored form.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Result<R, String> {
    let (header, payload) = split(bytes)?;
    if header.kind != R::KIND {
        return Err(format!(
            "it holds a record of kind '{}', not '{}'",
            header.kind,
            R::KIND
        ));
    }
    if header.schema != R::SCHEMA {
        return Err(format!(
            "its schema {} is not known to this version ({})",
            header.schema,
            R::SCHEMA
        ));
    }
    // The payload may be a key: serde's message would quote it.
    serde_json::from_slice(payload)
        .map_err(|e| format!("its payload does not parse at column {}", e.column()))
}

fn split(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
    let body = bytes.strip_suffix(b"\n").ok_or("it is cut off")?;
    let at = body
        .iter()
        .position(|b| *b == b'\n')
        .ok_or("it has no header line")?;
    let (head, rest) = body.split_at(at);
    let payload = rest.get(1..).unwrap_or_default();
    let header: Header = serde_json::from_slice(head).map_err(|_| "its header line does not parse")?;
    if header.format != FORMAT {
        return Err(format!(
            "its format {} is not known to this version ({FORMAT})",
            header.format
        ));
    }
    if header.sha256 != checksum(payload) {
        return Err("its checksum does not match".into());
    }
    Ok((header, payload))
}

fn checksum(payload: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, payload).as_ref())
}
