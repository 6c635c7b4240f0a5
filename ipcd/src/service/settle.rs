//! From what a request has done to what the members see of it: the state first, so that whatever anybody has been told
//! outlives the daemon.
//!
//! The order of a request's steps, and what a death between two of them comes to:
//!
//! 1. its regions are made and put into the store: no state names them, the successor drops them;
//! 2. what it has changed, and its answer, are committed to the state ([`Service::settle`]): before, the successor does the
//!    request, which is still in the socket; from here on it is done;
//! 3. members are shown it: the successor shows all that the registry has. Where that has freed a record on somebody's
//!    behalf, what waited for it goes, and that is committed and shown: before, the successor frees it again;
//!    Then regions of what is gone, or in use no more, are given back: before, the successor finds them without a mailbox, or
//!    beside one that does not use them, tells whoever has them mapped, and gives them back;
//! 4. the answer is sent: the successor sends it;
//! 5. the request is taken out of the socket (`Session::turn`): the successor sends the answer a second time, which the
//!    client passes over.
//!
//! Where step 2 fails, for want of memory, all that comes behind it waits until it succeeds, and so does every other
//! request: what members see and what clients are told is never ahead of the state.

use libipc::protocol::{Answer, Refusal, Request};
use tracing::{error, info};

use super::{Asker, Reply, Service};
use crate::progress::Progress;
use crate::regions::Handed;
use crate::registry::link::SessionId;
use crate::state::{Connection, Handled, State};
use crate::store::Store;

impl Service {
    /// Where what we have is kept.
    #[must_use]
    pub fn store(&self) -> &std::rc::Rc<Store> {
        &self.backstage.store
    }

    /// Whether a successor will find what is here.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.state.is_some() && self.store().is_there()
    }

    /// Whether the program is to be started anew.
    #[must_use]
    pub fn restarts(&self) -> bool {
        self.restarts && self.settled
    }

    pub(super) fn restart(&mut self, asker: &Asker<'_>) -> Result<Reply, Refusal> {
        let (uid, daemon_uid) = (asker.caller.identity.uid, nix::unistd::geteuid().as_raw());
        let wanted = "start the daemon anew".to_owned();
        if uid != daemon_uid && !asker.caller.is_root() {
            return Err(Refusal::NotAdministrator { wanted, uid, daemon_uid });
        }
        if !self.is_kept() {
            let error = "nobody keeps what it has: it has neither a keeper nor systemd's store";
            return Err(Refusal::Resources { step: "be started anew".into(), error: error.into() });
        }
        self.restarts = true;
        info!(by = %asker.caller.identity, "is to be started anew");
        Ok(Answer::Done.into())
    }

    /// Notes whose request is in hand.
    pub fn enter(&self, session: SessionId) {
        self.progress.iter().for_each(|progress| progress.enter(session));
    }

    /// Notes that it is done.
    pub fn leave(&self) {
        self.progress.iter().for_each(Progress::leave);
    }

    /// Notes a new session, whose descriptors are in the store under a name.
    pub fn connected(&mut self, session: SessionId, stored: String) {
        if let Some(state) = &mut self.state {
            state.last_session = session.0;
            let connection = Connection { stored, barrier: None, handled: None };
            state.connections.insert(session.0, connection);
        }
    }

    /// Notes that a session has said hello.
    pub fn greeted(&mut self, session: SessionId, barrier: bool) {
        let state = self.state.as_mut();
        if let Some(it) = state.and_then(|state| state.connections.get_mut(&session.0)) {
            it.barrier = Some(barrier);
        }
    }

    /// Notes the answer to a request that has changed something, so that it is done once only.
    pub fn handled(
        &mut self,
        session: SessionId,
        request: u64,
        answer: &[u8],
        descriptors: &[Handed],
    ) {
        let Some(state) = &mut self.state else { return };
        if !state.has_changed(&self.registry) && !self.restarts {
            return;
        }
        if let Some(connection) = state.connections.get_mut(&session.0) {
            let regions = descriptors.iter().map(|it| (it.name().to_owned(), it.is_read_only()));
            let (answer, regions) = (answer.to_vec(), regions.collect());
            connection.handled = Some(Handled { request, answer, regions });
        }
    }

    /// Notes that a client has its answer.
    pub fn answered(&mut self, session: SessionId) {
        if let Some(state) = &mut self.state {
            state.answered(session.0);
        }
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        if let Some(state) = &mut self.state {
            state.connections.remove(&session.0);
        }
    }

    /// Puts what was done into the state, then shows it, then gives back what is needed no more. While the state cannot be
    /// written nothing is shown, nobody is to be answered ([`Self::is_settled`]), and this is to be called again.
    pub fn settle(&mut self) {
        self.put_idle_away();
        if !self.commit() {
            return;
        }
        self.show_what_is_due();
        if self.has_freed() {
            self.put_idle_away();
            if !self.commit() {
                return;
            }
            self.show_what_is_due();
        }
        self.departing.clear();
        self.store().flush();
    }

    /// Whether the state has all that was done, and it was shown.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Says whether the state has all that was done.
    fn commit(&mut self) -> bool {
        let written = match &mut self.state {
            Some(state) => state.commit(&mut self.registry, &self.removed),
            None => {
                drop(self.registry.take_touched());
                Ok(())
            }
        };
        let was_settled = std::mem::replace(&mut self.settled, written.is_ok());
        match written {
            Ok(()) if !was_settled => info!("the state is written again"),
            Err(error) if was_settled => {
                error!(%error, "cannot write the state: nothing is answered until that is possible");
            }
            _ => {}
        }
        if self.settled {
            self.removed.clear();
        }
        self.settled
    }

    pub(super) fn end_state(&self) {
        if let Some(state) = &self.state
            && let Err(error) = state.end()
        {
            error!(%error, "cannot end the state");
        }
    }

    /// Shows the members what is yet to be shown.
    pub(super) fn show_what_is_due(&self) {
        for (id, show) in self.backstage.take() {
            let gone = || self.departing.iter().find(|(gone, _)| *gone == id).map(|(_, it)| it);
            if let Some(regions) = self.regions.get(&id).or_else(gone) {
                regions.show(&show);
            }
        }
    }

    /// Notes that nobody keeps anything any more.
    pub fn lose_store(&mut self) {
        self.store().lose();
        (self.state, self.progress, self.settled) = (None, None, true);
        info!(
            "goes on without a keeper: a death of this daemon is the end of its mailboxes from now on"
        );
        self.settle();
    }
}

/// Whether doing a request twice is as good as doing it once: such an answer is not worth keeping.
#[must_use]
pub fn only_asks(request: &Request) -> bool {
    matches!(
        request,
        Request::Fetch(_)
            | Request::List { .. }
            | Request::Show { .. }
            | Request::Status
            | Request::Find { .. }
    )
}

/// Whether the answer to a request may have descriptors.
#[must_use]
pub fn hands_out(request: &Request) -> bool {
    matches!(
        request,
        Request::Open { .. }
            | Request::Fetch(_)
            | Request::AddLane { .. }
            | Request::OpenDirect { .. }
            | Request::OpenReplies { .. }
            | Request::OpenReply { .. }
    )
}

/// The state, begun with what a registry has; `None`, said aloud, if it cannot be written.
pub fn begin_state(
    store: &std::rc::Rc<Store>,
    registry: &mut crate::registry::Registry,
    left: crate::state::Left,
) -> Option<State> {
    if !store.is_there() {
        return None;
    }
    let begun = State::begin(store, registry, left);
    begun.inspect_err(|error| error!(%error, "cannot write the state: a death of this daemon is the end of its mailboxes")).ok()
}
