//! Descriptors that were handed to clients who have not read them yet.
//!
//! The kernel counts those of all clients together against what the daemon's uid may have on its way, and there they
//! stay until they are read. So no session gets more than [`SESSION_MAX`] of them there, and no uid more than its share. An
//! answer that cannot be sent now counts as well: what it is to hand out is kept for it.

use std::collections::{BTreeMap, HashMap};

use crate::registry::link::SessionId;

use libipc::protocol::DESCRIPTORS_MAX;

/// Descriptors on their way to one session, at most: as many as one answer can have.
pub const SESSION_MAX: usize = DESCRIPTORS_MAX;

/// Of all descriptors that the daemon may have, one uid has one in so many on their way.
const SHARE: usize = 8;

/// What is on its way to one session.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Sent since it was last seen to have read all.
    unread: usize,
    /// Of an answer that is yet to be sent.
    waiting: usize,
}

impl Load {
    fn count(self) -> usize {
        self.unread + self.waiting
    }
}

/// What is on its way to whom.
#[derive(Debug)]
pub struct OnTheWay {
    uids: HashMap<u32, BTreeMap<SessionId, Load>>,
    uid_max: usize,
}

impl OnTheWay {
    /// Nothing yet, of a daemon that may have so many descriptors.
    #[must_use]
    pub fn new(descriptors_max: u64) -> Self {
        let share = usize::try_from(descriptors_max).unwrap_or(usize::MAX) / SHARE;
        Self { uids: HashMap::new(), uid_max: share.max(SESSION_MAX) }
    }

    /// How many are on their way to a uid's sessions.
    #[must_use]
    pub fn of_uid(&self, uid: u32) -> usize {
        self.uids.get(&uid).map_or(0, |sessions| sessions.values().map(|load| load.count()).sum())
    }

    /// Whether a uid may ask for more.
    #[must_use]
    pub fn may_ask(&self, uid: u32) -> bool {
        self.of_uid(uid) < self.uid_max
    }

    /// Whether a session's answer may be sent, as far as is known; then it is to be noted as waiting, or sent.
    #[must_use]
    pub fn may_send(&self, uid: u32, session: SessionId, count: usize) -> bool {
        let load = self.load(uid, session);
        let others = self.of_uid(uid) - load.count();
        load.unread + count <= SESSION_MAX && others + load.unread + count <= self.uid_max
    }

    /// An answer with descriptors waits to be sent.
    pub fn waits(&mut self, uid: u32, session: SessionId, count: usize) {
        self.change(uid, session, |load| load.waiting = count);
    }

    /// It was sent.
    pub fn sent(&mut self, uid: u32, session: SessionId, count: usize) {
        self.change(uid, session, |load| {
            load.waiting = 0;
            load.unread += count;
        });
    }

    /// A session has read all that it was sent.
    pub fn was_read(&mut self, uid: u32, session: SessionId) {
        self.change(uid, session, |load| load.unread = 0);
    }

    /// A session is over.
    pub fn forget(&mut self, uid: u32, session: SessionId) {
        self.change(uid, session, |load| *load = Load::default());
    }

    /// A uid's sessions that have some to read, as far as is known.
    #[must_use]
    pub fn unread(&self, uid: u32) -> Vec<SessionId> {
        let sessions = self.uids.get(&uid).into_iter().flatten();
        sessions.filter(|(_, load)| load.unread > 0).map(|(&session, _)| session).collect()
    }

    fn load(&self, uid: u32, session: SessionId) -> Load {
        self.uids.get(&uid).and_then(|it| it.get(&session)).copied().unwrap_or_default()
    }

    fn change(&mut self, uid: u32, session: SessionId, change: impl FnOnce(&mut Load)) {
        let mut load = self.load(uid, session);
        change(&mut load);
        if load.count() > 0 {
            self.uids.entry(uid).or_default().insert(session, load);
        } else if let Some(sessions) = self.uids.get_mut(&uid) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.uids.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    #[test]
    fn a_session_has_as_many_on_their_way_as_one_answer_has() {
        let mut way = OnTheWay::new(1 << 20);
        assert!(way.may_send(7, ONE, 250));
        way.sent(7, ONE, 200);
        assert!(way.may_send(7, ONE, 50) && !way.may_send(7, ONE, 51));
        assert!(way.may_send(7, TWO, 250), "another has its own");
        way.was_read(7, ONE);
        assert!(way.may_send(7, ONE, 250));
        assert!(way.uids.is_empty(), "nothing is left");
    }

    #[test]
    fn a_uids_sessions_have_an_eighth_of_all_together() {
        let mut way = OnTheWay::new(4000);
        way.sent(7, ONE, 250);
        assert!(way.may_send(7, TWO, 250));
        way.waits(7, TWO, 250);
        assert!(way.may_send(7, TWO, 250), "it does not stand in its own way");
        assert!(!way.may_send(7, SessionId(3), 1) && !way.may_ask(7));
        assert!(way.may_send(8, SessionId(3), 250) && way.may_ask(8), "another uid has its own");
        way.sent(7, TWO, 250);
        assert_eq!((way.of_uid(7), way.unread(7)), (500, vec![ONE, TWO]));
        way.was_read(7, ONE);
        assert!(way.may_ask(7));
        way.forget(7, TWO);
        assert!(way.uids.is_empty());
        // However few there are, one answer can be sent.
        assert!(OnTheWay::new(100).may_send(7, ONE, 250));
    }
}
