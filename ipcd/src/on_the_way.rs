//! Descriptors that were handed to clients who have not read them yet.
//!
//! The kernel counts those of all clients together against what the daemon's uid may have on its way, and there they
//! stay until they are read. So no session gets more than [`SESSION_MAX`] of them there, no uid more than its share, and all
//! together leave a share to what the daemon itself has kept for it: without that nobody could connect. What an answer that
//! cannot be sent now is to hand out is kept for it: a uid that has its share there and in such answers is to ask for no more.

use std::collections::{BTreeMap, HashMap};

use crate::registry::link::SessionId;

use libipc::protocol::DESCRIPTORS_MAX;

/// Descriptors on their way to one session, at most: as many as one answer can have.
pub const SESSION_MAX: usize = DESCRIPTORS_MAX;

/// Of all descriptors that the daemon may have, one uid has one in so many on their way; as many are for the daemon's own.
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

    fn add(&mut self, other: Self) {
        self.unread += other.unread;
        self.waiting += other.waiting;
    }

    fn subtract(&mut self, other: Self) {
        self.unread -= other.unread;
        self.waiting -= other.waiting;
    }
}

/// What is on its way to one uid's sessions.
#[derive(Debug, Default)]
struct Uid {
    sessions: BTreeMap<SessionId, Load>,
    /// The sum of theirs.
    load: Load,
}

/// What is on its way to whom.
#[derive(Debug)]
pub struct OnTheWay {
    uids: HashMap<u32, Uid>,
    uid_max: usize,
    /// Sent to all uids and not seen to be read, and how many that may be. No uid counts for more than its share, however
    /// much it is taken to have.
    unread: usize,
    unread_max: usize,
}

impl OnTheWay {
    /// Nothing yet, of a daemon that may have so many descriptors.
    #[must_use]
    pub fn new(descriptors_max: u64) -> Self {
        let all = usize::try_from(descriptors_max).unwrap_or(usize::MAX);
        let share = all / SHARE;
        Self {
            uids: HashMap::new(),
            uid_max: share.max(SESSION_MAX),
            unread: 0,
            unread_max: (all - share).max(SESSION_MAX),
        }
    }

    /// Whether a uid may ask for more.
    #[must_use]
    pub fn may_ask(&self, uid: u32) -> bool {
        self.uids.get(&uid).is_none_or(|uid| uid.load.count() < self.uid_max)
    }

    /// Whether a session's answer may be sent, as far as is known; then it is to be noted as waiting, or sent.
    #[must_use]
    pub fn may_send(&self, uid: u32, session: SessionId, count: usize) -> bool {
        let sessions = self.load(uid, session).unread;
        let uids = self.uids.get(&uid).map_or(0, |uid| uid.load.unread);
        sessions + count <= SESSION_MAX && uids + count <= self.uid_max && !self.is_full(count)
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
        let sessions = self.uids.get(&uid).into_iter().flat_map(|uid| &uid.sessions);
        sessions.filter(|(_, load)| load.unread > 0).map(|(&session, _)| session).collect()
    }

    /// Whether all have so much that so many more are too many for the daemon, whoever they are for.
    #[must_use]
    pub fn is_full(&self, count: usize) -> bool {
        self.unread + count > self.unread_max
    }

    /// The uids that have some to read, as far as is known, if all have too much together for another full answer.
    #[must_use]
    pub fn crowd(&self) -> Vec<u32> {
        if !self.is_full(SESSION_MAX) {
            return Vec::new();
        }
        self.uids.iter().filter(|(_, uid)| uid.load.unread > 0).map(|(&uid, _)| uid).collect()
    }

    fn load(&self, uid: u32, session: SessionId) -> Load {
        self.uids.get(&uid).and_then(|uid| uid.sessions.get(&session)).copied().unwrap_or_default()
    }

    fn change(&mut self, number: u32, session: SessionId, change: impl FnOnce(&mut Load)) {
        let uid = self.uids.entry(number).or_default();
        let load = uid.sessions.entry(session).or_default();
        self.unread -= uid.load.unread.min(self.uid_max);
        uid.load.subtract(*load);
        change(load);
        uid.load.add(*load);
        self.unread += uid.load.unread.min(self.uid_max);
        if load.count() == 0 {
            uid.sessions.remove(&session);
        }
        if uid.sessions.is_empty() {
            self.uids.remove(&number);
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
        assert!(!way.may_ask(7), "what waits is kept");
        assert!(way.may_send(7, TWO, 250), "it does not stand in its own way");
        assert!(way.may_send(7, SessionId(3), 250), "nor in another's, or none could ever go on");
        way.sent(7, TWO, 250);
        assert!(!way.may_send(7, SessionId(3), 1) && !way.may_ask(7));
        assert!(way.may_send(8, SessionId(3), 250) && way.may_ask(8), "another uid has its own");
        assert_eq!(way.unread(7), [ONE, TWO]);
        way.was_read(7, ONE);
        assert!(way.may_ask(7));
        way.forget(7, TWO);
        assert!(way.uids.is_empty());
        // However few there are, one answer can be sent.
        assert!(OnTheWay::new(100).may_send(7, ONE, 250));
    }

    #[test]
    fn all_uids_leave_an_eighth_for_the_daemons_own() {
        let mut way = OnTheWay::new(4000);
        assert_eq!(way.crowd(), [0; 0]);
        // Of a predecessor's sessions it is not known how much it is; one uid's share is enough to think of.
        (0..100).for_each(|session| way.sent(7, SessionId(session), SESSION_MAX));
        (8..14).for_each(|uid| way.sent(uid, ONE, 500));
        assert_eq!(way.unread, 3500);
        assert!(!way.may_send(14, ONE, 1) && way.may_ask(14));
        let mut crowd = way.crowd();
        crowd.sort_unstable();
        assert_eq!(crowd, (7..14).collect::<Vec<_>>());
        (1..100).for_each(|session| way.was_read(7, SessionId(session)));
        assert_eq!(way.unread, 3250);
        assert!(way.may_send(14, ONE, 250));
        way.forget(7, SessionId(0));
        (8..14).for_each(|uid| way.was_read(uid, ONE));
        assert!(way.uids.is_empty() && way.unread == 0);
    }
}
