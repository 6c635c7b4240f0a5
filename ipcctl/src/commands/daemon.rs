//! `daemon`: what concerns the daemon itself.

use std::time::Instant;

use libipc::{Client, ServerStatus};

use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::json;
use crate::output::Output;

/// Has the daemon started anew, and waits for the new one.
pub(crate) fn upgrade(client: &Client, output: &mut Output) -> Outcome {
    let failed = |error| Stop::from(Failure::request("cannot upgrade the daemon", &error));
    let before = client.status().map_err(failed)?;
    let start = Instant::now();
    client.restart_daemon().map_err(failed)?;
    // The old one answers nothing more, so this is the new one.
    let after = client.status().map_err(failed)?;
    let gap = start.elapsed();
    if output.json {
        let gap_ns = gap.as_nanos() as u64;
        let (before, after) = (process(&before), process(&after));
        output.object(&json::Upgraded { done: "upgraded", before, after, gap_ns })?;
    } else {
        let kept = format!("{} mailboxes and {} sessions", after.mailboxes, after.sessions);
        let (was, is) = (version(&before), version(&after));
        output.tell(&format!("{was} is now {is}, with {kept}, after {gap:.1?}"));
    }
    Ok(ExitCode::Done)
}

fn version(status: &ServerStatus) -> String {
    format!("ipcd {} (pid {})", status.version, status.pid)
}

fn process(status: &ServerStatus) -> json::DaemonProcess {
    json::DaemonProcess { version: status.version.clone(), pid: status.pid }
}
