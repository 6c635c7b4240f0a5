//! Ending in good order when the user wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::exit_code::{Failure, Stop};

/// Whether the user wants us to end, by SIGINT or SIGTERM.
pub(crate) struct Interrupted {
    flag: Arc<AtomicBool>,
    watched: bool,
}

impl Interrupted {
    /// Signals end the process in their usual way.
    pub(crate) fn never() -> Self {
        Self { flag: Arc::default(), watched: false }
    }

    /// The first signal asks us to end once what is in hand is done; the second ends us at once.
    /// Processes started from now on do not take these signals: we end them.
    pub(crate) fn watch() -> Result<Self, Stop> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let flag = Arc::<AtomicBool>::default();
        // Blocked here before the thread starts: then only its wait takes them.
        signals
            .thread_block()
            .map_err(|error| Failure::io("cannot block signals", &error.into()))?;
        let seen = Arc::clone(&flag);
        thread::spawn(move || {
            // Relaxed: the flag says all there is to say.
            if signals.wait().is_ok() {
                seen.store(true, Ordering::Relaxed);
            }
            // From now on this thread takes them, in their usual way.
            let _ = signals.thread_unblock();
            loop {
                thread::park();
            }
        });
        Ok(Self { flag, watched: true })
    }

    /// Whether signals are watched at all.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether the first signal came.
    pub(crate) fn happened(&self) -> bool {
        // Relaxed: as above.
        self.flag.load(Ordering::Relaxed)
    }
}
