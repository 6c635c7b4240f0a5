//! The others: those who go on when a process has been killed, what they received, and what they hold it to.

use std::path::PathBuf;
use std::time::Duration;

use libipc::{
    Buffering, Client, MailboxOptions, MemberInfo, Receiver, ReplyError, Sender, ServerStatus,
    SlowGroup, TryReceiveError, TrySendError,
};
use tests::numbered::{self, BYTES_MIN, Entry};
use tests::{Child, TestDaemon, patience, wait_until};

use crate::copies::Copies;
use crate::fate::{self, Fate};
use crate::shared::{ANSWER, CAPACITY_BYTES, ROOM_MESSAGES};

#[path = "sleepers.rs"]
mod sleepers;

use sleepers::Waiting;

/// The mailbox in which everything happens.
pub(crate) const MAILBOX: &str = "scene";

/// The number with which the others sign what they send.
pub(crate) const OTHERS: u32 = 0;

/// The number with which the one signs whom receivers name.
pub(crate) const NAMED: u32 = u32::MAX;

/// Messages of [`BYTES_MIN`] that fill a lane, each with 16 bytes in front of it.
const ROOM_FOR_SHORT: usize = CAPACITY_BYTES / (16 + BYTES_MIN);

/// What must be as it was before a process came, once it has gone.
#[derive(Debug, PartialEq)]
struct Resources {
    status: ServerStatus,
    members: Vec<MemberInfo>,
    reserved_bytes: u64,
}

/// Two processes, one of which sends to the other in the mailbox in which everything happens.
struct Bystanders {
    sends: Child,
    receives: Child,
}

/// A daemon, a mailbox, and those who use it beside the process that is killed.
pub(crate) struct Scene {
    client: Client,
    bystanders: Option<Bystanders>,
    /// A process that receivers name, and how many messages it has sent: before this round, and in all.
    named: Option<(Child, u64, u64)>,
    /// One that sends what is urgent.
    urgent: Option<Sender>,
    daemon: TestDaemon,
    options: MailboxOptions,
    /// The number with which the process signs that is killed in this round.
    pub(crate) victim: u32,
    sender: Option<Sender>,
    /// One a group, where there are groups.
    receivers: Vec<Option<Receiver>>,
    sleeper: Option<Waiting<(Receiver, Entry)>>,
    blocked: Option<Waiting<Sender>>,
    /// Messages that the others have sent.
    sent: u64,
    /// The same when this round began.
    base: u64,
    /// What was received in this round, by groups.
    got: Vec<Vec<Entry>>,
    before: Option<Resources>,
}

impl Scene {
    pub(crate) fn new(options: MailboxOptions, bystanders: bool) -> Self {
        let daemon = TestDaemon::start(&["--log", "warn"]);
        let client = daemon.client_with(MAILBOX, &options);
        let bystander = |role| {
            let mut child = daemon.child();
            child.done(&format!("{role} {MAILBOX}"));
            child
        };
        let bystanders = bystanders
            .then(|| Bystanders { sends: bystander("sender"), receives: bystander("receiver") });
        let sender = client.sender(MAILBOX).expect("an end to send");
        let groups = options.groups().len().max(1);
        Self {
            client,
            bystanders,
            named: None,
            urgent: None,
            daemon,
            options: options.clone(),
            victim: 0,
            sender: Some(sender),
            receivers: (0..groups).map(|_| None).collect(),
            sleeper: None,
            blocked: None,
            sent: 0,
            base: 0,
            got: vec![Vec::new(); groups],
            before: None,
        }
    }

    /// Copies of the mailbox's memory, to be had as long as there is this scene.
    pub(crate) fn copies(&self) -> Option<Copies> {
        let id = self.client.show(MAILBOX).expect("ours to see").summary.mailbox_id;
        Copies::new(self.daemon.pid(), id, &self.options)
    }

    /// The groups, by their indexes: one where there are none.
    pub(crate) fn groups(&self) -> std::ops::Range<usize> {
        0..self.receivers.len()
    }

    fn is_lossy(&self, group: usize) -> bool {
        let group = self.options.groups().get(group);
        group.is_some_and(|group| group.slow == SlowGroup::DropOldest)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    /// Begins with another process; `alone`: it is the mailbox's only receiver, if it is one.
    pub(crate) fn begin(&mut self, alone: bool) {
        self.victim += 1;
        self.base = self.sent;
        self.got.iter_mut().for_each(Vec::clear);
        if let Some((_, before, sent)) = &mut self.named {
            *before = *sent;
        }
        for group in self.groups().skip(usize::from(alone)) {
            self.open_receiver(group);
        }
        wait_until("only we are there", || self.sessions() == self.sessions_of_ours());
        self.before = Some(self.resources());
    }

    /// The number of the n-th message that the others send in this round.
    pub(crate) fn nth(&self, n: u64) -> u64 {
        self.base + n
    }

    /// How many the others have sent in this round.
    pub(crate) fn sent(&self) -> u64 {
        self.sent - self.base
    }

    fn resources(&self) -> Resources {
        let mut status = self.daemon.status(&self.client);
        // What a lane has touched on its first lap stays.
        status.resident_bytes = 0;
        let detail = self.client.show(MAILBOX).expect("ours to see");
        let mut members = detail.members;
        members.iter_mut().for_each(|member| member.messages = 0);
        Resources { status, members, reserved_bytes: detail.reserved_bytes }
    }

    fn open_receiver(&mut self, group: usize) -> &mut Receiver {
        let name = self.options.groups().get(group).map(|group| group.name.as_str());
        let client = &self.client;
        self.receivers[group].get_or_insert_with(|| {
            let receiver = match name {
                Some(name) => client.receiver_in_group(MAILBOX, name),
                None => client.receiver(MAILBOX),
            };
            let mut receiver = receiver.expect("an end to receive");
            receiver.set_spin_max(Duration::ZERO);
            receiver
        })
    }

    /// The others send so many messages, without waiting.
    pub(crate) fn send(&mut self, count: u64) {
        let sender = self.sender.as_mut().expect("nobody waits with it");
        for _ in 0..count {
            sender.try_send(&message(self.sent, BYTES_MIN)).expect("there is room");
            self.sent += 1;
        }
    }

    /// A process comes that receivers will name.
    pub(crate) fn add_named(&mut self) {
        let mut child = self.daemon.child();
        child.done(&format!("sender {MAILBOX}"));
        self.named = Some((child, 0, 0));
    }

    /// The process that receivers name sends a message.
    pub(crate) fn send_named(&mut self) {
        let (child, _, sent) = self.named.as_mut().expect("it is there");
        child.done(&format!("send_numbered {NAMED} {sent} 1 {BYTES_MIN}"));
        *sent += 1;
    }

    /// The number of the message that it sends in this round.
    pub(crate) fn named_number(&self) -> u64 {
        self.named.as_ref().map_or(0, |(_, before, _)| *before)
    }

    /// Whether it has.
    pub(crate) fn has_sent_named(&self) -> bool {
        self.named.as_ref().is_some_and(|(_, before, sent)| sent > before)
    }

    /// The process that receivers name.
    pub(crate) fn named_pid(&self) -> u32 {
        self.named.as_ref().map_or(0, |(child, ..)| child.pid())
    }

    /// One of the others will send what is more urgent than all else.
    pub(crate) fn add_urgent(&mut self) {
        let mut sender = self.client.sender(MAILBOX).expect("an end to send");
        sender.set_priority(3).expect("a priority");
        self.urgent = Some(sender);
    }

    /// That one sends a message.
    pub(crate) fn send_urgently(&mut self) {
        let sender = self.urgent.as_mut().expect("it is there");
        sender.try_send(&message(self.sent, BYTES_MIN)).expect("there is room");
        self.sent += 1;
    }

    /// One more of the others comes, sends a message, and goes.
    pub(crate) fn send_anew(&mut self) {
        let mut sender = self.client.sender(MAILBOX).expect("an end to send");
        sender.try_send(&message(self.sent, BYTES_MIN)).expect("there is room");
        self.sent += 1;
    }

    /// The others take all that is there.
    pub(crate) fn drain(&mut self) {
        self.take(usize::MAX);
    }

    /// The others take so many messages, or all that are there; in each group. They answer calls.
    pub(crate) fn take(&mut self, count: usize) {
        self.groups().for_each(|group| self.take_in(group, count));
    }

    fn take_in(&mut self, group: usize, count: usize) {
        for _ in 0..count {
            let delivery = match self.open_receiver(group).try_receive() {
                Ok(delivery) => delivery,
                Err(TryReceiveError::Empty) => break,
                Err(error) => panic!("the others receive: {error:?}"),
            };
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            if delivery.is_call() {
                let answered = delivery.reply(ANSWER);
                assert!(matches!(answered, Ok(()) | Err(ReplyError::CallerGone)), "{answered:?}");
            } else {
                delivery.acknowledge();
            }
            self.got[group].push(entry);
        }
    }

    /// One of the others takes a message and gives it back, so that it is offered to all.
    pub(crate) fn take_and_return(&mut self) {
        self.open_receiver(0).try_receive().expect("a message").return_to_queue();
    }

    /// One of the others makes a dead letter of a message.
    pub(crate) fn take_and_reject(&mut self) {
        self.open_receiver(0).try_receive().expect("a message").reject().expect("a dead letter");
    }

    /// One of the others takes all dead letters: they have come, too, and were handed out once more than others see.
    pub(crate) fn take_letters(&mut self) {
        let mut letters = self.client.receiver(&format!("dead/{MAILBOX}")).expect("ours to see");
        while let Ok(letter) = letters.try_receive() {
            let known = letter.dead_letter().expect("a dead letter");
            let entry = numbered::read(letter.bytes(), known.attempts - 1);
            self.got[usize::from(known.group)].push(entry);
            letter.acknowledge();
        }
    }

    /// What somebody else received, as `SENDER NUMBER ATTEMPTS` a line.
    pub(crate) fn note(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split(' ').map(|word| word.parse::<u64>().expect("a number"));
            let mut next = || words.next().expect("three numbers");
            let (sender, number, attempts) = (next() as u32, next(), next() as u32);
            self.got[0].push(Entry { sender, attempts, number });
        }
    }

    /// Waits until the daemon has ended the session of whoever was killed.
    pub(crate) fn await_end(&self) {
        wait_until("the session of the dead is over", || {
            self.sessions() == self.sessions_of_ours()
        });
    }

    fn sessions(&self) -> u64 {
        self.daemon.status(&self.client).sessions
    }

    fn sessions_of_ours(&self) -> u64 {
        let bystanders = if self.bystanders.is_some() { 2 } else { 0 };
        1 + bystanders + u64::from(self.named.is_some())
    }

    /// While the process stands still where it is others exchange a message, if there are any.
    pub(crate) fn check_that_nobody_is_held_up(&mut self) {
        let Some(Bystanders { sends, receives }) = &mut self.bystanders else { return };
        let text = self.victim.to_string();
        // Where nothing is buffered it returns when the other has received.
        sends.tell(&format!("send {text}"));
        let got = receives.got(&format!("receive_from {}", sends.pid()));
        assert_eq!((got.text, got.attempts), (text, 0));
        assert_eq!(sends.answer(), "ok");
    }

    /// Bytes in the mailbox that nobody has claimed.
    pub(crate) fn unclaimed_bytes(&self) -> u64 {
        self.client.show(MAILBOX).expect("ours to see").summary.queued_bytes
    }

    /// Whether nobody has left anything that is to be taken over.
    pub(crate) fn nothing_is_left(&self) -> bool {
        let detail = self.client.show(MAILBOX).expect("ours to see");
        detail.members.iter().all(|member| member.alive)
    }

    /// Holds what a group has received to what may have become of the messages.
    pub(crate) fn check(&self, group: usize, fates: &[Fate]) {
        self.check_with(group, &[], fates);
    }

    /// The same with what it would have received besides.
    pub(crate) fn check_with(&self, group: usize, more: &[Entry], fates: &[Fate]) {
        let got = [&self.got[group], more].concat();
        fate::check(&got, fates);
        if !self.is_lossy(group) {
            fate::check_none_is_missing(&got, self.victim);
        }
    }

    /// Whoever is left sends and receives as ever, and sleeps no longer than it must.
    pub(crate) fn check_that_others_go_on(&mut self) {
        self.got.iter_mut().for_each(Vec::clear);
        self.base = self.sent;
        let holds_back = self.groups().any(|group| !self.is_lossy(group));
        match self.options.attributes().buffering {
            Buffering::Bounded if holds_back => {
                self.fill_and_drain();
                self.fill_and_sleep_sending(false);
                self.take(ROOM_MESSAGES);
                self.end_blocked();
                self.take(1);
            }
            Buffering::Unbounded | Buffering::Bounded => {
                self.send(2 * ROOM_FOR_SHORT as u64);
                self.drain();
            }
            Buffering::Rendezvous => {
                self.sleep_sending(BYTES_MIN, false);
                self.take(1);
                self.end_blocked();
            }
        }
        self.sleep_receiving();
        if self.options.attributes().buffering == Buffering::Rendezvous {
            let mut sender = self.sender.take().expect("nobody waits with it");
            let met = sender.send_deadline(&message(self.sent, BYTES_MIN), patience());
            met.expect("whoever sleeps takes it");
            self.sent += 1;
            self.sender = Some(sender);
        } else {
            self.send(1);
        }
        self.end_sleep();
        self.drain();
        for group in self.groups() {
            let all = (self.base..self.sent).map(|n| Fate::comes(OTHERS, n));
            // For one that was slow the oldest were dropped.
            let all = all.map(|fate| if self.is_lossy(group) { fate.perhaps() } else { fate });
            self.check(group, &all.collect::<Vec<_>>());
            numbered::check_order(&self.got[group]);
        }
    }

    fn fill_and_drain(&mut self) {
        let sender = self.sender.as_mut().expect("nobody waits with it");
        let mut count = 0;
        loop {
            match sender.try_send(&message(self.sent, BYTES_MIN)) {
                Ok(()) => (self.sent, count) = (self.sent + 1, count + 1),
                Err(TrySendError::Full) => break,
                Err(error) => panic!("the others send: {error:?}"),
            }
        }
        assert_eq!(count, ROOM_FOR_SHORT, "what a lane has room for");
        self.drain();
    }

    /// Everything that the dead one had is free again.
    pub(crate) fn check_resources(&mut self, alone: bool) {
        if alone {
            self.receivers[0] = None;
        }
        let before = self.before.take().expect("the round has begun");
        let mut now = self.resources();
        let deadline = patience();
        while now != before {
            let early = std::time::Instant::now() < deadline;
            assert!(early, "something is left behind: now {now:#?}, before {before:#?}");
            std::thread::sleep(Duration::from_millis(1));
            now = self.resources();
        }
    }
}

fn message(number: u64, len: usize) -> Vec<u8> {
    let mut message = Vec::new();
    numbered::write(OTHERS, number, len, &mut message);
    message
}
