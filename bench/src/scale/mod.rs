//! What costs as it grows.

use anyhow::Result;

use crate::cli::Scale;

/// The hidden command of a process with sessions, mailboxes or handles of a scaling load.
pub(crate) const HAND_COMMAND: &str = "bench-hand";

/// Measures, and writes the report.
pub(crate) fn run(_args: &Scale) -> Result<()> {
    Ok(())
}

/// Does the task of a hand, in its own process.
pub(crate) fn hand(_task: &str) -> Result<()> {
    Ok(())
}
