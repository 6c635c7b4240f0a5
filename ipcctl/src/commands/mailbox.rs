//! `create`, `open`, `close`, `delete`, `list`, `show`: mailboxes from an administrator's side.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;
use libipc::protocol::{MailboxDetail, MailboxName, MailboxSummary};
use libipc::{Client, MailboxOptions, RequestError};
use nix::unistd::{Gid, Group, Uid, User};

use crate::cli::Create;
use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::json;
use crate::output::Output;

/// Creates a mailbox.
pub(crate) fn create(client: &Client, args: &Create, output: &mut Output) -> Outcome {
    let what = || format!("cannot create {}", args.name);
    let options = options(args);
    options
        .attributes()
        .check(options.groups())
        .map_err(|refusal| Failure::refused(what(), &refusal))?;
    client
        .create(args.name.as_str(), &options)
        .map_err(|error| Failure::request(what(), &error))?;
    done(output, &args.name, "created", None)
}

fn options(args: &Create) -> MailboxOptions {
    let mut options = MailboxOptions::new();
    if let Some(bytes) = args.capacity {
        options = options.capacity_bytes(bytes);
    }
    if let Some(mode) = args.mode {
        options = options.mode(mode);
    }
    if let Some(owner) = args.owner {
        options = options.owner(Some(owner.uid), owner.gid);
    }
    if let Some(count) = args.max_receivers {
        options = options.receivers_max(count);
    }
    if let Some(count) = args.max_lanes {
        options = options.lanes_max(count);
    }
    options
}

/// Lets traffic in again.
pub(crate) fn open(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    client.open(name.as_str()).map_err(|error| failed("open", name, &error))?;
    done(output, name, "opened", None)
}

/// Shuts a mailbox to new sends.
pub(crate) fn close(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    client.close(name.as_str()).map_err(|error| failed("close", name, &error))?;
    done(output, name, "closed", None)
}

/// Deletes a mailbox, and tells how many messages were lost by it.
pub(crate) fn delete(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    let discarded = client.delete(name.as_str()).map_err(|error| failed("delete", name, &error))?;
    done(output, name, "deleted", Some(discarded))
}

fn failed(verb: &str, name: &MailboxName, error: &RequestError) -> Stop {
    Failure::request(format!("cannot {verb} {name}"), error).into()
}

/// Says what was done to a mailbox, and how many messages it threw away.
fn done(
    output: &mut Output,
    name: &MailboxName,
    done: &'static str,
    discarded: Option<u64>,
) -> Outcome {
    if output.json {
        let mailbox = name.as_str();
        output.object(&json::Done { mailbox, done, messages: discarded, bytes: None })?;
    }
    match discarded {
        Some(count) if count > 0 => {
            output.tell(&format!("{done} {name}, and with it {count} queued messages"));
        }
        _ => output.tell(&format!("{done} {name}")),
    }
    Ok(ExitCode::Done)
}

/// Lists the mailboxes that the caller may see.
pub(crate) fn list(client: &Client, output: &mut Output) -> Outcome {
    let mailboxes =
        client.list().map_err(|error| Failure::request("cannot list the mailboxes", &error))?;
    if output.json {
        let mailboxes = mailboxes.iter().map(json::Mailbox::from).collect();
        output.object(&json::List { mailboxes })?;
        return Ok(ExitCode::Done);
    }
    if mailboxes.is_empty() {
        output.tell("there are no mailboxes that you may see");
        return Ok(ExitCode::Done);
    }
    let mut table = plain_table(&[
        "NAME",
        "STATE",
        "OWNER",
        "MODE",
        "LANE",
        "SENDERS",
        "RECEIVERS",
        "QUEUED",
        "BYTES",
        "SENT",
    ]);
    for mailbox in &mailboxes {
        table.add_row(list_row(mailbox));
    }
    show_table(table, 4..10, output)?;
    Ok(ExitCode::Done)
}

fn list_row(mailbox: &MailboxSummary) -> Vec<String> {
    let attributes = &mailbox.attributes;
    vec![
        mailbox.name.to_string(),
        state(mailbox).to_owned(),
        owner(attributes.owner_uid, attributes.owner_gid),
        format!("{:04o}", attributes.mode),
        HumanBytes(attributes.capacity_bytes).to_string(),
        mailbox.senders.to_string(),
        mailbox.receivers.to_string(),
        mailbox.queued_messages.to_string(),
        HumanBytes(mailbox.queued_bytes).to_string(),
        mailbox.sent_messages.to_string(),
    ]
}

/// Shows all about one mailbox.
pub(crate) fn show(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    let detail = client.show(name.as_str()).map_err(|error| failed("show", name, &error))?;
    if output.json {
        output.object(&json::Detail::from(&detail))?;
        return Ok(ExitCode::Done);
    }
    show_table(attributes_table(&detail), 0..0, output)?;
    if detail.members.is_empty() {
        output.tell("nobody has it open");
        return Ok(ExitCode::Done);
    }
    let mut table = plain_table(&["MEMBER", "USER", "GROUP", "STATE", "PID", "MESSAGES", "QUEUED"]);
    for member in &detail.members {
        table.add_row(vec![
            format!("{} {}", json::role(member.role), member.index),
            user_name(member.identity.uid),
            group_name(member.identity.gid),
            if member.alive { "there" } else { "gone" }.to_owned(),
            member.identity.pid.to_string(),
            member.messages.to_string(),
            HumanBytes(member.queued_bytes).to_string(),
        ]);
    }
    output.line("")?;
    show_table(table, 4..7, output)?;
    Ok(ExitCode::Done)
}

fn attributes_table(detail: &MailboxDetail) -> Table {
    let summary = &detail.summary;
    let attributes = &summary.attributes;
    let senders = format!("{} of {}", summary.senders, attributes.lanes_max);
    let receivers = format!("{} of {}", summary.receivers, attributes.receivers_max);
    let queued = format!("{} messages, {} bytes", summary.queued_messages, summary.queued_bytes);
    let fence = if detail.fences { "a fence a message" } else { "no fence a message" };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (label, value) in [
        ("name", summary.name.to_string()),
        ("id", summary.mailbox_id.to_string()),
        ("state", state(summary).to_owned()),
        ("owner", owner(attributes.owner_uid, attributes.owner_gid)),
        ("mode", format!("{:04o}", attributes.mode)),
        ("lane capacity", format!("{} bytes", attributes.capacity_bytes)),
        ("longest message", format!("{} bytes", attributes.message_bytes_max())),
        ("senders", senders),
        ("receivers", receivers),
        ("queued", queued),
        ("sent", format!("{} messages", summary.sent_messages)),
        ("reserved", format!("{} bytes", detail.reserved_bytes)),
        ("barrier", fence.to_owned()),
    ] {
        table.add_row([label.to_owned(), value]);
    }
    table
}

fn state(mailbox: &MailboxSummary) -> &'static str {
    if mailbox.open { "open" } else { "closed" }
}

/// A table without lines, for reading and for `awk` alike.
fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// Prints a table, numbers to the right, columns two blanks apart.
fn show_table(mut table: Table, numbers: Range<usize>, output: &mut Output) -> Result<(), Stop> {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output.line(&table.trim_fmt())
}

fn owner(uid: Option<u32>, gid: Option<u32>) -> String {
    let user = uid.map_or("-".to_owned(), user_name);
    let group = gid.map_or("-".to_owned(), group_name);
    format!("{user}:{group}")
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or(uid.to_string(), |user| user.name)
}

fn group_name(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or(gid.to_string(), |group| group.name)
}
