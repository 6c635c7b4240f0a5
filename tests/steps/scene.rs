//! The others: those who go on when a process has been killed, what they received, and what they hold it to.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use libipc::{
    Buffering, Client, MailboxOptions, MemberInfo, Receiver, ReplyError, Sender, ServerStatus,
    SlowGroup, TryReceiveError, TrySendError,
};
use tests::numbered::{self, BYTES_MIN, Entry};
use tests::{Child, TestDaemon, patience, wait_until};

use crate::copies::Copies;
use crate::shared::{ANSWER, CAPACITY_BYTES, ROOM_BYTES, ROOM_MESSAGES};
use crate::victim::{await_sleep, is_asleep};

/// The mailbox in which everything happens.
pub(crate) const MAILBOX: &str = "scene";

/// The number with which the others sign what they send.
pub(crate) const OTHERS: u32 = 0;

/// The number with which the one signs whom receivers name.
pub(crate) const NAMED: u32 = u32::MAX;

/// Messages of [`BYTES_MIN`] that fill a lane, each with 16 bytes in front of it.
const ROOM_FOR_SHORT: usize = CAPACITY_BYTES / (16 + BYTES_MIN);

/// What may become of one message.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    sender: u32,
    number: u64,
    times: RangeInclusive<u32>,
    attempts: RangeInclusive<u32>,
}

impl Fate {
    /// It comes once, and nobody has had it before.
    pub(crate) fn comes(sender: u32, number: u64) -> Self {
        Self { sender, number, times: 1..=1, attempts: 0..=0 }
    }

    /// It comes once or not at all.
    pub(crate) fn may_come(sender: u32, number: u64) -> Self {
        Self { times: 0..=1, ..Self::comes(sender, number) }
    }

    /// It comes, if at all, as it was to.
    pub(crate) fn perhaps(self) -> Self {
        Self { times: 0..=*self.times.end(), ..self }
    }

    /// If it comes it has been handed out so often before.
    pub(crate) fn had_by(self, attempts: RangeInclusive<u32>) -> Self {
        Self { attempts, ..self }
    }
}

/// What must be as it was before a process came, once it has gone.
#[derive(Debug, PartialEq)]
struct Resources {
    status: ServerStatus,
    members: Vec<MemberInfo>,
    reserved_bytes: u64,
}

/// A thread that waits for something in a call of the library.
struct Waiting<T> {
    task: PathBuf,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Waiting<T> {
    fn start(act: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("somebody listens");
            act()
        });
        let task = format!("/proc/self/task/{}", told.recv().expect("a thread's number"));
        Self { task: task.into(), thread }
    }

    /// Whether it neither runs nor is about to.
    fn is_quiet(&self) -> bool {
        self.thread.is_finished() || is_asleep(&self.task)
    }

    /// Waits until it sleeps; false if it has ended instead. `endless`: until it sleeps without an end, for a
    /// sleep that ends by itself hides that nobody has come to wake it.
    fn sleeps(&self, endless: bool) -> bool {
        await_sleep(&self.task, endless, || self.thread.is_finished())
    }

    fn end(self) -> T {
        wait_until("whoever waits is woken", || self.thread.is_finished());
        self.thread.join().expect("no panic there")
    }
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

    /// One of the others calls, and waits for the answer; another one could give it.
    pub(crate) fn open_and_call(&mut self) {
        self.open_receiver(0);
        let mut sender = self.sender.take().expect("nobody waits with it");
        sender.set_spin_max(Duration::ZERO);
        let message = message(self.sent, BYTES_MIN);
        self.sent += 1;
        let blocked = Waiting::start(move || {
            let reply = sender.call(&message).expect("somebody answers");
            assert_eq!(reply.bytes(), ANSWER);
            sender
        });
        assert!(blocked.sleeps(true), "a call should have waited");
        self.blocked = Some(blocked);
    }

    /// Somebody who is about to call gets the answer when there is the call.
    pub(crate) fn answer_when_called(&mut self) {
        self.open_receiver(0);
        let mut receiver = self.receivers[0].take().expect("it is open");
        let sleeper = Waiting::start(move || {
            let delivery = receiver.receive().expect("a call");
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            delivery.reply(ANSWER).expect("somebody calls");
            (receiver, entry)
        });
        self.sleeper = Some(sleeper);
    }

    /// Waits for whoever was to answer.
    pub(crate) fn end_answer(&mut self) {
        let (receiver, entry) = self.sleeper.take().expect("somebody answers").end();
        self.receivers[0] = Some(receiver);
        self.got[0].push(entry);
    }

    /// Waits until neither the daemon nor any of the others does anything.
    pub(crate) fn await_quiet(&self) {
        let pid = self.daemon.pid();
        let quiet = |waits: &dyn Fn() -> bool| {
            wait_until("all are quiet", || tests::is_asleep(pid) && waits())
        };
        quiet(&|| self.sleeper.as_ref().is_none_or(Waiting::is_quiet));
        quiet(&|| self.blocked.as_ref().is_none_or(Waiting::is_quiet));
    }

    /// What may become of messages while some of the others may have them, or are about to send them.
    pub(crate) fn loosened(&self, fates: Vec<Fate>) -> Vec<Fate> {
        let rendezvous = self.options.attributes().buffering == Buffering::Rendezvous;
        let last = (OTHERS, self.sent.wrapping_sub(1));
        let sending = self.blocked.is_some() && !rendezvous;
        let loosened = |fate: Fate| {
            let loose = self.sleeper.is_some() || sending && (fate.sender, fate.number) == last;
            if loose { fate.perhaps() } else { fate }
        };
        fates.into_iter().map(loosened).collect()
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

    /// One of the others goes to sleep in `receive`.
    pub(crate) fn sleep_receiving(&mut self) {
        self.open_receiver(0);
        let mut receiver = self.receivers[0].take().expect("it is open");
        let sleeper = Waiting::start(move || {
            // Without a deadline, at which it would look once more by itself.
            let delivery = receiver.receive().expect("it is woken and receives");
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            delivery.acknowledge();
            (receiver, entry)
        });
        sleeper.sleeps(false);
        self.sleeper = Some(sleeper);
    }

    /// If there is a sleeper it gets what is there, by itself; if nothing is there, what is sent to it now.
    pub(crate) fn end_sleep(&mut self) {
        let Some(sleeper) = self.sleeper.take() else { return };
        wait_until("a sleeper is woken by what is there", || {
            sleeper.thread.is_finished() || self.nothing_is_there() && sleeper.sleeps(false)
        });
        if !sleeper.thread.is_finished() {
            self.send(1);
        }
        let (receiver, entry) = sleeper.end();
        self.receivers[0] = Some(receiver);
        self.got[0].push(entry);
    }

    /// Whether nothing is to be received: nothing unclaimed, and nothing left by anybody.
    fn nothing_is_there(&self) -> bool {
        let detail = self.client.show(MAILBOX).expect("ours to see");
        detail.summary.queued_bytes == 0 && detail.members.iter().all(|member| member.alive)
    }

    /// One of the others sends a message and has to wait: for room, or where nothing is buffered for the
    /// acknowledgement. `endless`: see [`Waiting::sleeps`].
    pub(crate) fn sleep_sending(&mut self, len: usize, endless: bool) {
        let mut sender = self.sender.take().expect("nobody waits with it");
        sender.set_spin_max(Duration::ZERO);
        let message = message(self.sent, len);
        self.sent += 1;
        let blocked = Waiting::start(move || {
            sender.send(&message).expect("it is woken and sends");
            sender
        });
        assert!(blocked.sleeps(endless), "a send should have waited");
        self.blocked = Some(blocked);
    }

    /// Fills the lane of the others, one of whom then sleeps because it is full.
    pub(crate) fn fill_and_sleep_sending(&mut self, endless: bool) {
        let sender = self.sender.as_mut().expect("nobody waits with it");
        for _ in 0..ROOM_MESSAGES {
            sender.try_send(&message(self.sent, ROOM_BYTES)).expect("there is room");
            self.sent += 1;
        }
        self.sleep_sending(ROOM_BYTES, endless);
    }

    /// If one of the others waits in a send, and what it waits for has come about, it is woken by itself.
    pub(crate) fn end_blocked_if(&mut self, come_about: impl FnOnce(&Self) -> bool) {
        if self.blocked.is_some() && come_about(self) {
            self.end_blocked();
        }
    }

    /// Waits for the end of a send that waited, if there is one.
    pub(crate) fn end_blocked(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            self.sender = Some(blocked.end());
        }
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
        let mut times: HashMap<(u32, u64), u32> = HashMap::new();
        let got = || self.got[group].iter().chain(more);
        let all = || got().collect::<Vec<_>>();
        for entry in got() {
            let key = (entry.sender, entry.number);
            *times.entry(key).or_default() += 1;
            let fate = fates.iter().find(|fate| (fate.sender, fate.number) == key);
            let fate = fate.unwrap_or_else(|| panic!("{entry:?} was never sent: {:?}", all()));
            assert!(
                fate.attempts.contains(&entry.attempts),
                "{entry:?} is marked wrongly: {fate:?}"
            );
        }
        for fate in fates {
            let came = times.get(&(fate.sender, fate.number)).copied().unwrap_or_default();
            assert!(fate.times.contains(&came), "came {came} times: {fate:?}: {:?}", all());
        }
        if self.is_lossy(group) {
            return;
        }
        let mine = |number| times.contains_key(&(self.victim, number));
        let first_missing = (0..).find(|&number| !mine(number)).unwrap_or_default();
        let last = got().filter(|entry| entry.sender == self.victim);
        let beyond = last.map(|entry| entry.number).max().filter(|&last| last > first_missing);
        assert_eq!(beyond, None, "number {first_missing} of the dead is missing");
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
