//! Whose request is in hand, where a successor sees it: a request that kills every daemon that does it must not be done for
//! ever.
//!
//! Two words of a region in the store: the session whose request is in hand (0: none), and how many daemons died in a row with
//! that session's request in hand.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libipc::sync::{AtomicU64, Ordering};
use libipc::sys::mapping::{Access, MapError, Mapping, Shared, view_slice};

use crate::regions::Region;
use crate::registry::link::SessionId;
use crate::store::{Kept, Store};

/// Name of the region.
pub const NAME: &str = "ipcd.progress";

/// A session whose requests have killed so many daemons in a row is ended.
pub const DEATHS_MAX: u64 = 5;

const BYTES: usize = 4096;

/// The words, and the region that they lie in.
#[derive(Debug)]
pub struct Progress {
    words: Shared<[AtomicU64]>,
    _region: Region,
}

impl Progress {
    /// With nothing in hand.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn begin(store: &Rc<Store>) -> io::Result<Self> {
        let region = Region::create(NAME, BYTES as u64)?.keep(store)?;
        Self::of(region).map_err(io::Error::other)
    }

    /// As a predecessor has left it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn resume(fd: OwnedFd, kept: Rc<Kept>) -> io::Result<Self> {
        Self::of(Region::found(NAME, fd, kept)).map_err(io::Error::other)
    }

    fn of(region: Region) -> Result<Self, MapError> {
        let mapping = Mapping::map(&region, BYTES, Access::ReadWrite)?;
        Ok(Self { words: view_slice(&mapping, 0, 2), _region: region })
    }

    // Relaxed throughout: the successor reads once this process is dead.

    /// A session's request is in hand from now on.
    pub fn enter(&self, session: SessionId) {
        self.set(0, session.0);
    }

    /// It is done.
    pub fn leave(&self) {
        self.set(0, 0);
        self.set(1, 0);
    }

    /// Notes the predecessor's death; says whose request has been too much for too many.
    #[must_use]
    pub fn note_death(&self) -> Option<SessionId> {
        let session = self.get(0);
        if session == 0 {
            self.leave();
            return None;
        }
        let deaths = self.get(1) + 1;
        self.set(1, deaths);
        (deaths >= DEATHS_MAX).then(|| {
            self.leave();
            SessionId(session)
        })
    }

    fn set(&self, word: usize, value: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn get(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_whose_request_kills_again_and_again_is_named() {
        let progress = Progress::begin(&Store::none()).unwrap();
        assert_eq!(progress.note_death(), None);
        progress.enter(SessionId(7));
        let named: Vec<_> = (1..=DEATHS_MAX).map(|_| progress.note_death()).collect();
        let (last, before) = named.split_last().unwrap();
        assert!(before.iter().all(Option::is_none));
        assert_eq!(*last, Some(SessionId(7)));
        assert_eq!(progress.note_death(), None, "it is not held against the next");
        // One that is done in between has killed nobody.
        for _ in 0..2 * DEATHS_MAX {
            progress.enter(SessionId(8));
            assert_eq!(progress.note_death(), None);
            progress.leave();
        }
    }
}
