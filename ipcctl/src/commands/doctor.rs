//! `doctor`: what is wrong on this machine, and what to do about it.

mod daemon;
mod kernel;

use serde::Serialize;

use crate::cli::Common;
use crate::exit_code::{ExitCode, Outcome};
use crate::output::{Colour, Output};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it shall be.
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warn,
    /// It does not work.
    Fail,
}

/// A check: what was looked at, what was found, what to do.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Fail, found: found.into(), advice: Some(advice.into()) }
    }

    /// `Ok` where it is there, else the check that `missing` makes of "missing" and the advice.
    fn present(
        check: &'static str,
        present: bool,
        missing: fn(&'static str, String, String) -> Self,
        advice: &str,
    ) -> Self {
        if present {
            Self::ok(check, "there")
        } else {
            missing(check, "missing".into(), advice.into())
        }
    }
}

/// The result of `doctor --json`.
#[derive(Debug, Serialize)]
struct Diagnosis {
    checks: Vec<Check>,
    failed: bool,
}

/// Looks at the kernel, the limits, the socket and the daemon.
pub(crate) fn run(common: &Common, output: &mut Output) -> Outcome {
    let mut checks = kernel::checks();
    checks.extend(daemon::checks(common));
    let failed = checks.iter().any(|check| check.state == State::Fail);
    if output.json {
        output.object(&Diagnosis { checks, failed })?;
    } else {
        for check in &checks {
            show(check, output)?;
        }
        let healthy = checks.iter().all(|check| check.state == State::Ok);
        output.tell(match (failed, healthy) {
            (true, _) => "something is wrong: see the lines with FAIL",
            (false, true) => "all is well",
            (false, false) => "mailboxes work here; see the lines with warn",
        });
    }
    Ok(if failed { ExitCode::Failed } else { ExitCode::Done })
}

fn show(check: &Check, output: &mut Output) -> Result<(), crate::exit_code::Stop> {
    let (word, colour) = match check.state {
        State::Ok => ("ok  ", Colour::Green),
        State::Warn => ("warn", Colour::Yellow),
        State::Fail => ("FAIL", Colour::Red),
    };
    let word = output.coloured(word, colour);
    output.line(&format!("{word}  {:<22} {}", check.check, check.found))?;
    match &check.advice {
        Some(advice) => output.line(&format!("{:28} -> {advice}", "")),
        None => Ok(()),
    }
}
