//! Connections that were accepted and are still to become sessions: each uid's in the order in which they came, one
//! uid after the other.
//!
//! To make a session costs as much as some dozen connections cost whoever floods the daemon with them. In a
//! single line everybody else would wait behind thousands of those.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use libipc::sys::socket;

use crate::client_socket::ClientSocket;

/// Connections of one uid that wait at most; more are closed at once.
const WAITING_A_UID: usize = 1024;

/// Who waits to be let in. `T` is a connection.
#[derive(Debug)]
pub struct Arrivals<T = ClientSocket> {
    waiting: BTreeMap<u32, VecDeque<T>>,
    /// The uid that was let in last.
    last: u32,
}

impl<T> Default for Arrivals<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), last: u32::MAX }
    }
}

impl Arrivals {
    /// Has a connection wait, or closes it if too many of its uid do.
    ///
    /// # Errors
    /// What the kernel said when it was asked who connects.
    pub fn come(&mut self, connection: ClientSocket) -> io::Result<()> {
        let uid = socket::peer_credentials(&connection)?.uid();
        self.add(uid, connection);
        Ok(())
    }
}

impl<T> Arrivals<T> {
    fn add(&mut self, uid: u32, connection: T) {
        let line = self.waiting.entry(uid).or_default();
        if line.len() < WAITING_A_UID {
            line.push_back(connection);
        }
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next to be let in: the first of the uid whose turn it is.
    pub fn take_next(&mut self) -> Option<T> {
        let behind = self.last.checked_add(1).and_then(|from| self.waiting.range(from..).next());
        let (&uid, _) = behind.or_else(|| self.waiting.iter().next())?;
        self.last = uid;
        let line = self.waiting.get_mut(&uid)?;
        let first = line.pop_front();
        if line.is_empty() {
            self.waiting.remove(&uid);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_after_the_other_and_each_in_its_order() {
        let mut arrivals = Arrivals::default();
        for (uid, name) in [(7, "a"), (7, "b"), (7, "c"), (0, "x"), (u32::MAX, "y"), (0, "z")] {
            arrivals.add(uid, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| arrivals.take_next()).collect();
        assert_eq!(order, ["x", "a", "y", "z", "b", "c"]);
        assert!(arrivals.is_empty());
    }

    #[test]
    fn who_comes_too_often_waits_with_so_many_and_keeps_nobody_else_from_waiting() {
        let mut arrivals = Arrivals::default();
        (0..2 * WAITING_A_UID).for_each(|n| arrivals.add(1, n));
        arrivals.add(2, 0);
        let order: Vec<_> = std::iter::from_fn(|| arrivals.take_next()).collect();
        assert_eq!(order.len(), WAITING_A_UID + 1);
        assert_eq!(order[..3], [0, 0, 1]);
    }
}
