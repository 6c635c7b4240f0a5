//! A receiver that does not do with every message what it is expected to.

use std::path::Path;

use libipc::{ReceiveError, Receiver, RequestError};
use tests::numbered;

use crate::{Outcome, said};

/// Receives numbered messages until the mailbox is closed and empty. Which it rejects and which it gives back at
/// first depends on their numbers alone; each of the others is in the log before it is acknowledged.
pub(crate) fn drain(receiver: &mut Receiver, log: &Path) -> Outcome {
    let mut log = numbered::open_log(log).map_err(said)?;
    let mut count = 0u64;
    loop {
        let delivery = match receiver.receive() {
            Ok(delivery) => delivery,
            Err(ReceiveError::Closed) => return Ok(count.to_string()),
            Err(error) => return Err(said(error)),
        };
        let entry = numbered::read(delivery.bytes(), delivery.attempts());
        if numbered::is_rejected(entry.number) && entry.attempts < 4 {
            match delivery.reject() {
                // Without room for it, or without the daemon, it comes again; some time that will do.
                Ok(()) | Err(RequestError::Refused(_) | RequestError::DaemonAway) => continue,
                Err(error) => return Err(said(error)),
            }
        }
        if numbered::is_returned(entry.number) && entry.attempts < 3 {
            delivery.return_to_queue();
            continue;
        }
        numbered::log(entry, &mut log).map_err(said)?;
        delivery.acknowledge();
        count += 1;
    }
}
