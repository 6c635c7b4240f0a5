//! Ending in good order when the user wants it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first SIGINT or SIGTERM asks us to end once what is in hand is done, the second ends us at once.
/// Processes started from now on do not take these signals: we end them.
pub(crate) fn watch() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // Blocked here before the thread starts: then only its wait takes them.
    signals.thread_block()?;
    thread::spawn(move || {
        // Relaxed: the flag says all there is to say.
        if signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
        // From now on this thread takes them, in their usual way.
        let _ = signals.thread_unblock();
        loop {
            thread::park();
        }
    });
    Ok(())
}

/// Whether the first signal came.
pub(crate) fn happened() -> bool {
    // Relaxed: as above.
    INTERRUPTED.load(Ordering::Relaxed)
}
