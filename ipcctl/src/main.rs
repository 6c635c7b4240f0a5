//! `ipcctl`: administer and try out mailboxes.
//!
//! One path through the program: [`cli`] parses what was typed into checked values, a file of
//! [`commands`] does it, [`output`] brings the result to stdout and the talk to stderr, and
//! [`exit_code`] says how it ended. Only `main` exits.
//!
//! - stdout is the result, stderr is talk; `--json` makes the result one documented schema ([`json`]).
//! - What other people wrote (names, messages) is escaped before a terminal sees it.
//! - A reader that goes away is no error.

mod cli;
mod commands;
mod exit_code;
mod interrupt;
mod json;
mod output;
mod parse;

use std::process;

use clap::Parser as _;

use crate::cli::Cli;
use crate::exit_code::{ExitCode, Stop};
use crate::output::Output;

fn main() -> process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
            // Nobody is left to hear that the help could not be printed.
            let _ = error.print();
            return code.into();
        }
    };
    let mut output = Output::new(&cli.common);
    let code = match commands::run(&cli, &mut output) {
        Ok(code) => code,
        Err(Stop::ReaderGone) => ExitCode::Done,
        Err(Stop::Failed(failure)) => {
            output.complain(&failure);
            failure.code
        }
    };
    code.into()
}
