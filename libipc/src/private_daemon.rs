//! The daemon of a user who has no other: found, or started on first use.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::ConnectError;
use crate::protocol::PRIVATE_SOCKET;
use crate::session::open_socket;
use crate::sys::process::trusted_variable;

/// Connects to the private daemon below `$XDG_RUNTIME_DIR`; starts it if it is not there and that is
/// `allowed`.
pub(crate) fn connect(system: &Path, allowed: bool) -> Result<(PathBuf, OwnedFd), ConnectError> {
    let Some(directory) = trusted_variable("XDG_RUNTIME_DIR") else {
        return Err(if allowed {
            ConnectError::NoRuntimeDirectory { path: system.to_owned() }
        } else {
            ConnectError::NoDaemon { path: system.to_owned() }
        });
    };
    let path = PathBuf::from(directory).join(PRIVATE_SOCKET);
    match open_socket(&path) {
        Ok(socket) => return Ok((path, socket)),
        Err(ConnectError::NoDaemon { .. }) if allowed => {}
        Err(error) => return Err(error),
    }
    start(&path)?;
    let socket = open_socket(&path)?;
    Ok((path, socket))
}

/// Runs `ipcd --private --detach`, which returns once a daemon listens: this one, or one that somebody
/// else has started at the same moment.
fn start(path: &Path) -> Result<(), ConnectError> {
    let program = program();
    let failed = |reason: String| ConnectError::PrivateDaemon { program: program.clone(), reason };
    let output = Command::new(&program)
        .args(["--private", "--detach", "--socket"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| failed(format!("{error}; install ipcd, or set IPCD_PROGRAM")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.lines().last().unwrap_or("it said nothing"))))
}

/// `$IPCD_PROGRAM`, else `ipcd` beside this program, else `ipcd` on the path.
fn program() -> PathBuf {
    if let Some(program) = trusted_variable("IPCD_PROGRAM") {
        return program.into();
    }
    let beside = std::env::current_exe().ok().and_then(|us| Some(us.parent()?.join("ipcd")));
    beside.filter(|program| program.is_file()).unwrap_or_else(|| "ipcd".into())
}
