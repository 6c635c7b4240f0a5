//! Which daemon would be used, whether it answers, and what it lets this user do.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use libipc::protocol::{PRIVATE_SOCKET, SYSTEM_SOCKET, ServerStatus, Usage};
use libipc::{Client, ClientOptions, ConnectError};
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::cli::Common;
use crate::exit_code::Failure;

/// Above this share of a quota we warn.
const QUOTA_WARN: f64 = 0.8;

/// A socket, and why it is the one.
struct Choice {
    path: PathBuf,
    why: &'static str,
    /// Where nobody listens there, the library starts a daemon.
    starts: bool,
}

/// The checks of socket and daemon.
pub(super) fn checks(common: &Common) -> Vec<Check> {
    let Some(choice) = choose(common) else {
        return vec![Check::fail(
            "socket",
            format!("no system daemon ({SYSTEM_SOCKET}), and XDG_RUNTIME_DIR is not set"),
            "start ipcd (systemctl start ipcd.socket), or name its socket in IPCD_SOCKET",
        )];
    };
    let mut checks = vec![Check::ok("socket", format!("{} ({})", shown(&choice.path), choice.why))];
    if !choice.path.exists() && choice.starts {
        checks.push(private_daemon());
        return checks;
    }
    checks.extend(socket_file(&choice.path));
    match connect(&choice.path) {
        Ok(client) => checks.extend(answers(&client)),
        Err(check) => checks.push(check),
    }
    checks
}

/// The socket that a client would use, by the library's own order.
fn choose(common: &Common) -> Option<Choice> {
    if let Some(path) = &common.socket {
        return Some(Choice { path: path.clone(), why: "named by --socket", starts: false });
    }
    if let Some(path) = std::env::var_os("IPCD_SOCKET") {
        return Some(Choice { path: path.into(), why: "named by IPCD_SOCKET", starts: false });
    }
    let system = ClientOptions::new().socket(SYSTEM_SOCKET).connect();
    if !matches!(system, Err(ConnectError::NoDaemon { .. })) {
        let why = "the system daemon's";
        return Some(Choice { path: SYSTEM_SOCKET.into(), why, starts: false });
    }
    let directory = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let why = "a private daemon's: there is no system daemon";
    Some(Choice { path: directory.join(PRIVATE_SOCKET), why, starts: true })
}

/// Whether the private daemon that first use would start is there to be started.
fn private_daemon() -> Check {
    let program = std::env::var_os("IPCD_PROGRAM").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|us| Some(us.parent()?.join("ipcd")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("ipcd"));
    let found = match program {
        Some(program) => Some(program).filter(|program| program.is_file()),
        None => beside.into_iter().chain(on_path).find(|program| program.is_file()),
    };
    match found {
        Some(program) => Check::warn(
            "daemon",
            format!("not running; first use will start {}", shown(&program)),
            "for mailboxes between users, start the system's (systemctl start ipcd.socket)",
        ),
        None => Check::fail(
            "daemon",
            "not running, and the program ipcd is not found to start a private one",
            "install ipcd, or name the program in IPCD_PROGRAM",
        ),
    }
}

fn shown(path: &Path) -> String {
    crate::output::escape(path.display().to_string().as_bytes(), crate::output::Newlines::Escape)
}

/// Whose the socket is, and whether this user may connect.
fn socket_file(path: &Path) -> Vec<Check> {
    let start = "start ipcd (systemctl start ipcd.socket, or ipcd --socket PATH)";
    let data = match fs::metadata(path) {
        Ok(data) => data,
        Err(error) => return vec![Check::fail("socket file", error.to_string(), start)],
    };
    if !data.file_type().is_socket() {
        let found = format!("{} is no socket", shown(path));
        return vec![Check::fail("socket file", found, "name another path, or remove it")];
    }
    let found =
        format!("owner uid {}, gid {}, mode {:04o}", data.uid(), data.gid(), data.mode() & 0o7777);
    let permitted = match access(path, AccessFlags::W_OK) {
        Ok(()) => Check::ok("permission", "this user may connect"),
        Err(error) => Check::fail(
            "permission",
            format!("this user may not connect: {error}"),
            "join the group of the socket, or ask for a socket with a wider mode",
        ),
    };
    vec![Check::ok("socket file", found), permitted]
}

fn connect(path: &Path) -> Result<Client, Check> {
    ClientOptions::new().socket(path).private_daemon(false).connect().map_err(|error| {
        let failure = Failure::connect(&error);
        let advice = "start ipcd, or look into its log (journalctl -u ipcd)";
        Check::fail("daemon", failure.why, advice)
    })
}

/// What the daemon says about itself and about this user.
fn answers(client: &Client) -> Vec<Check> {
    let status = match client.status() {
        Ok(status) => status,
        Err(error) => {
            let failure = Failure::request("", &error);
            let advice = failure.hint.unwrap_or_else(|| "look into the log of ipcd".to_owned());
            return vec![Check::fail("daemon", failure.why, advice)];
        }
    };
    let mut checks = vec![daemon(&status), version(&status), barrier(&status)];
    checks.push(daemon_descriptors(&status));
    checks.push(Check::ok("you", status.caller.to_string()));
    checks.extend(quotas(&status.usage, &status.limits));
    checks
}

fn daemon(status: &ServerStatus) -> Check {
    let found = format!(
        "answers: pid {}, uid {}, {} mailboxes, {} sessions, {} resident",
        status.pid,
        status.uid,
        status.mailboxes,
        status.sessions,
        HumanBytes(status.resident_bytes)
    );
    Check::ok("daemon", found)
}

fn version(status: &ServerStatus) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    if status.version == ours {
        return Check::ok("version", format!("{ours} on both sides"));
    }
    // What another program says goes to a terminal: escaped.
    let theirs = crate::output::escape(status.version.as_bytes(), crate::output::Newlines::Escape);
    let found = format!("ipcd {theirs}, ipcctl {ours}");
    Check::warn("version", found, "bring both to the same version when you can")
}

fn barrier(status: &ServerStatus) -> Check {
    Check::present(
        "daemon's membarrier",
        status.barrier,
        Check::warn,
        "let ipcd's sandbox allow membarrier: without it each message pays for a fence",
    )
}

fn daemon_descriptors(status: &ServerStatus) -> Check {
    let (used, max) = (status.descriptors, status.descriptors_max);
    let found = format!("{used} of {max}");
    if used as f64 > max as f64 * QUOTA_WARN {
        return Check::warn("daemon's descriptors", found, "raise LimitNOFILE of ipcd");
    }
    Check::ok("daemon's descriptors", found)
}

/// What this user uses of each quota.
fn quotas(usage: &Usage, limits: &Usage) -> Vec<Check> {
    let advice = "delete or close something, or raise the limit in ipcd's configuration";
    let check = |name, used: u64, limit: u64, shown: fn(u64) -> String| {
        let found = format!("{} of {}", shown(used), shown(limit));
        if used as f64 > limit as f64 * QUOTA_WARN {
            Check::warn(name, found, advice)
        } else {
            Check::ok(name, found)
        }
    };
    let count = |number: u64| number.to_string();
    vec![
        check("quota of mailboxes", usage.mailboxes, limits.mailboxes, count),
        check("quota of lanes", usage.lanes, limits.lanes, count),
        check("quota of sessions", usage.sessions, limits.sessions, count),
        check("quota of links", usage.links, limits.links, count),
        check("quota of bytes", usage.bytes, limits.bytes, |bytes| HumanBytes(bytes).to_string()),
        check("quota of dead letters", usage.dead_letters, limits.dead_letters, count),
        check("quota of descriptors", usage.descriptors, limits.descriptors, count),
    ]
}
