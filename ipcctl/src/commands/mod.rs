//! The verbs: one file a verb or family of verbs.

mod bench;
mod call;
mod daemon;
mod dead;
mod doctor;
mod generate;
mod mailbox;
mod receive;
mod send;

use libipc::{Client, ClientOptions};

use crate::cli::{Cli, Command, Common, Daemon};
use crate::exit_code::{Failure, Outcome, Stop};
use crate::output::Output;

/// Does what was typed.
pub(crate) fn run(cli: &Cli, output: &mut Output) -> Outcome {
    match &cli.command {
        Command::Doctor => doctor::run(&cli.common, output),
        Command::Generate(args) => generate::run(args, output),
        Command::BenchPeer(args) => bench::peer(args),
        command => run_with_daemon(command, &connect(&cli.common)?, output),
    }
}

fn run_with_daemon(command: &Command, client: &Client, output: &mut Output) -> Outcome {
    match command {
        Command::Create(args) => mailbox::create(client, args, output),
        Command::Open(args) => mailbox::open(client, &args.name, output),
        Command::Close(args) => mailbox::close(client, &args.name, output),
        Command::Delete(args) => mailbox::delete(client, args, output),
        Command::List => mailbox::list(client, output),
        Command::Show(args) => mailbox::show(client, &args.name, output),
        Command::Send(args) => send::run(client, args, output),
        Command::Call(args) => call::run(client, args, output),
        Command::Receive(args) => receive::receive(client, args, output),
        Command::Peek(args) => receive::peek(client, args, output),
        Command::Purge(args) => receive::purge(client, args, output),
        Command::Dead(what) => dead::run(client, what, output),
        Command::Bench(args) => bench::run(client, args, output),
        Command::Daemon(Daemon::Upgrade) => daemon::upgrade(client, output),
        Command::Doctor | Command::Generate(_) | Command::BenchPeer(_) => {
            unreachable!("these need no daemon: run() has done them")
        }
    }
}

/// Connects to the daemon that `--socket` names, or to the one that the library chooses.
fn connect(common: &Common) -> Result<Client, Stop> {
    let connected = match &common.socket {
        Some(path) => ClientOptions::new().socket(path.clone()).connect(),
        None => Client::connect(),
    };
    connected.map_err(|error| Failure::connect(&error).into())
}
