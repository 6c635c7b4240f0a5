//! Our mailboxes and their rivals, side by side.
//!
//! The loads and the way they are measured are those of the crate `measure`, which `ipcctl bench` uses too. Here are
//! [`rivals`], [`floors`], a daemon of our own ([`daemon`]) and what is done with them: [`contest`] of all,
//! [`compare`] of two revisions of ours, [`scale`] for what costs as it grows. [`calls`] is the only home of unsafe code.

mod calls;
mod cli;
mod compare;
mod contest;
mod daemon;
mod floors;
mod interrupt;
mod rivals;
mod scale;
mod write;

use std::process::ExitCode;

use clap::Parser as _;
use measure::stage;

use crate::cli::{Cli, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        None => contest::run(&cli.contest),
        Some(Verb::Compare(compare)) => compare::run(compare),
        Some(Verb::Scale(scale)) => scale::run(scale),
        Some(Verb::Peer { job }) => stage::serve(&contest::systems(None), job),
        Some(Verb::Daemon { command }) => daemon::become_program(command),
        Some(Verb::Hand { task }) => scale::hand(task),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
