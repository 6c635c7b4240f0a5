//! The program `ipcd`: reads its settings, then runs the daemon until it is told to stop.

use std::process::ExitCode;

use clap::Parser;
use ipcd::config::{Arguments, Settings};
use ipcd::{detach, keeper, startup};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Settings::read(&arguments).and_then(|settings| {
        startup::start_log(&settings)?;
        if arguments.check_config {
            println!("the configuration is good");
            return Ok(0);
        }
        if arguments.detach {
            return detach::start().map(|()| 0);
        }
        let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
        if settings.use_keeper && !settings.kept && !managed {
            return keeper::run(&settings);
        }
        startup::run(&settings)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ipcd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
