//! The fixed header in front of every control message, and what is checked before anything else.
//!
//! ```text
//! 0   magic        u32   "ipc1"
//! 4   version      u16   PROTOCOL_VERSION
//! 6   descriptors  u16   how many come with this datagram
//! 8   len          u32   bytes behind the header
//! 12  reserved     u32   0
//! 16  request      u64   the request's number; its answer carries the same
//! 24  body               postcard
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, PROTOCOL_VERSION};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;
const MAGIC: u32 = u32::from_le_bytes(*b"ipc1");

/// The checked header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The request's number.
    pub request: u64,
    /// Descriptors that came with the message.
    pub descriptors: u16,
}

/// Why bytes are no message. Each ends the session that sent them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header has, or than the header announced.
    #[error("message truncated: {len} bytes came, {expected} were announced")]
    Truncated {
        /// Bytes that came.
        len: usize,
        /// Bytes that should have come.
        expected: usize,
    },
    /// More bytes than a message may have, or than the header announced.
    #[error("message too long: {len} bytes came, at most {max} may")]
    Oversized {
        /// Bytes that came.
        len: usize,
        /// Bytes that may come.
        max: usize,
    },
    /// Not this protocol.
    #[error("not an ipcd message: magic {magic:#010x}")]
    Magic {
        /// What stood there.
        magic: u32,
    },
    /// Another version of the protocol.
    #[error("protocol version {version} is not spoken here, only {PROTOCOL_VERSION}")]
    Version {
        /// What stood there.
        version: u16,
    },
    /// The number of descriptors is not what the header says, or descriptors came that nobody asked for.
    #[error("{count} descriptors came, {expected} were announced")]
    Descriptors {
        /// Descriptors that came.
        count: usize,
        /// Descriptors announced.
        expected: usize,
    },
    /// The body is not a message of this protocol.
    #[error("malformed message body")]
    Body,
}

/// Puts a message into bytes: header and postcard body.
///
/// # Errors
/// [`FrameError::Oversized`] if it is longer than [`MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(
    request: u64,
    descriptors: usize,
    body: &T,
) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let descriptors =
        u16::try_from(descriptors).ok().filter(|&n| usize::from(n) <= DESCRIPTORS_MAX);
    let Some(descriptors) = descriptors else {
        return Err(FrameError::Descriptors {
            count: DESCRIPTORS_MAX + 1,
            expected: DESCRIPTORS_MAX,
        });
    };
    bytes.extend_from_slice(&descriptors.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&request.to_le_bytes());
    let mut bytes = postcard::to_extend(body, bytes).map_err(|_| FrameError::Body)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(FrameError::Oversized { len: bytes.len(), max: MESSAGE_BYTES_MAX });
    }
    let len = (bytes.len() - HEADER_BYTES) as u32;
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}

/// Takes a message out of one datagram that came with `descriptors` descriptors. Nothing may follow the body.
///
/// # Errors
/// Everything that makes bytes no message: see [`FrameError`].
pub fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    descriptors: usize,
) -> Result<(Frame, T), FrameError> {
    let frame = check_header(bytes, descriptors)?;
    let (body, rest) =
        postcard::take_from_bytes(&bytes[HEADER_BYTES..]).map_err(|_| FrameError::Body)?;
    if !rest.is_empty() {
        return Err(FrameError::Body);
    }
    Ok((frame, body))
}

/// Takes a message out of one datagram whose descriptors, or some of them, were lost on the way.
///
/// # Errors
/// As for [`decode`], whatever the number of descriptors.
pub fn decode_alone<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Frame, T), FrameError> {
    let announced = bytes.get(6..8).map_or(0, |count| u16::from_le_bytes([count[0], count[1]]));
    decode(bytes, announced.into())
}

/// The request number in a header that is otherwise unchecked: for an answer that says what is wrong.
#[must_use]
pub fn request_number(bytes: &[u8]) -> u64 {
    bytes.get(16..24).map_or(0, le_u64)
}

fn check_header(bytes: &[u8], descriptors: usize) -> Result<Frame, FrameError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(FrameError::Oversized { len: bytes.len(), max: MESSAGE_BYTES_MAX });
    }
    if bytes.len() < HEADER_BYTES {
        return Err(FrameError::Truncated { len: bytes.len(), expected: HEADER_BYTES });
    }
    let magic = le_u32(&bytes[0..4]);
    if magic != MAGIC {
        return Err(FrameError::Magic { magic });
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != PROTOCOL_VERSION {
        return Err(FrameError::Version { version });
    }
    let expected = HEADER_BYTES + le_u32(&bytes[8..12]) as usize;
    if bytes.len() < expected {
        return Err(FrameError::Truncated { len: bytes.len(), expected });
    }
    if bytes.len() > expected {
        return Err(FrameError::Oversized { len: bytes.len(), max: expected });
    }
    if bytes[12..16] != [0; 4] {
        return Err(FrameError::Body);
    }
    let announced = u16::from_le_bytes([bytes[6], bytes[7]]);
    if usize::from(announced) != descriptors {
        return Err(FrameError::Descriptors { count: descriptors, expected: announced.into() });
    }
    Ok(Frame { request: request_number(bytes), descriptors: announced })
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::protocol::{MailboxName, Queued, Request};

    fn delete() -> Vec<u8> {
        let name = MailboxName::new("orders").unwrap();
        encode(7, 0, &Request::Delete { name, queued: Queued::Drain }).unwrap()
    }

    /// The bytes that version 3 sends: a change here is a change of the protocol.
    #[test]
    fn golden_delete() {
        let mut golden = b"ipc1\x04\0\0\0\x09\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec();
        golden.extend_from_slice(b"\x07\x06orders\x01");
        assert_eq!(delete(), golden);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let (frame, request) = decode::<Request>(&delete(), 0).unwrap();
        assert_eq!(frame, Frame { request: 7, descriptors: 0 });
        let name = MailboxName::new("orders").unwrap();
        assert_eq!(request, Request::Delete { name, queued: Queued::Drain });
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let bytes = delete();
        for len in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..len], 0).is_err(), "accepted {len} bytes");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode::<Request>(&longer, 0), Err(FrameError::Oversized { .. })));
        assert!(matches!(decode::<Request>(&bytes, 1), Err(FrameError::Descriptors { .. })));
    }

    #[test]
    fn a_body_with_something_behind_it_is_refused() {
        let mut bytes = delete();
        bytes.push(0);
        let len = (bytes.len() - HEADER_BYTES) as u32;
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        assert_eq!(decode::<Request>(&bytes, 0).unwrap_err(), FrameError::Body);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>, descriptors in 0usize..4) {
            let _ = decode::<Request>(&bytes, descriptors);
            let mut framed = delete()[..HEADER_BYTES].to_vec();
            framed[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            framed.extend_from_slice(&bytes);
            let _ = decode::<Request>(&framed, 0);
        }
    }
}
