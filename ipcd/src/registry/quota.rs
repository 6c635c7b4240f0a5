//! What each uid uses, and what it may use. Every charge is released by the same amount.
//!
//! Whatever `ipcd` keeps a descriptor for is charged for that as well: its descriptors are what all uids share.

use std::collections::HashMap;

use libipc::protocol::{Refusal, Usage};

/// What a uid may use where nobody said otherwise. How many descriptors that is follows from how many there are:
/// [`descriptors_a_uid`]. Here it is a quarter of what a store keeps.
pub const DEFAULT_LIMITS: Usage = Usage {
    mailboxes: 4096,
    lanes: 4096,
    sessions: 1024,
    links: 32_768,
    bytes: 64 << 30,
    dead_letters: 4096,
    descriptors: 8000,
};

/// What a session is charged: its socket and its pidfd.
pub const SESSION: Usage = Usage { sessions: 1, descriptors: 2, ..NOTHING };

/// What the owner of a mailbox is charged, whether anybody uses it or not.
pub const MAILBOX: Usage = Usage { mailboxes: 1, ..NOTHING };

/// What a session is charged for each of its links, until it is closed: a few hundred bytes of the daemon's memory.
pub const LINK: Usage = Usage { links: 1, ..NOTHING };

const NOTHING: Usage = Usage {
    mailboxes: 0,
    lanes: 0,
    sessions: 0,
    links: 0,
    bytes: 0,
    dead_letters: 0,
    descriptors: 0,
};

/// How many of all descriptors one uid may have where nobody said otherwise: what is left is for three others like it. A
/// daemon that serves one uid keeps but an eighth back.
#[must_use]
pub fn descriptors_a_uid(all: u64, private: bool) -> u64 {
    if private { all - all / 8 } else { all / 4 }
}

/// Of its descriptors so many are for a uid's sessions alone: who has used up all others can connect still, to give some
/// back.
const FOR_SESSIONS: u64 = 16;

/// What a sender is charged for a lane whose file has so many bytes.
#[must_use]
pub fn lane_usage(bytes: u64) -> Usage {
    Usage { lanes: 1, bytes, descriptors: 1, ..NOTHING }
}

/// What the owner of a mailbox is charged for a dead letter whose lane has so many bytes.
#[must_use]
pub fn dead_letter_usage(bytes: u64) -> Usage {
    Usage { dead_letters: 1, bytes, descriptors: 1, ..NOTHING }
}

type Count = fn(&mut Usage) -> &mut u64;

/// All that is counted, under the name by which a refusal tells of it.
const COUNTS: [(&str, Count); 7] = [
    ("mailboxes", |usage| &mut usage.mailboxes),
    ("lanes", |usage| &mut usage.lanes),
    ("sessions", |usage| &mut usage.sessions),
    ("links", |usage| &mut usage.links),
    ("bytes", |usage| &mut usage.bytes),
    ("dead letters", |usage| &mut usage.dead_letters),
    ("descriptors", |usage| &mut usage.descriptors),
];

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
    pub fn charge(&mut self, uid: u32, mut asked: Usage) -> Result<(), Refusal> {
        let (mut used, mut limits) = (self.used(uid), self.limits(uid));
        if asked.sessions == 0 {
            limits.descriptors -= FOR_SESSIONS.min(limits.descriptors / 4);
        }
        for (what, count) in COUNTS {
            let (used, asked, limit) = (*count(&mut used), *count(&mut asked), *count(&mut limits));
            if asked > 0 && used.saturating_add(asked) > limit {
                return Err(Refusal::QuotaExceeded { uid, what: what.into(), used, asked, limit });
            }
        }
        self.note(uid, asked);
        Ok(())
    }

    /// Charges what is used already, whatever the limits are now.
    pub(super) fn note(&mut self, uid: u32, mut used: Usage) {
        let entry = self.used.entry(uid).or_default();
        for (_, count) in COUNTS {
            *count(entry) += *count(&mut used);
        }
    }

    /// Forgets all use.
    pub(super) fn forget(&mut self) {
        self.used.clear();
    }

    /// Gives back what was charged.
    pub fn release(&mut self, uid: u32, mut returned: Usage) {
        let Some(entry) = self.used.get_mut(&uid) else { return };
        for (_, count) in COUNTS {
            let left = count(entry);
            *left = left.saturating_sub(*count(&mut returned));
        }
        if *entry == Usage::default() {
            self.used.remove(&uid);
        }
    }
}

/// Whether nothing is used beyond its limit.
#[cfg(any(test, fuzzing))]
pub(super) fn is_within(mut used: Usage, mut limits: Usage) -> bool {
    COUNTS.iter().all(|(_, count)| *count(&mut used) <= *count(&mut limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_a_limit_charges_nothing_and_names_the_limit() {
        let limits = Usage { bytes: 100, mailboxes: 2, ..DEFAULT_LIMITS };
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

    #[test]
    fn who_has_used_all_descriptors_up_can_connect_still() {
        let limits = Usage { descriptors: 100, ..DEFAULT_LIMITS };
        let mut quotas = Quotas::new(limits, HashMap::new());
        let lanes = (0..).map_while(|_| quotas.charge(1, lane_usage(4096)).ok()).count();
        assert_eq!(lanes, 84);
        let refusal = quotas.charge(1, lane_usage(4096)).unwrap_err().to_string();
        assert_eq!(refusal, "uid 1 uses 84 of 84 descriptors; 1 more were asked for");
        let sessions = (0..).map_while(|_| quotas.charge(1, SESSION).ok()).count();
        assert_eq!(sessions, 8);
        assert_eq!(quotas.used(1).descriptors, 100);
    }

    #[test]
    fn each_thing_that_is_charged_has_a_limit_of_its_own() {
        let each = |usage: &mut Usage| COUNTS.map(|(_, count)| *count(usage));
        let mut all = Usage::default();
        for (number, (_, count)) in (1..).zip(COUNTS) {
            *count(&mut all) = number;
        }
        assert_eq!(each(&mut all), [1, 2, 3, 4, 5, 6, 7], "each is counted, and no other");
        for (what, count) in COUNTS {
            let mut limits = Usage { descriptors: 999, ..all };
            *count(&mut limits) = *count(&mut all) - 1;
            let refusal = Quotas::new(limits, HashMap::new()).charge(1, all).unwrap_err();
            assert!(matches!(&refusal, Refusal::QuotaExceeded { what: it, .. } if it == what));
        }
    }
}
