//! The program `ipcd`: reads its settings, then runs the daemon until it is told to stop.

use std::process::ExitCode;

use clap::Parser;
use ipcd::config::{Arguments, Settings};
use ipcd::{detach, startup};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Settings::read(&arguments).and_then(|settings| {
        startup::start_log(&settings)?;
        if arguments.check_config {
            println!("the configuration is good");
            return Ok(());
        }
        if arguments.detach {
            return detach::start();
        }
        startup::run(&settings)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipcd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
