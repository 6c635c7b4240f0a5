//! Who may do what with a mailbox: mode bits as files have them, decided anew at every request.

use libipc::protocol::{Identity, MailboxAttributes, MailboxName, Refusal, Role};
use serde::{Deserialize, Serialize};

const READ: u16 = 4;
const WRITE: u16 = 2;

/// Whoever asks, as the kernel attests it.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Process, and its effective uid and gid now.
    pub identity: Identity,
    /// Its supplementary groups when it connected.
    pub groups: &'a [u32],
}

impl Caller<'_> {
    /// Root passes every check.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.identity.uid == 0
    }

    /// Whether the caller belongs to a group.
    #[must_use]
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.identity.gid == gid || self.groups.contains(&gid)
    }
}

/// Owner and mode of a mailbox: all that a decision needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u16,
}

impl Ownership {
    /// What a mailbox that the caller creates would have; `None` in the attributes is the caller's own.
    #[must_use]
    pub fn at_create(attributes: &MailboxAttributes, caller: &Caller<'_>) -> Self {
        Self {
            uid: attributes.owner_uid.unwrap_or(caller.identity.uid),
            gid: attributes.owner_gid.unwrap_or(caller.identity.gid),
            mode: attributes.mode,
        }
    }

    /// Whether the caller may give a new mailbox to this owner.
    #[must_use]
    pub fn may_be_given_by(&self, caller: &Caller<'_>) -> bool {
        caller.is_root() || (self.uid == caller.identity.uid && caller.is_in_group(self.gid))
    }

    /// Whether the mode lets the caller open the mailbox in this role. As for files, the first class
    /// that fits decides: an owner is not helped by what others may.
    #[must_use]
    pub fn may_open(&self, caller: &Caller<'_>, role: Role) -> bool {
        let wanted = match role {
            Role::Send => WRITE,
            Role::Receive | Role::Observe => READ,
        };
        let class = if caller.identity.uid == self.uid {
            6
        } else if caller.is_in_group(self.gid) {
            3
        } else {
            0
        };
        caller.is_root() || (self.mode >> class) & wanted != 0
    }

    /// Whether the caller may close, open and delete the mailbox.
    #[must_use]
    pub fn may_administer(&self, caller: &Caller<'_>) -> bool {
        caller.is_root() || caller.identity.uid == self.uid
    }

    /// Whether the caller gets to know that the mailbox is there: whoever may use or administer it.
    #[must_use]
    pub fn may_see(&self, caller: &Caller<'_>) -> bool {
        self.may_administer(caller)
            || self.may_open(caller, Role::Send)
            || self.may_open(caller, Role::Receive)
    }

    /// The refusal that names all of it.
    #[must_use]
    pub fn refuse(&self, name: &MailboxName, wanted: &str, caller: &Caller<'_>) -> Refusal {
        Refusal::PermissionDenied {
            name: name.to_string(),
            wanted: wanted.to_owned(),
            uid: caller.identity.uid,
            owner_uid: self.uid,
            owner_gid: self.gid,
            mode: self.mode,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller<'_> {
        Caller { identity: Identity { pid: 1, uid, gid }, groups }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let owner = caller(10, 90, &[]);
        let by_gid = caller(11, 20, &[]);
        let by_group = caller(11, 90, &[30, 20]);
        let other = caller(11, 90, &[30]);
        let root = caller(0, 0, &[]);
        // Mode, then (send, receive) for each of the five.
        let table = [
            (0o000, [(false, false), (false, false), (false, false), (false, false)]),
            (0o600, [(true, true), (false, false), (false, false), (false, false)]),
            (0o400, [(false, true), (false, false), (false, false), (false, false)]),
            (0o066, [(false, false), (true, true), (true, true), (true, true)]),
            (0o606, [(true, true), (false, false), (false, false), (true, true)]),
            (0o622, [(true, true), (true, false), (true, false), (true, false)]),
            (0o640, [(true, true), (false, true), (false, true), (false, false)]),
            (0o111, [(false, false), (false, false), (false, false), (false, false)]),
        ];
        for (mode, expected) in table {
            let mailbox = Ownership { uid: 10, gid: 20, mode };
            for (who, (send, receive)) in [&owner, &by_gid, &by_group, &other].iter().zip(expected)
            {
                assert_eq!(mailbox.may_open(who, Role::Send), send, "{mode:o} {who:?}");
                assert_eq!(mailbox.may_open(who, Role::Receive), receive, "{mode:o} {who:?}");
                assert_eq!(mailbox.may_open(who, Role::Observe), receive, "{mode:o} {who:?}");
            }
            assert!(mailbox.may_open(&root, Role::Send) && mailbox.may_open(&root, Role::Receive));
        }
    }

    #[test]
    fn only_the_owner_and_root_administer_and_only_users_see() {
        let mailbox = Ownership { uid: 10, gid: 20, mode: 0o040 };
        assert!(mailbox.may_administer(&caller(10, 1, &[])));
        assert!(mailbox.may_administer(&caller(0, 0, &[])));
        assert!(!mailbox.may_administer(&caller(11, 20, &[])));
        assert!(mailbox.may_see(&caller(10, 1, &[])));
        assert!(mailbox.may_see(&caller(11, 20, &[])));
        assert!(!mailbox.may_see(&caller(11, 21, &[])));
    }

    #[test]
    fn only_root_gives_mailboxes_to_others() {
        let given = |uid, gid| Ownership { uid, gid, mode: 0o600 };
        let user = caller(10, 20, &[30]);
        assert!(given(10, 20).may_be_given_by(&user));
        assert!(given(10, 30).may_be_given_by(&user));
        assert!(!given(10, 31).may_be_given_by(&user));
        assert!(!given(11, 20).may_be_given_by(&user));
        assert!(given(11, 31).may_be_given_by(&caller(0, 0, &[])));
    }
}
