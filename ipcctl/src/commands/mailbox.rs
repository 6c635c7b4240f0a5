//! `create`, `open`, `close`, `delete`, `list`, `show`: mailboxes from an administrator's side.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;
use libipc::{Buffering, OnDeath, Order, Owner, Receivers};
use libipc::{Client, MailboxDetail, MailboxName, MailboxOptions, MailboxSummary};
use libipc::{GroupReport, MailboxAttributes, MemberInfo, Refusal, RequestError, Role};
use nix::unistd::{Gid, Group, Uid, User};

use crate::cli::{Create, Delete};
use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::json;
use crate::output::Output;

/// Creates a mailbox.
pub(crate) fn create(client: &Client, args: &Create, output: &mut Output) -> Outcome {
    let what = || format!("cannot create {}", args.name);
    let options = options(args).map_err(|refusal| Failure::refused(what(), &refusal))?;
    options
        .attributes()
        .check(options.groups())
        .map_err(|refusal| Failure::refused(what(), &refusal))?;
    client
        .create(args.name.as_str(), &options)
        .map_err(|error| Failure::request(what(), &error))?;
    done(output, &args.name, "created", None)
}

fn options(args: &Create) -> Result<MailboxOptions, Refusal> {
    let mut options = MailboxOptions::new()
        .buffering(args.buffering)
        .receivers(args.receivers)
        .order(args.order)
        .on_death(args.on_death)
        .lifetime(args.lifetime);
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
    if let Some(count) = args.max_attempts {
        options = options.max_attempts(count);
    }
    if let Some(count) = args.max_lanes {
        options = options.lanes_max(count);
    }
    for group in &args.groups {
        options = options.group(group.name.as_str(), group.slow)?;
    }
    Ok(options)
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

/// Deletes a mailbox, and tells how many messages were lost by it, or are to be received first.
pub(crate) fn delete(client: &Client, args: &Delete, output: &mut Output) -> Outcome {
    let name = &args.name;
    let deleted = match args.drain {
        true => client.delete_when_drained(name.as_str()),
        false => client.delete(name.as_str()),
    };
    let queued = deleted.map_err(|error| failed("delete", name, &error))?;
    let what = if args.drain && queued > 0 { "draining" } else { "deleted" };
    done(output, name, what, Some(queued))
}

fn failed(verb: &str, name: &MailboxName, error: &RequestError) -> Stop {
    Failure::request(format!("cannot {verb} {name}"), error).into()
}

/// Says what was done to a mailbox, and how many messages it has thrown away or still holds.
fn done(
    output: &mut Output,
    name: &MailboxName,
    done: &'static str,
    messages: Option<u64>,
) -> Outcome {
    if output.json {
        let to = json::Target::Mailbox(name.as_str());
        output.object(&json::Done { to, done, messages, bytes: None })?;
    }
    match messages {
        Some(count) if done == "draining" => {
            output.tell(&format!("{name} goes when its {count} queued messages are received"));
        }
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
        "KIND",
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
    show_table(table, 5..11, output)?;
    Ok(ExitCode::Done)
}

fn list_row(mailbox: &MailboxSummary) -> Vec<String> {
    let attributes = &mailbox.attributes;
    vec![
        mailbox.name.to_string(),
        state(mailbox).to_owned(),
        owner(attributes.owner_uid, attributes.owner_gid),
        format!("{:04o}", attributes.mode),
        kind(attributes),
        HumanBytes(attributes.capacity_bytes).to_string(),
        mailbox.senders.to_string(),
        mailbox.receivers.to_string(),
        mailbox.queued_messages.to_string(),
        HumanBytes(mailbox.queued_bytes).to_string(),
        mailbox.sent_messages.to_string(),
    ]
}

/// In what a mailbox differs from one that was created without a word: `unbounded,arrival`.
fn kind(attributes: &MailboxAttributes) -> String {
    let MailboxAttributes { buffering, receivers, owner, order, on_death, .. } = *attributes;
    let words = [
        (buffering != Buffering::default()).then_some(buffering.as_str()),
        (receivers != Receivers::default()).then_some(receivers.as_str()),
        (owner != Owner::default()).then_some(owner.as_str()),
        (order != Order::default()).then_some(order.as_str()),
        (on_death != OnDeath::default()).then_some(on_death.as_str()),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    if words.is_empty() { "plain".to_owned() } else { words.join(",") }
}

/// Shows all about one mailbox.
pub(crate) fn show(client: &Client, name: &MailboxName, output: &mut Output) -> Outcome {
    let detail = client.show(name.as_str()).map_err(|error| failed("show", name, &error))?;
    if output.json {
        output.object(&json::Detail::from(&detail))?;
        return Ok(ExitCode::Done);
    }
    show_table(attributes_table(&detail), 0..0, output)?;
    if !detail.groups.is_empty() {
        output.line("")?;
        show_table(groups_table(&detail.groups), 2..5, output)?;
    }
    if detail.members.is_empty() {
        output.tell("nobody has it open");
        return Ok(ExitCode::Done);
    }
    let mut table = plain_table(&["MEMBER", "USER", "GROUP", "STATE", "PID", "MESSAGES", "QUEUED"]);
    for member in &detail.members {
        table.add_row(vec![
            member_name(member),
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

/// `sender 3`, `sender 4 of priority 7`, `receiver 0 in audit`.
fn member_name(member: &MemberInfo) -> String {
    let mut name = format!("{} {}", json::role(member.role), member.index);
    match (member.role, &member.group) {
        (Role::Send, _) if member.priority > 0 => {
            name.push_str(&format!(" of priority {}", member.priority));
        }
        (Role::Receive, Some(group)) => name.push_str(&format!(" in {group}")),
        _ => {}
    }
    name
}

fn groups_table(groups: &[GroupReport]) -> Table {
    let mut table = plain_table(&["GROUP", "IF SLOW", "RECEIVERS", "QUEUED", "DROPPED"]);
    for GroupReport { group, receivers, queued_messages, dropped_messages } in groups {
        table.add_row(vec![
            group.name.to_string(),
            group.slow.to_string(),
            receivers.to_string(),
            queued_messages.to_string(),
            dropped_messages.to_string(),
        ]);
    }
    table
}

fn attributes_table(detail: &MailboxDetail) -> Table {
    let summary = &detail.summary;
    let attributes = &summary.attributes;
    let senders = format!("{} of {}", summary.senders, attributes.lanes_max);
    let receivers = format!("{} of {}", summary.receivers, attributes.receivers_max);
    let queued = format!("{} messages, {} bytes", summary.queued_messages, summary.queued_bytes);
    let ever = detail.dead_lettered_messages;
    let dead_letters = format!("{} now, {ever} ever", summary.dead_letters);
    let fence = if detail.fences { "a fence a message" } else { "no fence a message" };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (label, value) in [
        ("name", summary.name.to_string()),
        ("id", summary.mailbox_id.to_string()),
        ("state", state(summary).to_owned()),
        ("owner", owner(attributes.owner_uid, attributes.owner_gid)),
        ("mode", format!("{:04o}", attributes.mode)),
        ("buffering", attributes.buffering.to_string()),
        ("who receives", attributes.receivers.to_string()),
        ("lifetime", attributes.owner.to_string()),
        ("order", attributes.order.to_string()),
        ("on death", attributes.on_death.to_string()),
        ("max attempts", max_attempts(attributes)),
        ("lane capacity", format!("{} bytes", attributes.capacity_bytes)),
        ("longest message", format!("{} bytes", attributes.message_bytes_max())),
        ("senders", senders),
        ("receivers", receivers),
        ("queued", queued),
        ("sent", format!("{} messages", summary.sent_messages)),
        ("dropped", format!("{} messages", detail.dropped_messages)),
        ("dead letters", dead_letters),
        (
            "reserved",
            format!("{} bytes, {} descriptors", detail.reserved_bytes, detail.descriptors),
        ),
        ("barrier", fence.to_owned()),
    ] {
        table.add_row([label.to_owned(), value]);
    }
    table
}

fn max_attempts(attributes: &MailboxAttributes) -> String {
    match attributes.max_attempts {
        0 => "as many as need be".to_owned(),
        count => count.to_string(),
    }
}

fn state(mailbox: &MailboxSummary) -> &'static str {
    if mailbox.open { "open" } else { "closed" }
}

/// A table without lines, for reading and for `awk` alike.
pub(super) fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// Prints a table, numbers to the right, columns two blanks apart.
pub(super) fn show_table(
    mut table: Table,
    numbers: Range<usize>,
    output: &mut Output,
) -> Result<(), Stop> {
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

pub(super) fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or(uid.to_string(), |user| user.name)
}

fn group_name(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or(gid.to_string(), |group| group.name)
}
