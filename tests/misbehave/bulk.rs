//! Messages in place and in batches, as a child process.
//!
//! ```text
//! send_reserved BYTES                            one message, of which the beginning and the end are written
//! send_numbered_batches ID COUNT BYTES           as send_numbered, a handful at a time; COUNT, or until it is
//!                                                closed: says how many were sent
//! hold_batch MAX COUNT                           holding N: acknowledges COUNT, and keeps the others in hand
//! drain_batches MAX LOG                          as drain_logged
//! ```

use std::io::Write;

use libipc::{BatchStopped, ReceiveError, Receiver, SendError, Sender};
use tests::numbered::{self, Deed, Note};

use crate::{Outcome, answer, next_line, number, path, said};

/// Messages sent with one call.
const HANDFUL: u64 = 50;

pub(crate) fn send_reserved(sender: &mut Sender, len: usize) -> Result<(), String> {
    let mut message = sender.reserve(len).map_err(said)?;
    message.bytes_mut()[..5].copy_from_slice(b"begin");
    message.bytes_mut()[len - 4..].copy_from_slice(b"last");
    message.commit().map_err(said)
}

pub(crate) fn send_numbered<'a>(
    sender: &mut Sender,
    words: &mut impl Iterator<Item = &'a str>,
) -> Outcome {
    let id = number(words.next())?;
    let (count, len): (u64, usize) = (number(words.next())?, number(words.next())?);
    let mut sent = 0;
    while sent < count {
        let mut messages = vec![Vec::new(); HANDFUL.min(count - sent) as usize];
        for (n, message) in (sent..).zip(&mut messages) {
            numbered::write(id, n, len, message);
        }
        match sender.send_batch(&messages) {
            Ok(()) => sent += messages.len() as u64,
            Err(BatchStopped { sent: last, why: SendError::Closed }) => {
                sent += last as u64;
                break;
            }
            Err(error) => return Err(said(error)),
        }
    }
    Ok(sent.to_string())
}

pub(crate) fn hold<'a>(
    receiver: &mut Receiver,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut batch = receiver.receive_batch(number(words.next())?).map_err(said)?;
    batch.acknowledge_first(number(words.next())?);
    answer(&format!("holding {}", batch.len()));
    // Until it is killed, or told anything.
    let _ = next_line();
    Ok(())
}

pub(crate) fn drain<'a>(
    receiver: &mut Receiver,
    words: &mut impl Iterator<Item = &'a str>,
) -> Outcome {
    let max = number(words.next())?;
    let mut log = numbered::open_log(path(words.next())?).map_err(said)?;
    let mut count = 0;
    loop {
        let batch = match receiver.receive_batch(max) {
            Ok(batch) => batch,
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(said(error)),
        };
        let mut entries = Vec::new();
        for (n, message) in (1..).zip(batch.iter()) {
            let entry = numbered::read(message.bytes(), message.attempts());
            let with_next = n < batch.len();
            let note = Note { with_next, ..Note::of(entry, Deed::Acknowledges) };
            note.log(&mut entries).map_err(said)?;
        }
        // In one piece: whoever is killed here has taken all of it or nothing.
        log.write_all(&entries).map_err(said)?;
        count += batch.len();
        batch.acknowledge();
    }
    Note::alone(Deed::Settled).log(&mut log).map_err(said)?;
    Ok(count.to_string())
}
