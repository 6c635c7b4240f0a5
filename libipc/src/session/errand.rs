//! A request that may outlast the operation that made it.
//!
//! An operation waits no longer than its deadline, and the daemon may be away for longer. What it was asked it will
//! do when it is back, once, whoever waits by then. So a request is never taken back: whoever has given it up and needs its
//! answer after all takes it up where it was left, instead of asking a second time; and where nobody ever will, what was
//! made for it is closed again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answered, Session};
use crate::error::RequestError;
use crate::protocol::Request;

/// How long an operation that otherwise never waits, or that can go on without the answer, waits for the daemon. One that is
/// there answers within a fraction of it; one that is being started anew within that, as a rule.
const BRIEFLY: Duration = Duration::from_millis(100);

/// How long to wait for an answer of the daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    deadline: Option<Instant>,
    briefly: bool,
}

impl Wait {
    /// For [`BRIEFLY`], from when it was asked.
    pub(crate) const BRIEFLY: Self = Self { deadline: None, briefly: true };

    /// Until a deadline; without one until the answer is there.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, briefly: false }
    }

    /// For [`BRIEFLY`], from now on.
    pub(crate) fn a_moment() -> Self {
        Self::until(Some(Instant::now() + BRIEFLY))
    }

    /// Not at all: a look whether it is there.
    pub(crate) fn not() -> Self {
        Self::until(Some(Instant::now()))
    }

    /// As this one, and no longer than for [`BRIEFLY`].
    pub(crate) fn briefly(self) -> Self {
        Self { briefly: true, ..self }
    }

    /// The deadline of what was asked at a time.
    fn deadline(self, asked: Instant) -> Option<Instant> {
        let brief = self.briefly.then(|| asked + BRIEFLY);
        self.deadline.into_iter().chain(brief).min()
    }
}

/// A request that was asked, and not answered yet.
#[derive(Debug)]
struct Asked {
    session: Arc<Session>,
    number: u64,
    since: Instant,
    answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            self.session.abandon(self.number);
        }
    }
}

/// What its owner asks the daemon, one request at a time. Dropped, it gives back what it has not taken.
#[derive(Debug, Default)]
pub(crate) struct Errand {
    asked: Option<Asked>,
}

impl Errand {
    /// Whether something was asked whose answer has not been taken.
    pub(crate) fn is_under_way(&self) -> bool {
        self.asked.is_some()
    }

    /// Asks, unless something is under way already: that the caller must know to be the same. `None`: no answer by then; it
    /// stays under way, unless not even the kernel has taken the request.
    pub(crate) fn run(
        &mut self,
        session: &Arc<Session>,
        request: &Request,
        wait: Wait,
    ) -> Result<Option<Answered>, RequestError> {
        if self.asked.is_none() {
            let since = Instant::now();
            let Some(number) = session.send(request, wait.deadline(since))? else {
                return Ok(None);
            };
            let session = session.clone();
            self.asked = Some(Asked { session, number, since, answered: false });
        }
        self.take_up(wait)
    }

    /// The answer to what is under way.
    pub(crate) fn take_up(&mut self, wait: Wait) -> Result<Option<Answered>, RequestError> {
        let Some(asked) = &mut self.asked else { return Ok(None) };
        let answer = asked.session.await_answer(asked.number, wait.deadline(asked.since));
        if !matches!(answer, Ok(None)) {
            asked.answered = true;
            self.asked = None;
        }
        answer
    }
}
