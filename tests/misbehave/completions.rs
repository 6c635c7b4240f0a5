//! A sender that is told by a signal, and one that takes back what it has just sent, until it is killed.
//!
//! The latter's log has an entry for each message whose fate it knows: `attempts` is 0 for one that was withdrawn, 1 for one
//! that a receiver had.

use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use libipc::{Returned, Sender, TicketState};
use tests::Dice;
use tests::numbered::{self, Entry};

/// `withdraw_numbered ID COUNT BYTES SEED LOG`
pub(crate) fn withdraw<'a>(
    sender: &mut Sender,
    words: &mut impl Iterator<Item = &'a str>,
) -> crate::Outcome {
    let id = crate::number(words.next())?;
    let (count, len) = (crate::number::<u64>(words.next())?, crate::number(words.next())?);
    let mut dice = Dice::new(crate::number(words.next())?);
    let mut log = numbered::open_log(crate::path(words.next())? as &Path).map_err(crate::said)?;
    let mut message = Vec::new();
    for number in 0..count {
        numbered::write(id, number, len, &mut message);
        let ticket = sender.send_tracked(&message).map_err(crate::said)?;
        for _ in 0..dice.below(2000) {
            std::hint::spin_loop();
        }
        let attempts = match ticket.withdraw().map_err(crate::said)? {
            TicketState::Returned(Returned::Withdrawn) => 0,
            TicketState::InHand | TicketState::Done => 1,
            other => return Err(crate::said(other)),
        };
        numbered::log(Entry { sender: id, attempts, number }, &mut log).map_err(crate::said)?;
    }
    Ok(String::new())
}

/// `signalled VALUE TEXT`
pub(crate) fn signalled(sender: &mut Sender, rest: &str) -> crate::Outcome {
    let (value, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGUSR1);
    // The library's threads take no signals, and there are no others but this one.
    mask.thread_block().map_err(crate::said)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).map_err(crate::said)?;
    let ticket = sender.send_tracked(text.as_bytes()).map_err(crate::said)?;
    if ticket.signal(0, 0).is_ok() {
        return Err("there is no signal 0".to_owned());
    }
    ticket.signal(Signal::SIGUSR1 as i32, crate::number(Some(value))?).map_err(crate::said)?;
    let info = signals.read_signal().map_err(crate::said)?.ok_or("no signal")?;
    Ok(format!("{} from {}", info.ssi_ptr, info.ssi_pid))
}
