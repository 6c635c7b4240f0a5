//! What each uid uses, and what it may use. Every charge is released by the same amount.

use std::collections::HashMap;

use libipc::protocol::{Refusal, Usage};

/// What a uid may use where nobody said otherwise.
pub const DEFAULT_LIMITS: Usage =
    Usage { mailboxes: 4096, lanes: 4096, sessions: 1024, bytes: 64 << 30, dead_letters: 4096 };

/// What a sender is charged for a lane whose file has so many bytes.
#[must_use]
pub fn lane_usage(bytes: u64) -> Usage {
    Usage { lanes: 1, bytes, ..Usage::default() }
}

/// Limits, and use so far.
#[derive(Clone, Debug)]
pub struct Quotas {
    default: Usage,
    users: HashMap<u32, Usage>,
    used: HashMap<u32, Usage>,
}

impl Quotas {
    /// The same limits for every uid but those in `users`.
    #[must_use]
    pub fn new(default: Usage, users: HashMap<u32, Usage>) -> Self {
        Self { default, users, used: HashMap::new() }
    }

    /// What a uid may use.
    #[must_use]
    pub fn limits(&self, uid: u32) -> Usage {
        self.users.get(&uid).copied().unwrap_or(self.default)
    }

    /// What a uid uses.
    #[must_use]
    pub fn used(&self, uid: u32) -> Usage {
        self.used.get(&uid).copied().unwrap_or_default()
    }

    /// The uids that use something.
    pub fn users(&self) -> impl Iterator<Item = (u32, Usage)> + '_ {
        self.used.iter().map(|(&uid, &usage)| (uid, usage))
    }

    /// Charges all of `asked` to a uid, or nothing.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`] for the first thing of which there would be too much.
    pub fn charge(&mut self, uid: u32, asked: Usage) -> Result<(), Refusal> {
        let (used, limits) = (self.used(uid), self.limits(uid));
        for (what, used, asked, limit) in [
            ("mailboxes", used.mailboxes, asked.mailboxes, limits.mailboxes),
            ("lanes", used.lanes, asked.lanes, limits.lanes),
            ("sessions", used.sessions, asked.sessions, limits.sessions),
            ("bytes", used.bytes, asked.bytes, limits.bytes),
            ("dead letters", used.dead_letters, asked.dead_letters, limits.dead_letters),
        ] {
            if asked > 0 && used.saturating_add(asked) > limit {
                return Err(Refusal::QuotaExceeded { uid, what: what.into(), used, asked, limit });
            }
        }
        self.note(uid, asked);
        Ok(())
    }

    /// Charges what is used already, whatever the limits are now.
    pub(super) fn note(&mut self, uid: u32, used: Usage) {
        let entry = self.used.entry(uid).or_default();
        entry.mailboxes += used.mailboxes;
        entry.lanes += used.lanes;
        entry.sessions += used.sessions;
        entry.dead_letters += used.dead_letters;
        entry.bytes += used.bytes;
    }

    /// Forgets all use.
    pub(super) fn forget(&mut self) {
        self.used.clear();
    }

    /// Gives back what was charged.
    pub fn release(&mut self, uid: u32, returned: Usage) {
        let Some(entry) = self.used.get_mut(&uid) else { return };
        entry.mailboxes = entry.mailboxes.saturating_sub(returned.mailboxes);
        entry.lanes = entry.lanes.saturating_sub(returned.lanes);
        entry.sessions = entry.sessions.saturating_sub(returned.sessions);
        entry.bytes = entry.bytes.saturating_sub(returned.bytes);
        entry.dead_letters = entry.dead_letters.saturating_sub(returned.dead_letters);
        if *entry == Usage::default() {
            self.used.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_a_limit_charges_nothing_and_names_the_limit() {
        let limits = Usage { mailboxes: 2, lanes: 9, sessions: 9, bytes: 100, dead_letters: 9 };
        let mut quotas = Quotas::new(limits, HashMap::from([(7, DEFAULT_LIMITS)]));
        let one = Usage { mailboxes: 1, bytes: 60, ..Usage::default() };
        quotas.charge(1, one).unwrap();
        let refusal = quotas.charge(1, one).unwrap_err();
        let expected = Refusal::QuotaExceeded {
            uid: 1,
            what: "bytes".into(),
            used: 60,
            asked: 60,
            limit: 100,
        };
        assert_eq!(refusal, expected);
        assert_eq!(quotas.used(1), one);
        quotas.charge(7, one).unwrap();
        quotas.charge(7, one).unwrap();
        quotas.release(1, one);
        assert_eq!(quotas.used(1), Usage::default());
        assert_eq!(quotas.users().count(), 1);
    }
}
