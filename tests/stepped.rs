//! A program that does one thing with a mailbox between markers, so that `tests/instructions.rs` can step through
//! it, and kill it at any of its instructions.
//!
//! `stepped SOCKET MAILBOX[+GROUP] ID ACT` connects, gets ready for the act, has itself traced, and stops at the first marker. Each step
//! of the act ends with another marker, the last with the last. What comes behind that happens only if it is let go on:
//! it prints what it received, `SENDER NUMBER ATTEMPTS` a line. It ends with exit code 77 where it may not be
//! traced. ID is the number with which it signs its messages. Steps of an act are separated by commas here:
//!
//! ```text
//! send:LEN         after one message: send             first_send:LEN   send, with nothing sent before
//! full_send        after as many as there is room for: send
//! send_batch:N     after one message: send N           send_batch_in_full:N  after as many as there is room for
//! reserve          after one message: reserve and write, commit
//! tracked          after one message: send with a ticket, take it back
//! send_at:P        after one message: set the priority, send
//! meet             send where nothing is buffered
//! call             call                                call_again       after one call: call
//! receive:N        N times: receive, acknowledge       drop             receive, return
//! receive_from:P   receive, acknowledge, the same from process P
//! await_from:P     receive from process P, acknowledge
//! reject           receive, make a dead letter of it   reply            receive, answer
//! wait_set         wait with two ends, receive, acknowledge
//! polled           after a poll: find nothing, poll, receive, acknowledge
//! receive_batch:N  receive N, acknowledge the first, acknowledge the others
//! connect          connect
//! open_sender      open, send                          close_sender     after one message: close
//! open_receiver    open, receive, acknowledge          close_receiver   after one receive: close
//! ```

#![expect(unsafe_code, reason = "a marker is an instruction that no function of Rust is")]

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::exit;
use std::time::Duration;

use libipc::{Client, ClientOptions, Delivery, Receiver, Sender, WaitSet};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::{prctl, ptrace, signal::Signal};
use tests::numbered::{self, BYTES_MIN};

use shared::{ANSWER, NOT_TRACED, ROOM_BYTES, ROOM_MESSAGES};

#[path = "steps/shared.rs"]
mod shared;

/// Stops for whoever traces us. One instruction, which the tracer steps over without its being run.
macro_rules! marker {
    () => {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a breakpoint touches neither memory nor registers; a tracer is there, `begin` has seen to it.
        unsafe {
            std::arch::asm!("int3")
        }
    };
}

/// Has itself traced, and stops for the first time.
macro_rules! begin {
    () => {
        if !cfg!(target_arch = "x86_64") || ptrace::traceme().is_err() {
            exit(NOT_TRACED);
        }
        marker!();
    };
}

struct Stage {
    socket: PathBuf,
    mailbox: String,
    group: Option<String>,
    id: u32,
}

fn main() {
    prctl::set_pdeathsig(Signal::SIGKILL).expect("the kernel takes a signal's number");
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().expect("usage: stepped SOCKET MAILBOX ID ACT");
    let (socket, place, id, act) = (word().into(), word(), word(), word());
    let (mailbox, group) = place.split_once('+').unwrap_or((&place, ""));
    let group = (!group.is_empty()).then(|| group.to_owned());
    let id = id.parse().expect("a number");
    let stage = Stage { socket, mailbox: mailbox.to_owned(), group, id };
    let (verb, number) = act.split_once(':').unwrap_or((&act, "1"));
    let number: usize = number.parse().expect("a number");
    match verb {
        "send" => stage.send(number, true),
        "first_send" => stage.send(number, false),
        "full_send" => stage.full_send(),
        "send_batch" => stage.send_batch(1, number, BYTES_MIN),
        "send_batch_in_full" => stage.send_batch(ROOM_MESSAGES, number, ROOM_BYTES),
        "reserve" => stage.reserve(),
        "tracked" => stage.tracked(),
        "send_at" => stage.send_at(number as u8),
        "meet" => stage.meet(),
        "call" => stage.call(0),
        "call_again" => stage.call(1),
        "receive" => stage.receive(number),
        "receive_from" => stage.receive_from(number as u32),
        "await_from" => stage.await_from(number as u32),
        "reject" => stage.reject(),
        "reply" => stage.reply(),
        "wait_set" => stage.wait_set(),
        "polled" => stage.polled(),
        "drop" => stage.drop(),
        "receive_batch" => stage.receive_batch(number),
        "connect" => stage.connect_traced(),
        "open_sender" => stage.open_sender(),
        "close_sender" => stage.close_sender(),
        "open_receiver" => stage.open_receiver(),
        "close_receiver" => stage.close_receiver(),
        _ => panic!("no act {verb}"),
    }
}

/// What was received, to be looked at later: nothing but the mailbox is to be stepped through.
struct Got {
    attempts: u32,
    bytes: [u8; BYTES_MIN],
}

impl Got {
    fn of(delivery: &Delivery<'_>) -> Self {
        let bytes = delivery.bytes().first_chunk().expect("a numbered message");
        Self { attempts: delivery.attempts(), bytes: *bytes }
    }

    /// Tells of a message that is no longer than what was kept of it.
    fn tell(&self) {
        let entry = numbered::read(&self.bytes, self.attempts);
        println!("{} {} {}", entry.sender, entry.number, entry.attempts);
    }
}

impl Stage {
    fn connect(&self) -> Client {
        ClientOptions::new().socket(&self.socket).connect().expect("a session")
    }

    /// An end that has sent its first `count` messages.
    fn sender(&self, count: usize, len: usize) -> Sender {
        let mut sender = self.connect().sender(&self.mailbox).expect("an end to send");
        sender.set_spin_max(Duration::ZERO);
        for number in 0..count {
            sender.send(&self.message(number, len)).expect("there is room");
        }
        sender
    }

    fn receiver(&self) -> Receiver {
        self.receiver_of(&self.connect())
    }

    fn receiver_of(&self, client: &Client) -> Receiver {
        let receiver = match &self.group {
            Some(group) => client.receiver_in_group(&self.mailbox, group),
            None => client.receiver(&self.mailbox),
        };
        let mut receiver = receiver.expect("an end to receive");
        receiver.set_spin_max(Duration::ZERO);
        receiver
    }

    fn message(&self, number: usize, len: usize) -> Vec<u8> {
        let mut message = Vec::new();
        numbered::write(self.id, number as u64, len, &mut message);
        message
    }

    fn send(&self, len: usize, warm: bool) {
        let count = usize::from(warm);
        let (mut sender, message) = (self.sender(count, len), self.message(count, len));
        begin!();
        let sent = sender.send(&message);
        marker!();
        sent.expect("sent");
    }

    fn full_send(&self) {
        let mut sender = self.sender(ROOM_MESSAGES, ROOM_BYTES);
        let message = self.message(ROOM_MESSAGES, ROOM_BYTES);
        begin!();
        let sent = sender.send(&message);
        marker!();
        sent.expect("sent");
    }

    fn send_batch(&self, first: usize, count: usize, len: usize) {
        let mut sender = self.sender(first, len);
        let messages: Vec<_> = (first..first + count).map(|n| self.message(n, len)).collect();
        begin!();
        let sent = sender.send_batch(&messages);
        marker!();
        sent.expect("sent");
    }

    fn reserve(&self) {
        let mut sender = self.sender(1, BYTES_MIN);
        let message = self.message(1, 100);
        begin!();
        let mut reserved = sender.reserve(message.len()).expect("there is room");
        reserved.bytes_mut().copy_from_slice(&message);
        marker!();
        let sent = reserved.commit();
        marker!();
        sent.expect("sent");
    }

    fn tracked(&self) {
        let mut sender = self.sender(1, BYTES_MIN);
        let message = self.message(1, BYTES_MIN);
        begin!();
        let ticket = sender.send_tracked(&message).expect("sent");
        marker!();
        let state = ticket.withdraw();
        marker!();
        assert!(state.expect("our ticket").is_settled(), "nobody receives: it is our own again");
    }

    fn send_at(&self, priority: u8) {
        let mut sender = self.sender(1, BYTES_MIN);
        let message = self.message(1, BYTES_MIN);
        begin!();
        sender.set_priority(priority).expect("a priority");
        marker!();
        let sent = sender.send(&message);
        marker!();
        sent.expect("sent");
    }

    fn meet(&self) {
        let (mut sender, message) = (self.sender(0, 0), self.message(0, BYTES_MIN));
        begin!();
        let met = sender.send(&message);
        marker!();
        met.expect("met");
    }

    fn call(&self, before: usize) {
        let mut sender = self.sender(0, 0);
        for number in 0..before {
            // Whatever came of it, there is a way for answers now.
            let _ = sender.call(&self.message(number, BYTES_MIN));
        }
        let message = self.message(before, BYTES_MIN);
        begin!();
        let reply = sender.call(&message);
        marker!();
        reply.expect("an answer");
    }

    fn receive_from(&self, pid: u32) {
        let mut receiver = self.receiver();
        begin!();
        let first = receiver.receive().expect("a message");
        marker!();
        first.acknowledge();
        marker!();
        let wanted = receiver.receive_from(pid).expect("a message");
        marker!();
        wanted.acknowledge();
        marker!();
    }

    fn await_from(&self, pid: u32) {
        let mut receiver = self.receiver();
        begin!();
        let wanted = receiver.receive_from(pid).expect("a message");
        marker!();
        wanted.acknowledge();
        marker!();
    }

    fn reject(&self) {
        let mut receiver = self.receiver();
        begin!();
        let delivery = receiver.receive().expect("a message");
        marker!();
        let rejected = delivery.reject();
        marker!();
        rejected.expect("a dead letter");
    }

    fn reply(&self) {
        let mut receiver = self.receiver();
        begin!();
        let delivery = receiver.receive().expect("a call");
        marker!();
        let answered = delivery.reply(ANSWER);
        marker!();
        answered.expect("somebody calls");
    }

    fn wait_set(&self) {
        let client = self.connect();
        let mut receivers = [self.receiver_of(&client), self.receiver_of(&client)];
        let mut set = WaitSet::new();
        set.set_spin_max(Duration::ZERO);
        begin!();
        let [one, other] = &mut receivers;
        let ready = set.wait(&mut [one, other]).expect("something")[0];
        marker!();
        let delivery = receivers[ready].try_receive().expect("a message");
        marker!();
        delivery.acknowledge();
        marker!();
    }

    /// The first poll has started the thread that watches.
    fn polled(&self) {
        let mut receiver = self.receiver();
        let fd = receiver.poll_fd().expect("a descriptor").try_clone_to_owned().expect("another");
        let wait = || {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).expect("it becomes readable")
        };
        wait();
        begin!();
        let nothing = receiver.try_receive().is_err();
        marker!();
        wait();
        marker!();
        let delivery = receiver.try_receive().expect("a message");
        marker!();
        delivery.acknowledge();
        marker!();
        assert!(nothing, "it was empty");
    }

    fn receive(&self, count: usize) {
        let mut receiver = self.receiver();
        let mut got = Vec::with_capacity(count);
        begin!();
        for _ in 0..count {
            let delivery = receiver.receive().expect("a message");
            marker!();
            got.push(Got::of(&delivery));
            delivery.acknowledge();
            marker!();
        }
        got.iter().for_each(Got::tell);
    }

    fn drop(&self) {
        let mut receiver = self.receiver();
        begin!();
        let delivery = receiver.receive().expect("a message");
        marker!();
        delivery.return_to_queue();
        marker!();
    }

    fn receive_batch(&self, count: usize) {
        let mut receiver = self.receiver();
        begin!();
        let mut batch = receiver.receive_batch(count).expect("messages");
        marker!();
        batch.acknowledge_first(1);
        marker!();
        batch.acknowledge();
        marker!();
    }

    fn connect_traced(&self) {
        begin!();
        let client = ClientOptions::new().socket(&self.socket).connect();
        marker!();
        client.expect("a session");
    }

    fn open_sender(&self) {
        let (client, message) = (self.connect(), self.message(0, BYTES_MIN));
        begin!();
        let mut sender = client.sender(&self.mailbox).expect("an end to send");
        marker!();
        let sent = sender.send(&message);
        marker!();
        sent.expect("sent");
    }

    fn close_sender(&self) {
        let sender = self.sender(1, BYTES_MIN);
        begin!();
        drop(sender);
        marker!();
    }

    fn open_receiver(&self) {
        let client = self.connect();
        begin!();
        let mut receiver = client.receiver(&self.mailbox).expect("an end to receive");
        marker!();
        let delivery = receiver.receive().expect("a message");
        marker!();
        delivery.acknowledge();
        marker!();
    }

    fn close_receiver(&self) {
        let mut receiver = self.receiver();
        receiver.receive().expect("a message").acknowledge();
        begin!();
        drop(receiver);
        marker!();
    }
}
