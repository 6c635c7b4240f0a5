//! `--detach`: starts the daemon in the background and returns once one listens. This is how the client
//! library starts a private daemon; two clients may do so at the same moment, and both are served.
//!
//! No process forks here: the program runs itself again with `--detached`, and that one says on its
//! standard output, a pipe, that it is ready.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use libipc::sys::socket::connect_to;

use crate::config::Settings;
use crate::startup::{AnotherDaemon, Listener};

const READY: &str = "ready";
/// How long another daemon that holds the lock may take until it listens.
const OTHER_LISTENS_WITHIN: Duration = Duration::from_secs(5);

/// Starts the daemon in the background; returns once it, or another one, listens.
///
/// # Errors
/// It ended instead; what it said went to this process's standard error.
pub fn start() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| if argument == "--detach" { "--detached".into() } else { argument });
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("cannot hear from the daemon")?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the daemon")?;
    bail!("the daemon did not start: {status}");
}

/// The listener of a daemon in the background; `None` if another daemon listens there already.
///
/// # Errors
/// As [`Listener::bind`]; [`AnotherDaemon`] if that one holds the lock but does not come to listen.
pub fn bind(settings: &Settings) -> anyhow::Result<Option<Listener>> {
    // Our own session: signals for the starter's terminal are not for us. Fails only for the leader of
    // a process group, which has that already.
    let _ = nix::unistd::setsid();
    let deadline = Instant::now() + OTHER_LISTENS_WITHIN;
    loop {
        match Listener::bind(&settings.socket, settings.into()) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.is::<AnotherDaemon>() => {
                if connect_to(&settings.socket).is_ok() {
                    return Ok(None);
                }
                if Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells the starter that a daemon listens, and lets go of everything that is the starter's.
///
/// # Errors
/// What the kernel said.
pub fn say_ready() -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{READY}").and_then(|()| output.flush()).context("cannot say ready")?;
    let_go()
}

/// Lets go of everything that is the starter's.
///
/// # Errors
/// What the kernel said.
pub fn let_go() -> anyhow::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open /dev/null")?;
    // A starter that reads our standard error to its end must not wait until we exit.
    nix::unistd::dup2_stdin(&null).context("cannot let go of standard input")?;
    nix::unistd::dup2_stdout(&null).context("cannot let go of standard output")?;
    nix::unistd::dup2_stderr(&null).context("cannot let go of standard error")?;
    Ok(())
}
