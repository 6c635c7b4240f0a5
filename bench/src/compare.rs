//! Two builds of ours, in turns within one run.

use anyhow::Result;

use crate::cli::Compare;

/// Measures, and writes the report.
pub(crate) fn run(_args: &Compare) -> Result<()> {
    Ok(())
}
