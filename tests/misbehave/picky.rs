//! A receiver that does not do with every message what it is expected to.

use std::path::Path;

use libipc::{ReceiveError, Receiver, RequestError};
use tests::numbered::{self, Deed, Note};

use crate::{Outcome, said};

/// Receives numbered messages until the mailbox is closed and empty. Which it rejects and which it gives back at
/// first depends on their numbers alone; what it does with each is in the log before it does it.
pub(crate) fn drain(receiver: &mut Receiver, log: &Path) -> Outcome {
    let mut log = numbered::open_log(log).map_err(said)?;
    let mut count = 0u64;
    loop {
        let delivery = match receiver.receive() {
            Ok(delivery) => delivery,
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(said(error)),
        };
        let entry = numbered::read(delivery.bytes(), delivery.attempts());
        let deed = match entry.attempts {
            0..4 if numbered::is_rejected(entry.number) => Deed::Rejects,
            0..3 if numbered::is_returned(entry.number) => Deed::Returns,
            _ => Deed::Acknowledges,
        };
        Note::of(entry, deed).log(&mut log).map_err(said)?;
        match deed {
            Deed::Rejects => match delivery.reject() {
                Ok(()) => {}
                // Without room for it, or without the daemon, it comes again; some time that will do.
                Err(RequestError::Refused(_) | RequestError::DaemonAway) => {
                    Note::alone(Deed::Undone).log(&mut log).map_err(said)?;
                }
                Err(error) => return Err(said(error)),
            },
            Deed::Returns => delivery.return_to_queue(),
            _ => {
                delivery.acknowledge();
                count += 1;
            }
        }
    }
    Note::alone(Deed::Settled).log(&mut log).map_err(said)?;
    Ok(count.to_string())
}
