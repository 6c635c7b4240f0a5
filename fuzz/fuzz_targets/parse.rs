//! Everything that reads bytes or text from outside: control messages, the daemon's settings, names, and what people
//! type for `ipcctl`.
//!
//! The first byte says what the others are. What is read and can be written is written and read again: that must be
//! the same.
#![no_main]

use std::sync::LazyLock;

use clap::Parser;
use ipcd::config::{Arguments, Settings};
use libfuzzer_sys::fuzz_target;
use libipc::protocol::frame::HEADER_BYTES;
use libipc::protocol::{Answer, MailboxName, PROTOCOL_VERSION, Request, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[expect(dead_code, reason = "what builds clap's parsers is not called here")]
#[path = "../../ipcctl/src/parse.rs"]
mod typed;

/// A command line without a file and without limits.
static ARGUMENTS: LazyLock<Arguments> =
    LazyLock::new(|| Arguments::parse_from(["ipcd", "--socket", "/nowhere"]));

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let text = str::from_utf8(rest);
    match (kind, text) {
        (0, _) => drop(decode::<Request>(rest, 0)),
        (1, _) => drop(decode::<Answer>(rest, 3)),
        (2, _) => framed::<Request>(rest, 0),
        (3, _) => framed::<Answer>(rest, 2),
        (4, Ok(text)) => drop(Settings::of_text(&ARGUMENTS, text)),
        (5, Ok(text)) => name(text),
        (_, Ok(text)) => typed(text),
        _ => {}
    }
});

/// The bytes as a body behind a header that is as it should be.
fn framed<T: Serialize + DeserializeOwned + PartialEq>(body: &[u8], descriptors: u16) {
    let mut bytes = b"ipc1".to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes.extend_from_slice(&descriptors.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(body);
    let count = usize::from(descriptors);
    let Ok((frame, message)) = decode::<T>(&bytes, count) else { return };
    let again = encode(frame.request, count, &message).expect("it came in one datagram");
    let (second, same) = decode::<T>(&again, count).expect("we have written it");
    assert!(frame == second && message == same, "a message changes as it is passed on");
}

fn name(text: &str) {
    if let Ok(name) = MailboxName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(text.len() <= MailboxName::BYTES_MAX);
        assert!(text.chars().all(|c| c.is_ascii_graphic()), "a name that a terminal can show");
    }
}

fn typed(text: &str) {
    if let Ok(mode) = typed::mode(text) {
        assert!(mode <= 0o777);
    }
    if let Ok(span) = typed::duration(text) {
        assert!(std::time::Instant::now().checked_add(span).is_some(), "a time that there is");
    }
    let _ = typed::size(text);
    let _ = typed::mailbox_name(text);
    let _ = typed::lifetime(text);
    let _ = typed::group(text);
    let _ = typed::process(text);
    let _ = typed::cores(text);
    // Names of users are looked up in the system's files: too slow here, and no parsing of ours.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        let _ = typed::owner(text);
    }
}
