//! `receive`, `peek`, `purge`: messages out of a mailbox.

use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use libipc::lane::position::{GRANULE_BYTES, RECORD_HEADER_BYTES, record_granules};
use libipc::{Client, Delivery, DirectAddress, GroupName, MailboxDetail, MailboxName, Order};
use libipc::{ReceiveError, Receiver, TryReceiveError};

use crate::cli::{Peek, Purge, Receive};
use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::interrupt::Interrupted;
use crate::json;
use crate::output::Output;

/// The longest sleep after which `--follow` looks whether it was interrupted.
const INTERRUPT_LATENCY: Duration = Duration::from_millis(100);

/// Receives messages, and acknowledges each once all of it is written to stdout.
pub(crate) fn receive(client: &Client, args: &Receive, output: &mut Output) -> Outcome {
    let mut receiver = open(client, &args.name, args.group.as_ref())?;
    let from = args.from.as_ref().map(|process| pid_of(client, args, process)).transpose()?;
    let interrupted = if args.follow { Interrupted::watch()? } else { Interrupted::never() };
    let wanted = if args.follow { u64::MAX } else { args.count };
    let mut received = 0;
    let mut deadline = deadline_of(args);
    while received < wanted && !interrupted.happened() {
        match wait(&mut receiver, from, deadline, &interrupted) {
            Ok(delivery) => {
                print(output, args, &delivery)?;
                end(args, delivery)?;
                received += 1;
                deadline = deadline_of(args);
            }
            Err(ReceiveError::TimedOut) if !passed(deadline) => {}
            Err(ReceiveError::Closed) if args.follow => {
                output.tell(&format!("{} is closed and drained", args.name));
                break;
            }
            Err(error @ ReceiveError::SenderGone) if args.follow => {
                output.tell(&error.to_string());
                break;
            }
            Err(error) => return Err(failed(args, received, &error)),
        }
    }
    Ok(ExitCode::Done)
}

fn open(client: &Client, name: &MailboxName, group: Option<&GroupName>) -> Result<Receiver, Stop> {
    let opened = match group {
        Some(group) => client.receiver_in_group(name.as_str(), group.as_str()),
        None => client.receiver(name.as_str()),
    };
    opened.map_err(|error| Failure::request(format!("cannot receive from {name}"), &error).into())
}

fn pid_of(client: &Client, args: &Receive, process: &DirectAddress) -> Result<u32, Stop> {
    match process {
        DirectAddress::Pid(pid) => Ok(*pid),
        DirectAddress::Name(_) => client
            .find(process.clone())
            .map(|identity| identity.pid)
            .map_err(|error| Failure::request(what(args), &error).into()),
    }
}

/// Until when the next message may take.
fn deadline_of(args: &Receive) -> Option<Instant> {
    args.timeout.map(|timeout| Instant::now() + timeout)
}

/// The next message; also comes back (timed out) before the deadline, to see an interrupt.
fn wait<'a>(
    receiver: &'a mut Receiver,
    from: Option<u32>,
    deadline: Option<Instant>,
    interrupted: &Interrupted,
) -> Result<Delivery<'a>, ReceiveError> {
    let look = interrupted.is_watched().then(|| Instant::now() + INTERRUPT_LATENCY);
    match (from, [deadline, look].into_iter().flatten().min()) {
        (None, None) => receiver.receive(),
        (None, Some(until)) => receiver.receive_deadline(until),
        (Some(pid), None) => receiver.receive_from(pid),
        (Some(pid), Some(until)) => receiver.receive_from_deadline(pid, until),
    }
}

/// Replies to a call where there is a reply, rejects where that is asked for, and acknowledges everything else.
fn end(args: &Receive, delivery: Delivery<'_>) -> Result<(), Stop> {
    match &args.reply {
        Some(text) if delivery.is_call() => delivery.reply(text.as_bytes()).map_err(|error| {
            Failure::reply(format!("cannot reply from {}", args.name), &error).into()
        }),
        _ if args.reject => delivery.reject().map_err(|error| {
            Failure::request(format!("cannot reject a message of {}", args.name), &error).into()
        }),
        _ => {
            delivery.acknowledge();
            Ok(())
        }
    }
}

fn what(args: &Receive) -> String {
    format!("cannot receive from {}", args.name)
}

fn failed(args: &Receive, received: u64, error: &ReceiveError) -> Stop {
    let mut what = what(args);
    if received > 0 {
        what.push_str(&format!(" (after {received} messages)"));
    }
    Failure::receive(what, error).into()
}

fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Brings a delivery to stdout. If that fails, the delivery is dropped, and so goes back to the queue.
fn print(output: &mut Output, args: &Receive, delivery: &Delivery<'_>) -> Result<(), Stop> {
    let bytes = delivery.bytes();
    if output.json {
        let attempts = Some(delivery.attempts());
        let name = args.name.as_str();
        return output.object(&json::Message::new(name, delivery.sender(), attempts, bytes));
    }
    output.message(bytes, !args.raw)
}

/// Prints the next messages without taking them.
pub(crate) fn peek(client: &Client, args: &Peek, output: &mut Output) -> Outcome {
    let what = || format!("cannot look into {}", args.name);
    let opened = match &args.group {
        Some(group) => client.observer_of_group(args.name.as_str(), group.as_str()),
        None => client.observer(args.name.as_str()),
    };
    let mut observer = opened.map_err(|error| Failure::request(what(), &error))?;
    let peeked = observer.peek(args.count).map_err(|error| Failure::request(what(), &error))?;
    if peeked.is_empty() {
        output.tell(&format!("{} is empty", args.name));
    }
    for message in &peeked {
        if output.json {
            let name = args.name.as_str();
            output.object(&json::Message::new(name, message.sender, None, &message.bytes))?;
        } else {
            output.message(&message.bytes, true)?;
        }
    }
    Ok(ExitCode::Done)
}

/// Receives and acknowledges all that is queued now, and tells how much that was.
pub(crate) fn purge(client: &Client, args: &Purge, output: &mut Output) -> Outcome {
    let name = &args.name;
    let what = || format!("cannot purge {name}");
    let mut receiver = open(client, name, args.group.as_ref())?;
    let detail = client.show(name.as_str()).map_err(|error| Failure::request(what(), &error))?;
    // Senders may go on while we work: what lies unclaimed now is what we remove, no more.
    let (mut remaining, cost) = queued(&detail, args.group.as_ref());
    let (mut messages, mut bytes) = (0, 0);
    let mut done = false;
    while !done {
        let delivery = match receiver.try_receive() {
            Ok(delivery) => delivery,
            Err(TryReceiveError::Empty | TryReceiveError::Closed) => break,
            Err(error) => return Err(Failure::try_receive(what(), &error).into()),
        };
        let len = delivery.bytes().len() as u64;
        // A message offered again is no longer among the unclaimed.
        let unclaimed = delivery.attempts() == 0;
        if unclaimed && remaining == 0 {
            delivery.return_to_queue();
            break;
        }
        delivery.acknowledge();
        if unclaimed {
            remaining = remaining.saturating_sub(cost(len));
            // What is offered again comes before what nobody has had: none of it is left.
            done = remaining == 0;
        }
        messages += 1;
        bytes += len;
    }
    if output.json {
        let (messages, bytes) = (Some(messages), Some(bytes));
        let to = json::Target::Mailbox(name.as_str());
        output.object(&json::Done { to, done: "purged", messages, bytes })?;
    }
    output.tell(&format!("purged {messages} messages ({bytes} bytes) from {name}"));
    Ok(ExitCode::Done)
}

/// How much is queued, and how much of that a message of some length is: bytes in lanes that all receivers
/// empty together, messages where each group has its own place in them.
fn queued(detail: &MailboxDetail, group: Option<&GroupName>) -> (u64, fn(u64) -> u64) {
    let report = detail.groups.iter().find(|report| Some(&report.group.name) == group);
    match report {
        Some(report) => (report.queued_messages, |_| 1),
        None if detail.summary.attributes.order == Order::Arrival => {
            (detail.summary.queued_bytes, |len| record_bytes(len + RECORD_HEADER_BYTES as u64))
        }
        None => (detail.summary.queued_bytes, record_bytes),
    }
}

/// Bytes that a message takes in its lane; a stamp counts as part of it.
fn record_bytes(len: u64) -> u64 {
    record_granules(len as usize) * GRANULE_BYTES as u64
}
