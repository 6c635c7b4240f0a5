//! What people type, into checked values: sizes, modes, durations, owners, names, attributes.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use libipc::{DirectAddress, Group, GroupName, MailboxName, SlowGroup};
use nix::unistd::User;

/// A size in bytes: `4096`, `64k`, `64KiB`, `1MiB`, `1G`. Units are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("{unit:?} is no unit of size: use B, KiB, MiB or GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| "a size is a number with a unit, as in 1MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".to_owned())
}

/// A mode in octal, `0` to `0777`.
pub(crate) fn mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u16::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !digits.starts_with('+'))
        .ok_or_else(|| "a mode is octal, 0 to 0777, as in 0622".to_owned())
}

/// A span of time: `2s`, `500ms`, `1m`, `1.5s`; without a unit, seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_s = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use us, ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "a duration is a number with a unit, as in 500ms".to_owned())?;
    let duration = Duration::try_from_secs_f64(number * unit_s)
        .map_err(|_| "the duration is too long".to_owned())?;
    // A deadline must be a time that the clock can tell.
    if duration > Duration::from_secs(100 * 365 * 24 * 3600) {
        return Err("the duration is too long".to_owned());
    }
    Ok(duration)
}

/// Whose a mailbox is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user.
    pub(crate) uid: u32,
    /// The group, where one was given.
    pub(crate) gid: Option<u32>,
}

/// An owner: `USER`, `UID`, `USER:GROUP`, `UID:GID`.
pub(crate) fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    Ok(Owner { uid: user_id(user)?, gid: group.map(group_id).transpose()? })
}

fn user_id(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ if matches!(text, "system" | "process") => {
            Err(format!("there is no user {text:?}: --lifetime says how long a mailbox lives"))
        }
        _ => Err(format!("there is no user {text:?}")),
    }
}

fn group_id(text: &str) -> Result<u32, String> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!("there is no group {text:?}")),
    }
}

/// A mailbox's name.
pub(crate) fn mailbox_name(text: &str) -> Result<MailboxName, String> {
    MailboxName::new(text).map_err(|refusal| refusal.to_string())
}

/// One of the words of an attribute; the help and completions list them.
pub(crate) fn word<T>(
    all: &'static [T],
    as_str: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: Copy + FromStr<Err = String> + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(|&value| as_str(value))).try_map(|word| word.parse())
}

/// How long a mailbox lives that we create: a process's mailbox would be gone with ours.
pub(crate) fn lifetime(text: &str) -> Result<libipc::Owner, String> {
    match text.parse()? {
        libipc::Owner::System => Ok(libipc::Owner::System),
        libipc::Owner::Process => Err("the mailbox would be gone as soon as ipcctl has ended: a \
             program creates its own with MailboxOptions::lifetime, or registers"
            .to_owned()),
    }
}

/// A group of receivers: `NAME`, `NAME:block`, `NAME:drop-oldest`. A name with a colon needs the word.
pub(crate) fn group(text: &str) -> Result<Group, String> {
    let (name, slow) = match text.rsplit_once(':') {
        Some((name, word)) => (name, word.parse()?),
        None => (text, SlowGroup::default()),
    };
    let name = GroupName::new(name).map_err(|refusal| refusal.to_string())?;
    Ok(Group { name, slow })
}

/// A process: the name under which it has registered, or its process id.
pub(crate) fn process(text: &str) -> Result<DirectAddress, String> {
    match text.parse() {
        Ok(pid) => Ok(DirectAddress::Pid(pid)),
        Err(_) => mailbox_name(text).map(|name| DirectAddress::Name(name.into())),
    }
}

/// Two processors: `0,1`.
pub(crate) fn cores(text: &str) -> Result<(usize, usize), String> {
    text.split_once(',')
        .and_then(|(one, other)| Some((one.trim().parse().ok()?, other.trim().parse().ok()?)))
        .ok_or_else(|| "two processors are named by their numbers, as in 0,1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("64KiB"), Ok(64 << 10));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("1 MiB"), Ok(1 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for bad in ["", "MiB", "1TB", "-1", "1.5MiB", "99999999999999999999", "99999999999G"] {
            assert!(size(bad).is_err(), "accepted {bad:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0622"), Ok(0o622));
        assert_eq!(mode("622"), Ok(0o622));
        assert_eq!(mode("0o600"), Ok(0o600));
        assert_eq!(mode("0"), Ok(0));
        for bad in ["", "0888", "1000", "u+w", "-1", "+7", "rw"] {
            assert!(mode(bad).is_err(), "accepted {bad:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "s", "2 s", "-2s", "2y", "1e9s", "..", "99999999999999h"] {
            assert!(duration(bad).is_err(), "accepted {bad:?}");
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(owner("1234"), Ok(Owner { uid: 1234, gid: None }));
        assert_eq!(owner("1234:55"), Ok(Owner { uid: 1234, gid: Some(55) }));
        assert_eq!(owner("root"), Ok(Owner { uid: 0, gid: None }));
        assert_eq!(owner("root:root"), Ok(Owner { uid: 0, gid: Some(0) }));
        for bad in ["", ":", "root:", "no-such-user-here", "0:no-such-group-here", "-1"] {
            assert!(owner(bad).is_err(), "accepted {bad:?}");
        }
    }

    #[test]
    fn groups_have_a_name_and_may_say_what_happens_when_they_are_slow() {
        let slow = |text| group(text).map(|group| (group.name.to_string(), group.slow));
        assert_eq!(slow("audit"), Ok(("audit".to_owned(), SlowGroup::Block)));
        assert_eq!(slow("audit:block"), Ok(("audit".to_owned(), SlowGroup::Block)));
        assert_eq!(slow("a:b:drop-oldest"), Ok(("a:b".to_owned(), SlowGroup::DropOldest)));
        for bad in ["", ":block", "audit:", "audit:drop-olest", "-x", "a:b"] {
            assert!(group(bad).is_err(), "accepted {bad:?}");
        }
    }

    #[test]
    fn a_mailbox_of_a_process_is_refused_and_says_why() {
        assert_eq!(lifetime("system"), Ok(libipc::Owner::System));
        assert!(lifetime("process").is_err_and(|error| error.contains("as soon as ipcctl")));
        assert!(lifetime("for ever").is_err_and(|error| error.contains("system, process")));
        assert!(owner("process").is_err_and(|error| error.contains("--lifetime")));
    }

    #[test]
    fn names_and_cores_are_checked() {
        assert!(mailbox_name("orders").is_ok());
        assert!(mailbox_name("or ders").is_err_and(|error| error.contains("not allowed")));
        assert_eq!(process("4711"), Ok(DirectAddress::Pid(4711)));
        assert_eq!(process("printer"), Ok(DirectAddress::Name("printer".into())));
        assert!(process("the printer").is_err());
        assert_eq!(cores("0,3"), Ok((0, 3)));
        assert!(cores("0").is_err());
    }
}
