//! Settings: the command line, then the file, then what we think sensible.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use libipc::lane::position::POSITION_BITS;
use libipc::protocol::{PRIVATE_SOCKET, SYSTEM_SOCKET, Usage};
use serde::Deserialize;

use crate::registry::quota::{DEFAULT_LIMITS, Quotas, descriptors_a_uid};

/// Where the settings are read from if nobody says otherwise.
pub const CONFIG_FILE: &str = "/etc/ipcd.toml";

/// The daemon that owns mailboxes
///
/// Processes exchange messages through mailboxes; ipcd creates them, decides who may map what, and
/// mends what a killed process leaves. Without options it is the system's daemon.
#[derive(Clone, Debug, Parser)]
#[command(name = "ipcd", version)]
pub struct Arguments {
    /// Listen here [default: /run/ipcd/ipcd.sock]
    #[arg(long, value_name = "PATH", env = "IPCD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Serve this user alone, at $XDG_RUNTIME_DIR/ipcd/ipcd.sock, and exit when idle
    #[arg(long)]
    pub private: bool,
    /// With --private: exit after so long without a session and without a mailbox
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub idle_exit: u64,
    /// Read settings from here [default: /etc/ipcd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Mailboxes that one uid may own
    #[arg(long, value_name = "COUNT")]
    pub mailboxes_max: Option<u64>,
    /// Lanes (sender handles) that one uid may hold
    #[arg(long, value_name = "COUNT")]
    pub lanes_max: Option<u64>,
    /// Sessions (connected processes) that one uid may have
    #[arg(long, value_name = "COUNT")]
    pub sessions_max: Option<u64>,
    /// Links (mailboxes held open, once for each handle) that one uid may have
    #[arg(long, value_name = "COUNT")]
    pub links_max: Option<u64>,
    /// Bytes that one uid's mailboxes and lanes may reserve, such as 4GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub bytes_max: Option<u64>,
    /// Dead letters that one uid's mailboxes may have
    #[arg(long, value_name = "COUNT")]
    pub dead_letters_max: Option<u64>,
    /// Descriptors that ipcd may keep for one uid [default: a quarter of all that it may have]
    #[arg(long, value_name = "COUNT")]
    pub descriptors_max: Option<u64>,
    /// Log this much: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Mode of the socket: who may connect; what they may do is each mailbox's own matter
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub socket_mode: Option<u32>,
    /// Go on in the background; return once a daemon, this or another, listens there
    #[arg(long)]
    pub detach: bool,
    /// What --detach starts
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Do not keep mailboxes beyond a death of this process: no small parent that starts it again
    #[arg(long)]
    pub no_keeper: bool,
    /// What the small parent starts
    #[arg(long, hide = true)]
    pub kept: bool,
    /// Check the settings and exit
    #[arg(long)]
    pub check_config: bool,
    /// Where new lanes begin, in granules: to test the wrap
    #[arg(long, hide = true, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << POSITION_BITS))]
    pub first_position: u64,
    /// Behave as if the kernel refused the barrier
    #[arg(long, hide = true)]
    pub no_barrier: bool,
    /// Behave as if the kernel had no sockets that refuse descriptors
    #[arg(long, hide = true)]
    pub take_descriptors: bool,
}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub socket: PathBuf,
    /// Mode of the socket.
    pub socket_mode: u32,
    /// Serves one user: its directory is that user's alone.
    pub private: bool,
    /// Exit after so long without work.
    pub idle_exit: Option<Duration>,
    limits: Limits,
    /// What to log.
    pub log: String,
    /// Where new lanes begin.
    pub first_position: u64,
    /// The barrier may be used where the kernel has it.
    pub use_barrier: bool,
    /// Clients may send no descriptors, where the kernel can have sockets refuse them.
    pub refuse_descriptors: bool,
    /// In the background: whoever started it waits to hear that it is ready.
    pub detached: bool,
    /// Where no service manager keeps what this process has, a small parent does.
    pub use_keeper: bool,
    /// This is what the small parent has started.
    pub kept: bool,
}

impl Settings {
    /// Puts command line and file together.
    ///
    /// # Errors
    /// A sentence that names the option or the file and what is wrong with it.
    pub fn read(arguments: &Arguments) -> anyhow::Result<Self> {
        let (path, text) = read_file(arguments.config.as_deref())?;
        let wrong = || format!("{} is not as it should be", path.display());
        let file: File = toml::from_str(&text).with_context(wrong)?;
        Self::put_together(arguments, &file)
    }

    /// What uids may use, where the daemon may keep so many descriptors for all of them.
    #[must_use]
    pub fn quotas(&self, descriptors: u64) -> Quotas {
        let Limits { all, flags, users } = &self.limits;
        let descriptors = descriptors_a_uid(descriptors, self.private);
        let default = override_limits(Usage { descriptors, ..DEFAULT_LIMITS }, all);
        let users = users.iter().map(|(&uid, limits)| (uid, override_limits(default, limits)));
        Quotas::new(override_limits(default, flags), users.collect())
    }

    /// Puts command line and the text of a file together.
    ///
    /// # Errors
    /// A sentence that names the option, or what is wrong with the text.
    pub fn of_text(arguments: &Arguments, text: &str) -> anyhow::Result<Self> {
        Self::put_together(arguments, &toml::from_str(text)?)
    }

    fn put_together(arguments: &Arguments, file: &File) -> anyhow::Result<Self> {
        let mut users = HashMap::new();
        for (uid, limits) in &file.users {
            let number = uid.parse().with_context(|| {
                format!("[users.{uid:?}] in the configuration: use a numeric uid")
            })?;
            users.insert(number, *limits);
        }
        let flags = FileLimits {
            mailboxes: arguments.mailboxes_max,
            lanes: arguments.lanes_max,
            sessions: arguments.sessions_max,
            links: arguments.links_max,
            bytes: arguments.bytes_max.map(Bytes),
            dead_letters: arguments.dead_letters_max,
            descriptors: arguments.descriptors_max,
        };
        let socket = match &arguments.socket {
            Some(path) => path.clone(),
            None if arguments.private => private_socket()?,
            None => SYSTEM_SOCKET.into(),
        };
        let mode = if arguments.private { 0o600 } else { 0o666 };
        Ok(Self {
            socket,
            socket_mode: arguments.socket_mode.unwrap_or(mode),
            private: arguments.private,
            idle_exit: arguments.private.then(|| Duration::from_secs(arguments.idle_exit)),
            limits: Limits { all: file.limits, flags, users },
            log: arguments.log.clone(),
            first_position: arguments.first_position,
            use_barrier: !arguments.no_barrier,
            refuse_descriptors: !arguments.take_descriptors,
            detached: arguments.detached,
            use_keeper: !arguments.no_keeper,
            kept: arguments.kept,
        })
    }
}

/// The limits as they were written.
#[derive(Clone, Debug)]
struct Limits {
    all: FileLimits,
    flags: FileLimits,
    users: HashMap<u32, FileLimits>,
}

fn private_socket() -> anyhow::Result<PathBuf> {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(directory) => Ok(Path::new(&directory).join(PRIVATE_SOCKET)),
        None => bail!("--private needs XDG_RUNTIME_DIR: set it, or say where with --socket PATH"),
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    users: BTreeMap<String, FileLimits>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    mailboxes: Option<u64>,
    lanes: Option<u64>,
    sessions: Option<u64>,
    links: Option<u64>,
    bytes: Option<Bytes>,
    dead_letters: Option<u64>,
    descriptors: Option<u64>,
}

/// A number of bytes, written as a number or with a unit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "WrittenBytes")]
struct Bytes(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenBytes {
    Number(u64),
    Text(String),
}

impl TryFrom<WrittenBytes> for Bytes {
    type Error = String;
    fn try_from(written: WrittenBytes) -> Result<Self, String> {
        match written {
            WrittenBytes::Number(bytes) => Ok(Self(bytes)),
            WrittenBytes::Text(text) => parse_bytes(&text).map(Self),
        }
    }
}

fn override_limits(base: Usage, changes: &FileLimits) -> Usage {
    Usage {
        mailboxes: changes.mailboxes.unwrap_or(base.mailboxes),
        lanes: changes.lanes.unwrap_or(base.lanes),
        sessions: changes.sessions.unwrap_or(base.sessions),
        links: changes.links.unwrap_or(base.links),
        bytes: changes.bytes.map_or(base.bytes, |bytes| bytes.0),
        dead_letters: changes.dead_letters.unwrap_or(base.dead_letters),
        descriptors: changes.descriptors.unwrap_or(base.descriptors),
    }
}

/// The file's path and text; no text where there is no file and nobody has asked for one.
fn read_file(path: Option<&Path>) -> anyhow::Result<(&Path, String)> {
    let (path, wanted) = match path {
        Some(path) => (path, true),
        None => (Path::new(CONFIG_FILE), false),
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((path, text)),
        Err(error) if !wanted && error.kind() == std::io::ErrorKind::NotFound => {
            Ok((path, String::new()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Reads `4096`, `64KiB`, `4GiB`; decimal units are refused, so that nobody gets another size than meant.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        other => return Err(format!("unknown unit {other:?}: use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is no octal mode from 0 to 777")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, flags: &[&str]) -> anyhow::Result<Settings> {
        let directory = std::env::temp_dir();
        let unique =
            format!("ipcd-config-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = directory.join(unique);
        std::fs::write(&path, text).unwrap();
        let mut arguments = Arguments::parse_from(["ipcd", "--socket", "/x"].iter().chain(flags));
        arguments.config = Some(path.clone());
        let settings = Settings::read(&arguments);
        std::fs::remove_file(&path).unwrap();
        settings
    }

    #[test]
    fn flags_go_before_the_file_and_users_before_the_rest() {
        let text = "[limits]\nlanes = 5\nbytes = \"4GiB\"\n[users.\"1000\"]\nmailboxes = 1\n";
        let settings = read(text, &["--lanes-max", "6"]).unwrap();
        let quotas = settings.quotas(20_000);
        let all = quotas.limits(1);
        assert_eq!((all.lanes, all.bytes), (6, 4 << 30));
        assert_eq!(all.mailboxes, DEFAULT_LIMITS.mailboxes);
        let user = quotas.limits(1000);
        assert_eq!((user.lanes, user.bytes, user.mailboxes), (5, 4 << 30, 1));
    }

    #[test]
    fn links_have_a_limit_as_all_else_has() {
        let text = "[limits]\nlinks = 70\n[users.\"1000\"]\nlinks = 80\n";
        let limit = |text: &str, flags: &[&str], uid| {
            read(text, flags).unwrap().quotas(20_000).limits(uid).links
        };
        assert_eq!(limit("", &[], 1), DEFAULT_LIMITS.links);
        assert_eq!((limit(text, &[], 1), limit(text, &[], 1000)), (70, 80));
        assert_eq!(limit(text, &["--links-max", "90"], 1), 90);
    }

    #[test]
    fn a_uid_has_a_quarter_of_the_descriptors_unless_somebody_says_otherwise() {
        let limit = |text: &str, flags: &[&str], uid| {
            read(text, flags).unwrap().quotas(20_000).limits(uid).descriptors
        };
        assert_eq!(limit("", &[], 1), 5000);
        assert_eq!(limit("", &["--private"], 1), 17_500);
        let text = "[limits]\ndescriptors = 70\n[users.\"1000\"]\ndescriptors = 80\n";
        assert_eq!((limit(text, &[], 1), limit(text, &[], 1000)), (70, 80));
        assert_eq!(limit(text, &["--descriptors-max", "90"], 1), 90);
    }

    #[test]
    fn what_is_unknown_in_the_file_is_refused_by_name() {
        for (text, name) in [
            ("[limit]\n", "limit"),
            ("[limits]\nlane = 1\n", "lane"),
            ("[limits]\nbytes = \"4GB\"\n", "GB"),
            ("[users.alice]\nlanes = 1\n", "alice"),
        ] {
            let error = format!("{:#}", read(text, &[]).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn byte_sizes_are_read_exactly_or_not_at_all() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64 KiB"), Ok(64 << 10));
        assert_eq!(parse_bytes("2T"), Ok(2 << 40));
        for bad in ["", "KiB", "1.5GiB", "99999999TiB", "-1"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
