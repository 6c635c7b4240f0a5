//! A program that does with mailboxes whatever a test tells it to, and worse.
//!
//! `misbehave SOCKET` connects (without SOCKET it looks for a daemon itself), says `ok` or `error WHY`, and
//! then answers each line on its standard input with one line, beginning with `ok`, `got` or `error`. It
//! ends with its standard input, or with the process that started it.
//!
//! ```text
//! create NAME | create_for UID NAME | delete NAME               ask the daemon
//! restart | list | status                                       the same
//! sender NAME | receiver NAME [GROUP] | close_sender | close_receiver   open and close the ends
//! send_sync TEXT | send_sync_within MS TEXT                     send one, and await the acknowledgement
//! signalled VALUE TEXT                                          send one, and await the signal of its ticket
//! withdraw_numbered ID COUNT BYTES SEED LOG                     see completions.rs
//! never_spin                                                    the ends sleep at once
//! require_receiver PID | end_without_daemon                     what ends them
//! send TEXT | try_send TEXT | send_within MS TEXT               send one message
//! receive | try_receive | receive_within MS                     got ATTEMPTS PID UID GID TEXT
//! receive_from PID | receive_batch | priority P                 of one sender only; of any; send at a priority
//! hold                                                          as receive; then ack | return
//! call TEXT | answer                                            ok ANSWER | ok answered PID: with `re: TEXT`
//! send_numbered ID FIRST COUNT BYTES [PROGRESS]                 see tests::numbered
//! take_bytes COUNT FILE                                         receive messages into a file
//! take COUNT LOG | drain LOG | drain_logged LOG                 receive numbered messages
//! polled                                                        the ends are waited for on descriptors
//! send_numbered_polled ID FIRST COUNT BYTES | drain_polled LOG  the same with `poll`: see polled.rs
//! drain_set LOG NAME...                                         see polled.rs
//! hold_batch MAX COUNT | send_reserved BYTES | send_numbered_batches ... | drain_batches ...   see bulk.rs
//! labour_send ... | labour_call ... | labour_receive ...        see labour.rs
//! crowd SESSIONS NAME... | flood | time_connections COUNT       see crowd.rs
//! hoard SESSIONS COUNT NAME | read_hoard | spoil_hoard          see hoard.rs
//! churn SEED PREFIX UNTIL | connects SOCKET UNTIL | send_tracked_numbered ID BYTES UNTIL   see churn.rs
//! fork                                                          use everything in a child of fork
//! attack ROLE NAME | rob ROLE NAME [GROUP]                      see attacks.rs
//! leave_and_rob ROLE NAME [GROUP]                            the same, with the link closed
//! menace HOW ...                                                see menace.rs
//! scribble NAME WHAT | derange NAME WHAT                        see scribbles.rs
//! ```

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libipc::{
    Client, ClientOptions, Delivery, MailboxOptions, ReceiveError, Receiver, Role, Sender,
};
use tests::numbered;

#[path = "misbehave/attacks.rs"]
mod attacks;
#[path = "misbehave/bulk.rs"]
mod bulk;
#[path = "misbehave/churn.rs"]
mod churn;
#[path = "misbehave/completions.rs"]
mod completions;
#[path = "misbehave/crowd.rs"]
mod crowd;
#[path = "misbehave/hoard.rs"]
mod hoard;
#[path = "misbehave/labour.rs"]
mod labour;
#[path = "misbehave/menace.rs"]
mod menace;
#[path = "misbehave/picky.rs"]
mod picky;
#[path = "misbehave/polled.rs"]
mod polled;
#[path = "misbehave/scribbles.rs"]
mod scribbles;

/// What a command came to: what to answer behind `ok`, or what behind `error`.
type Outcome = Result<String, String>;

fn main() {
    let killed_with_parent = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    killed_with_parent.expect("the kernel takes a signal's number");
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let options = ClientOptions::new();
    let client = match &socket {
        Some(path) => options.socket(path).connect(),
        None => options.connect(),
    };
    let client = match client {
        Ok(client) => client,
        Err(error) => return answer(&format!("error {error:?}: {error}")),
    };
    answer("ok");
    let socket = client.socket_path().to_owned();
    let (kept, crowd) = (Vec::new(), Vec::new());
    let hoard = hoard::Hoard::default();
    let mut state = State { client, socket, sender: None, receiver: None, kept, crowd, hoard };
    while let Some(line) = next_line() {
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match state.obey(verb, rest) {
            Ok(text) if text.starts_with("got ") => answer(&text),
            Ok(text) => answer(format!("ok {text}").trim_end()),
            Err(error) => answer(&format!("error {error}").replace('\n', " ")),
        }
    }
}

fn next_line() -> Option<String> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let more = read.is_ok_and(|len| len > 0);
    more.then(|| line.trim_end().to_owned())
}

fn answer(line: &str) {
    let mut output = io::stdout().lock();
    // Whoever asked may be gone; then so are we, soon.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn said(error: impl Debug) -> String {
    format!("{error:?}")
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    word.and_then(|word| word.parse().ok()).ok_or_else(|| "usage: a number is missing".to_owned())
}

fn path(word: Option<&str>) -> Result<&Path, String> {
    word.map(Path::new).ok_or_else(|| "usage: a path is missing".to_owned())
}

/// Reads `MS TEXT`.
fn within_text(rest: &str) -> Result<(Instant, &[u8]), String> {
    let (ms, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok((within(number(Some(ms))?), text.as_bytes()))
}

struct State {
    client: Client,
    socket: PathBuf,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// Whatever must stay open.
    kept: Vec<scribbles::Kept>,
    crowd: Vec<(Client, Vec<Sender>)>,
    hoard: hoard::Hoard,
}

impl State {
    fn obey(&mut self, verb: &str, rest: &str) -> Outcome {
        let mut words = rest.split(' ');
        match verb {
            "sender" => self.sender = Some(self.client.sender(rest).map_err(said)?),
            "receiver" => self.open_receiver(rest)?,
            "observer" => drop(self.client.observer(rest).map_err(said)?),
            "close_sender" => self.sender = None,
            "close_receiver" => self.receiver = None,
            "create" => self.client.create(rest, &MailboxOptions::new()).map_err(said)?,
            "create_for" => self.create_for(rest)?,
            "list" => {
                let list = self.client.list().map_err(said)?;
                let names: Vec<_> = list.iter().map(|mailbox| mailbox.name.as_str()).collect();
                return Ok(names.join(" "));
            }
            "never_spin" => self.never_spin(),
            "require_receiver" => self.sender()?.require_receiver(number(words.next())?),
            "end_without_daemon" => self.end_without_daemon(),
            "delete" => drop(self.client.delete(rest).map_err(said)?),
            "restart" => self.client.restart_daemon().map_err(said)?,
            "status" => return Ok(self.client.status().map_err(said)?.pid.to_string()),
            "send" => self.sender()?.send(rest.as_bytes()).map_err(said)?,
            "try_send" => self.sender()?.try_send(rest.as_bytes()).map_err(said)?,
            "send_within" => {
                let (deadline, text) = within_text(rest)?;
                self.sender()?.send_deadline(text, deadline).map_err(said)?;
            }
            "send_sync" => self.sender()?.send_sync(rest.as_bytes()).map_err(said)?,
            "send_sync_within" => {
                let (deadline, text) = within_text(rest)?;
                self.sender()?.send_sync_deadline(text, deadline).map_err(said)?;
            }
            "signalled" => return completions::signalled(self.sender()?, rest),
            "withdraw_numbered" => return completions::withdraw(self.sender()?, &mut words),
            "receive" => return Ok(take(self.receiver()?.receive().map_err(said)?)),
            "try_receive" => return Ok(take(self.receiver()?.try_receive().map_err(said)?)),
            "receive_within" => {
                let deadline = within(number(words.next())?);
                return Ok(take(self.receiver()?.receive_deadline(deadline).map_err(said)?));
            }
            "receive_from" => return self.receive_from(number(words.next())?),
            "receive_batch" => return self.receive_batch(),
            "priority" => self.sender()?.set_priority(number(words.next())?).map_err(said)?,
            "answer" => return answer_call(self.receiver()?.receive().map_err(said)?),
            "call" => return self.call(rest),
            "hold" => return hold(self.receiver()?.receive().map_err(said)?),
            _ => return self.obey_at_length(verb, rest),
        }
        Ok(String::new())
    }

    /// Commands that do many things at once, or what nobody should.
    fn obey_at_length(&mut self, verb: &str, rest: &str) -> Outcome {
        let mut words = rest.split(' ');
        match verb {
            "send_numbered" => return self.send_numbered(&mut words),
            "take" => return self.take_some(number(words.next())?, path(words.next())?),
            "take_bytes" => return self.take_bytes(number(words.next())?, path(words.next())?),
            "drain" => return self.drain(path(words.next())?, false),
            "drain_logged" => return self.drain(path(words.next())?, true),
            "polled" => polled::make(self.sender.as_mut(), self.receiver.as_mut())?,
            "send_numbered_polled" => return polled::send_numbered(self.sender()?, &mut words),
            "drain_polled" => return polled::drain(self.receiver()?, path(words.next())?),
            "drain_set" => return polled::drain_set(&self.client, &mut words),
            "send_reserved" => bulk::send_reserved(self.sender()?, number(words.next())?)?,
            "send_numbered_batches" => return bulk::send_numbered(self.sender()?, &mut words),
            "hold_batch" => bulk::hold(self.receiver()?, &mut words)?,
            "drain_batches" => return bulk::drain(self.receiver()?, &mut words),
            "labour_send" => return labour::send(self.sender()?, &mut words),
            "labour_call" => return labour::call(self.sender()?, &mut words),
            "labour_receive" => return labour::receive(self.receiver()?, &mut words),
            "crowd" => self.crowd.extend(crowd::gather(&self.socket, &mut words)?),
            "hoard" => self.hoard.gather(&self.socket, &mut words)?,
            "read_hoard" => return self.hoard.read(),
            "spoil_hoard" => self.hoard.spoil(),
            "flood" => return crowd::flood(&self.socket),
            "time_connections" => return crowd::time(&self.socket, &mut words),
            "churn" | "connects" => return churn::obey(verb, &self.client, &mut words),
            "send_tracked_numbered" => return churn::send_tracked(self.sender()?, &mut words),
            "fork" => return self.fork(),
            "attack" => return self.attack(rest),
            "rob" | "leave_and_rob" => return self.rob(rest, verb == "leave_and_rob"),
            "menace" => return menace::obey(&self.socket, &mut words),
            "scribble" => self.kept.push(scribbles::scribble(&self.socket, rest)?),
            "derange" => self.kept.push(scribbles::derange(&self.socket, rest)?),
            _ => return Err(format!("usage: no command {verb}")),
        }
        Ok(String::new())
    }

    fn sender(&mut self) -> Result<&mut Sender, String> {
        self.sender.as_mut().ok_or_else(|| "usage: no sender is open".to_owned())
    }

    fn receiver(&mut self) -> Result<&mut Receiver, String> {
        self.receiver.as_mut().ok_or_else(|| "usage: no receiver is open".to_owned())
    }

    fn never_spin(&mut self) {
        self.sender.iter_mut().for_each(|sender| sender.set_spin_max(Duration::ZERO));
        self.receiver.iter_mut().for_each(|receiver| receiver.set_spin_max(Duration::ZERO));
    }

    /// Opens the receiving end of what follows: a name, and a group of receivers if there is one.
    fn open_receiver(&mut self, rest: &str) -> Result<(), String> {
        let receiver = match rest.split_once(' ') {
            Some((name, group)) => self.client.receiver_in_group(name, group),
            None => self.client.receiver(rest),
        };
        self.receiver = Some(receiver.map_err(said)?);
        Ok(())
    }

    fn create_for(&self, rest: &str) -> Result<(), String> {
        let (uid, name) = rest.split_once(' ').unwrap_or((rest, ""));
        let options = MailboxOptions::new().owner(Some(number(Some(uid))?), None);
        self.client.create(name, &options).map_err(said)
    }

    fn receive_batch(&mut self) -> Outcome {
        let batch = self.receiver()?.receive_batch(8).map_err(said)?;
        let len = batch.len();
        batch.acknowledge();
        Ok(len.to_string())
    }

    fn end_without_daemon(&mut self) {
        self.sender.iter_mut().for_each(Sender::end_without_daemon);
        self.receiver.iter_mut().for_each(Receiver::end_without_daemon);
    }

    fn call(&mut self, request: &str) -> Outcome {
        let reply = self.sender()?.call(request.as_bytes()).map_err(said)?;
        Ok(String::from_utf8_lossy(reply.bytes()).into_owned())
    }

    fn receive_from(&mut self, pid: u32) -> Outcome {
        Ok(take(self.receiver()?.receive_from(pid).map_err(said)?))
    }

    fn rob(&self, rest: &str, leaves: bool) -> Outcome {
        let words: Vec<_> = rest.split(' ').collect();
        match words[..] {
            ["send", name] => attacks::rob(&self.socket, Role::Send, name, None, leaves),
            ["receive", name] => attacks::rob(&self.socket, Role::Receive, name, None, leaves),
            ["receive", name, group] => {
                attacks::rob(&self.socket, Role::Receive, name, Some(group), leaves)
            }
            _ => Err(format!("usage: a role, a name and perhaps a group, not {rest}")),
        }
    }

    fn attack(&self, rest: &str) -> Outcome {
        let (role, name) = rest.split_once(' ').unwrap_or((rest, ""));
        match role {
            "send" => attacks::as_sender(&self.socket, name),
            "receive" => attacks::as_receiver(&self.socket, name),
            _ => Err(format!("usage: no role {role}")),
        }
    }

    /// Sends numbered messages; with a progress file, writes there how many have been sent, after each.
    fn send_numbered<'a>(&mut self, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
        let id = number(words.next())?;
        let (first, count): (u64, u64) = (number(words.next())?, number(words.next())?);
        let len = number(words.next())?;
        let progress = words.next().map(File::create).transpose().map_err(said)?;
        let sender = self.sender()?;
        let mut message = Vec::new();
        for n in first..first + count {
            numbered::write(id, n, len, &mut message);
            sender.send(&message).map_err(said)?;
            if let Some(progress) = &progress {
                progress.write_all_at(&(n + 1).to_le_bytes(), 0).map_err(said)?;
            }
        }
        Ok(String::new())
    }

    /// Receives so many numbered messages, each in the log before it is acknowledged.
    fn take_some(&mut self, count: u64, log: &Path) -> Outcome {
        let mut log = numbered::open_log(log).map_err(said)?;
        let receiver = self.receiver()?;
        for _ in 0..count {
            let delivery = receiver.receive().map_err(said)?;
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            numbered::log(entry, &mut log).map_err(said)?;
            delivery.acknowledge();
        }
        numbered::Note::alone(numbered::Deed::Settled).log(&mut log).map_err(said)?;
        Ok(String::new())
    }

    /// Receives so many messages, and writes them one behind the other.
    fn take_bytes(&mut self, count: u64, to: &Path) -> Outcome {
        let receiver = self.receiver()?;
        let mut all = Vec::new();
        for _ in 0..count {
            all.extend(receiver.receive().map_err(said)?.into_bytes());
        }
        std::fs::write(to, all).map_err(said)?;
        Ok(String::new())
    }

    /// Receives numbered messages until the mailbox is closed and empty. `at_once`: each is in the log before
    /// it is acknowledged.
    fn drain(&mut self, log: &Path, at_once: bool) -> Outcome {
        let mut log = BufWriter::new(numbered::open_log(log).map_err(said)?);
        let receiver = self.receiver()?;
        let mut count = 0u64;
        loop {
            let delivery = match receiver.receive() {
                Ok(delivery) => delivery,
                Err(ReceiveError::Closed) => break,
                Err(error) => return Err(said(error)),
            };
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            numbered::log(entry, &mut log).map_err(said)?;
            if at_once {
                log.flush().map_err(said)?;
            }
            delivery.acknowledge();
            count += 1;
        }
        numbered::Note::alone(numbered::Deed::Settled).log(&mut log).map_err(said)?;
        log.flush().map_err(said)?;
        Ok(count.to_string())
    }

    /// What a child of fork gets that uses what its parent has open.
    fn fork(&mut self) -> Outcome {
        let (client, sender, receiver) = (&self.client, &mut self.sender, &mut self.receiver);
        let mut raw = tests::RawClient::greet(&self.socket);
        let socket = &self.socket;
        let said = attacks::in_child_of_fork(|| {
            let mut errors = Vec::new();
            errors.push(client.status().map(drop).map_err(said));
            if let Some(sender) = sender.as_mut() {
                errors.push(sender.try_send(b"from the child").map_err(said));
            }
            if let Some(receiver) = receiver.as_mut() {
                errors.push(receiver.try_receive().map(drop).map_err(said));
            }
            errors.push(match raw.ask(&libipc::protocol::Request::Status) {
                (libipc::protocol::Answer::Refused(refusal), _) => Err(said(refusal)),
                _ => Ok(()),
            });
            let anew = libipc::ClientOptions::new().socket(socket).connect().map_err(said);
            errors.push(anew.and_then(|client| client.status().map(drop).map_err(said)));
            // What a child does that ends in an orderly way: it closes everything.
            drop(sender.take());
            drop(receiver.take());
            errors.into_iter().map(|error| error.err().unwrap_or("allowed".into())).collect()
        })?;
        Ok(said)
    }
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn describe(delivery: &Delivery<'_>) -> String {
    let libipc::Identity { pid, uid, gid } = delivery.sender();
    let text = String::from_utf8_lossy(delivery.bytes());
    format!("got {} {pid} {uid} {gid} {text}", delivery.attempts())
}

fn take(delivery: Delivery<'_>) -> String {
    let text = describe(&delivery);
    delivery.acknowledge();
    text
}

/// Answers a call.
fn answer_call(delivery: Delivery<'_>) -> Outcome {
    let pid = delivery.sender().pid;
    let answer = [b"re: ", delivery.bytes()].concat();
    delivery.reply(&answer).map_err(said)?;
    Ok(format!("answered {pid}"))
}

/// Shows the delivery, and keeps it in hand until told what to do with it.
fn hold(delivery: Delivery<'_>) -> Outcome {
    answer(&describe(&delivery));
    match next_line().as_deref() {
        Some("ack") => delivery.acknowledge(),
        Some("return") => delivery.return_to_queue(),
        other => return Err(format!("usage: ack or return, not {other:?}")),
    }
    Ok(String::new())
}
