//! `dead`: messages that nobody could deal with.

use libipc::{Client, MailboxName, Peeked};

use super::mailbox::{plain_table, show_table, user_name};
use crate::cli::{Dead, Letter, Letters};
use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::json;
use crate::output::{Newlines, Output, escape};

/// Of a message, a list shows no more than so many bytes.
const SHOWN_BYTES: usize = 40;

/// Does what was typed.
pub(crate) fn run(client: &Client, what: &Dead, output: &mut Output) -> Outcome {
    match what {
        Dead::List(args) => list(client, &args.name, output),
        Dead::Show(args) => show(client, args, output),
        Dead::Requeue(args) => {
            let requeue = |number| client.requeue(args.name.as_str(), number);
            change(args, "requeued", requeue, output)
        }
        Dead::Discard(args) => {
            let discard = |number| client.discard_dead_letters(args.name.as_str(), number);
            change(args, "discarded", discard, output)
        }
    }
}

/// The dead letters of a mailbox that nobody has in hand, the oldest first.
fn letters(client: &Client, name: &MailboxName) -> Result<Vec<Peeked>, Stop> {
    let failed =
        |error| Failure::request(format!("cannot look at the dead letters of {name}"), &error);
    let detail = client.show(name.as_str()).map_err(failed)?;
    if detail.summary.dead_letters == 0 {
        return Ok(Vec::new());
    }
    let mut observer = client.observer(name.of_dead_letters().as_str()).map_err(failed)?;
    let mut letters = observer.peek(usize::MAX).map_err(failed)?;
    letters.sort_by_key(|letter| letter.dead_letter.map(|letter| letter.number));
    Ok(letters)
}

fn list(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    let letters = letters(client, name)?;
    if output.json {
        let letters = letters.iter().filter_map(json::DeadLetter::new).collect();
        output.object(&json::DeadLetters { mailbox: name.as_str(), dead_letters: letters })?;
        return Ok(ExitCode::Done);
    }
    if letters.is_empty() {
        output.tell(&format!("{name} has no dead letters"));
        return Ok(ExitCode::Done);
    }
    let mut table =
        plain_table(&["NUMBER", "REASON", "ATTEMPTS", "USER", "PID", "BYTES", "MESSAGE"]);
    for letter in &letters {
        let Some(dead) = letter.dead_letter else { continue };
        let beginning = letter.bytes.get(..SHOWN_BYTES).unwrap_or(&letter.bytes);
        table.add_row(vec![
            dead.number.to_string(),
            dead.reason.to_string(),
            dead.attempts.to_string(),
            user_name(letter.sender.uid),
            letter.sender.pid.to_string(),
            letter.bytes.len().to_string(),
            escape(beginning, Newlines::Escape),
        ]);
    }
    show_table(table, 4..6, output)?;
    Ok(ExitCode::Done)
}

fn show(client: &Client, args: &Letter, output: &mut Output) -> Outcome {
    let numbered = |letter: &&Peeked| letter.dead_letter.is_some_and(|it| it.number == args.number);
    let letters = letters(client, &args.name)?;
    let Some(letter) = letters.iter().find(numbered) else {
        let what = format!("cannot show a dead letter of {}", args.name);
        let why = format!("there is none of number {}, or somebody has it in hand", args.number);
        let failure = Failure::new(ExitCode::Failed, what, why);
        return Err(failure.hint("see which there are (ipcctl dead list NAME)").into());
    };
    if output.json {
        output.object(&json::DeadLetter::new(letter))?;
    } else {
        output.message(&letter.bytes, !args.raw)?;
    }
    Ok(ExitCode::Done)
}

/// Does something with each of the dead letters that were named, or with all.
fn change(
    args: &Letters,
    done: &'static str,
    change: impl Fn(Option<u64>) -> Result<u64, libipc::RequestError>,
    output: &mut Output,
) -> Outcome {
    let numbers: Vec<_> =
        if args.all { vec![None] } else { args.numbers.iter().copied().map(Some).collect() };
    let mut messages = 0;
    for number in numbers {
        messages += change(number).map_err(|error| {
            let what = match messages {
                0 => format!("no dead letter of {} was {done}", args.name),
                some => {
                    format!("{some} dead letters of {} were {done}, the next was not", args.name)
                }
            };
            Failure::request(what, &error)
        })?;
    }
    if output.json {
        let to = json::Target::Mailbox(args.name.as_str());
        output.object(&json::Done { to, done, messages: Some(messages), bytes: None })?;
    }
    output.tell(&format!("{done} {messages} dead letters of {}", args.name));
    Ok(ExitCode::Done)
}
