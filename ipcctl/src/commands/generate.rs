//! `generate`: man pages and completions from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::{Cli, Generate, GenerateWhat, exit_codes};
use crate::exit_code::{ExitCode, Failure, Outcome};
use crate::output::Output;

/// Writes what was asked for.
pub(crate) fn run(args: &Generate, output: &mut Output) -> Outcome {
    let directory = match &args.what {
        GenerateWhat::Man { directory } | GenerateWhat::Completions { directory, .. } => directory,
    };
    let written = fs::create_dir_all(directory).and_then(|()| match &args.what {
        GenerateWhat::Man { directory } => man_pages(directory),
        GenerateWhat::Completions { shell, directory } => {
            clap_complete::generate_to(*shell, &mut Cli::command(), "ipcctl", directory).map(|_| 1)
        }
    });
    let count = written
        .map_err(|error| Failure::io(format!("cannot write to {}", directory.display()), &error))?;
    output.tell(&format!("wrote {count} files to {}", directory.display()));
    Ok(ExitCode::Done)
}

/// Writes a man page for the program and for each visible command; returns how many.
fn man_pages(directory: &Path) -> io::Result<usize> {
    let mut program = definition();
    program.build();
    let visible: Vec<_> =
        program.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    for command in &visible {
        let name = format!("ipcctl-{}", command.get_name());
        let command = command.clone().display_name(name.clone());
        fs::write(directory.join(format!("{name}.1")), man_page(command)?)?;
    }
    fs::write(directory.join("ipcctl.1"), man_page(program)?)?;
    Ok(fs::read_dir(directory)?.count())
}

/// The command line without `help`, which needs no page of its own.
fn definition() -> clap::Command {
    Cli::command().disable_help_subcommand(true)
}

/// One man page, exit codes included.
fn man_page(command: clap::Command) -> io::Result<Vec<u8>> {
    // The program's own help ends with the codes; in a man page they have a section.
    let command = command.after_help(None::<&str>);
    let mut page = Vec::new();
    let source = concat!("ipcctl ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).manual("Mailboxes").render(&mut page)?;
    page.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for line in exit_codes().lines().skip(1) {
        let (number, meaning) = line.trim().split_once("  ").unwrap_or((line, ""));
        page.extend_from_slice(format!(".TP\n\\fB{number}\\fR\n{meaning}\n").as_bytes());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_says_what_it_is_about() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{} has no about text", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} lacks help", argument.get_id());
            }
        }
    }

    #[test]
    fn the_man_page_tells_every_exit_code_and_every_visible_command() {
        let mut program = definition();
        program.build();
        let page = String::from_utf8(man_page(program).unwrap()).unwrap();
        for code in ExitCode::ALL {
            let entry = format!("\\fB{}\\fR\n{}\n", code.number(), code.meaning());
            assert!(page.contains(&entry), "exit code {code:?} is missing");
        }
        for command in Cli::command().get_subcommands() {
            let escaped = command.get_name().replace('-', "\\-");
            let entry = format!("ipcctl\\-{escaped}(1)");
            assert_eq!(page.contains(&entry), !command.is_hide_set(), "{entry}");
        }
    }
}
