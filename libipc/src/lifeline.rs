//! Whether a handle ends with the daemon. Traffic needs none, so a handle asks only where that was asked for:
//! before it sleeps, and it never sleeps long then.
//!
//! The kernel tells of the daemon's end by a hang-up on the session's socket, and a sleep on futex words ends for
//! no descriptor. So whoever asked sleeps [`LOOK_EVERY`] at most at a time. A connection that was lost stays lost:
//! a daemon that comes back knows nothing of the links of the one before.

use std::time::{Duration, Instant};

use crate::session::Session;

/// How long a handle that ends with the daemon sleeps at most before it asks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An answer serves for so long: whoever tries again and again does not make a system call each time.
const ANSWER_SERVES: Duration = Duration::from_millis(10);

/// What a handle knows of the daemon, if it ends with it.
#[derive(Debug, Default)]
pub(crate) struct Lifeline {
    /// The handle is to end with the daemon.
    kept: bool,
    lost: bool,
    asked: Option<Instant>,
}

impl Lifeline {
    /// From now on the handle ends with the daemon.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether the handle is to end, as it last heard.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the handle is to end. Asks the kernel, unless it has just done so.
    pub(crate) fn ask(&mut self, session: &Session) -> bool {
        if self.kept && !self.lost {
            let now = Instant::now();
            if self.asked.is_none_or(|asked| now.duration_since(asked) >= ANSWER_SERVES) {
                self.lost = session.is_away();
                self.asked = Some(now);
            }
        }
        self.lost
    }

    /// How long the handle may sleep, where it might otherwise sleep for `at_most`.
    pub(crate) fn bound(&self, at_most: Option<Duration>) -> Option<Duration> {
        if self.kept { Some(at_most.map_or(LOOK_EVERY, |it| it.min(LOOK_EVERY))) } else { at_most }
    }
}
