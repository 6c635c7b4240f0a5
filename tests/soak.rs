//! Chaos, and then the accounts: processes are killed, stopped and replaced at random, the daemon among them, mailboxes come
//! and go and are closed for a while, limits change, messages are rejected and given back; in the end every message is accounted for and
//! everything else is as it was.
//!
//! `SOAK_SECONDS=1800` soaks for half an hour (10 seconds if nobody says otherwise); `SEED=n` repeats the dice.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libipc::{
    Buffering, Client, MailboxOptions, Order, Reason, Receivers, Refusal, RequestError,
    TryReceiveError,
};
use tests::numbered::{self, Census, Entry, read_log};
use tests::{Baseline, Child, Dice, TestDaemon, seed, wait_until};

/// More than any sender sends before it is killed or told that the mailbox is closed.
const WITHOUT_END: u64 = 1 << 40;
/// Mailboxes that one uid may have while that does not matter.
const MAILBOXES_MAX: u64 = 1000;
/// Messages on the way to or from a stopped process wait for it no longer than so many steps.
const STEPS_STOPPED: u64 = 40;

/// A process at work.
struct Worker {
    child: Child,
    /// The step in which it goes on.
    stopped_until: Option<u64>,
}

impl Worker {
    fn new(child: Child) -> Self {
        Self { child, stopped_until: None }
    }

    fn stop(&mut self, until: u64) {
        self.child.stop(true);
        self.stopped_until = Some(until);
    }

    fn kill(&mut self) {
        self.child.kill();
    }

    fn go_on(&mut self) {
        if self.stopped_until.take().is_some() {
            self.child.stop(false);
        }
    }
}

/// A mailbox with its workers.
struct Station {
    name: String,
    /// Where its messages and their receivers are logged, and by whose numbers.
    senders: Vec<(u32, Worker)>,
    receivers: Vec<Worker>,
    logs: Vec<PathBuf>,
    all_senders: Vec<u32>,
    closed: bool,
}

struct Soak<'a> {
    daemon: &'a TestDaemon,
    client: Client,
    /// The daemon's configuration.
    config: PathBuf,
    dice: Dice,
    stations: Vec<Station>,
    senders_made: u32,
    step: u64,
    /// What was done, by name.
    done: std::collections::BTreeMap<&'static str, u64>,
}

fn kinds() -> Vec<(&'static str, MailboxOptions)> {
    let small = || MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(64);
    let mut unbounded = small().buffering(Buffering::Unbounded);
    unbounded = unbounded.max_attempts(0);
    vec![
        ("bounded", small()),
        ("long", small().capacity_bytes(64 << 10)),
        ("unbounded", unbounded),
        ("rendezvous", small().buffering(Buffering::Rendezvous)),
        ("exclusive", small().receivers(Receivers::Exclusive)),
        ("arrival", small().order(Order::Arrival)),
    ]
}

impl<'a> Soak<'a> {
    fn new(daemon: &'a TestDaemon, client: Client, config: PathBuf, dice: Dice) -> Self {
        let (stations, done) = (Vec::new(), std::collections::BTreeMap::new());
        let mut soak =
            Self { daemon, client, config, dice, stations, senders_made: 0, step: 0, done };
        for (name, options) in kinds() {
            soak.client.create(name, &options).expect("a mailbox");
            soak.stations.push(Station {
                name: name.to_owned(),
                senders: Vec::new(),
                receivers: Vec::new(),
                logs: Vec::new(),
                all_senders: Vec::new(),
                closed: false,
            });
        }
        for station in 0..soak.stations.len() {
            for _ in 0..2 {
                soak.add_sender(station);
                soak.add_receiver(station);
            }
        }
        soak
    }

    fn note(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn progress(&self, sender: u32) -> PathBuf {
        self.daemon.folder().join(format!("progress{sender}"))
    }

    /// How many messages a sender has been told that it sent.
    fn sent(&self, sender: u32) -> u64 {
        let bytes = std::fs::read(self.progress(sender)).unwrap_or_default();
        <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes)
    }

    fn add_sender(&mut self, station: usize) {
        let id = self.senders_made;
        let mut child = self.daemon.child();
        let bytes = 16 + self.dice.below(180);
        let progress = self.progress(id);
        let station = &mut self.stations[station];
        if !child.ask(&format!("sender {}", station.name)).starts_with("ok") {
            // Closed at this moment.
            return;
        }
        child.tell(&format!("send_numbered {id} 0 {WITHOUT_END} {bytes} {}", progress.display()));
        self.senders_made += 1;
        station.senders.push((id, Worker::new(child)));
        station.all_senders.push(id);
    }

    fn add_receiver(&mut self, station: usize) {
        let mut child = self.daemon.child();
        let place = &mut self.stations[station];
        child.done(&format!("receiver {}", place.name));
        let log = self.daemon.folder().join(format!("{}-{}", place.name, place.logs.len()));
        child.tell(&format!("drain_picky {}", log.display()));
        place.logs.push(log);
        place.receivers.push(Worker::new(child));
    }

    fn act(&mut self) {
        self.step += 1;
        let step = self.step;
        for station in &mut self.stations {
            let senders = station.senders.iter_mut().map(|(_, worker)| worker);
            for worker in senders.chain(&mut station.receivers) {
                if worker.stopped_until.is_some_and(|until| until <= step) {
                    worker.go_on();
                }
            }
        }
        let station = self.dice.below(self.stations.len() as u64) as usize;
        match self.dice.below(12) {
            0..=1 => self.replace_sender(station),
            2..=3 => self.replace_receiver(station),
            4..=5 => self.stop_one(station),
            6 => self.close_for_a_while(station),
            7 => self.come_and_go(),
            8 => self.more_or_less(station),
            9 => self.read_letters(station),
            10 => self.change_limits(),
            _ => self.kill_the_daemon(),
        }
    }

    fn replace_sender(&mut self, station: usize) {
        let place = &mut self.stations[station];
        if !place.senders.is_empty() {
            let victim = self.dice.below(place.senders.len() as u64) as usize;
            let (_, mut worker) = place.senders.swap_remove(victim);
            worker.kill();
            self.note("senders killed");
        }
        self.add_sender(station);
    }

    fn replace_receiver(&mut self, station: usize) {
        let place = &mut self.stations[station];
        let victim = self.dice.below(place.receivers.len() as u64) as usize;
        place.receivers.swap_remove(victim).kill();
        self.note("receivers killed");
        self.add_receiver(station);
    }

    fn stop_one(&mut self, station: usize) {
        let until = self.step + 1 + self.dice.below(STEPS_STOPPED);
        let place = &mut self.stations[station];
        let count = place.senders.len() + place.receivers.len();
        let which = self.dice.below(count as u64) as usize;
        let senders = place.senders.iter_mut().map(|(_, worker)| worker);
        if let Some(worker) = senders.chain(&mut place.receivers).nth(which)
            && worker.stopped_until.is_none()
        {
            worker.stop(until);
            self.note("processes stopped");
        }
    }

    /// Closes a mailbox, or opens a closed one: its senders have ended, and so have its receivers once it was
    /// drained; there are new ones then.
    fn close_for_a_while(&mut self, station: usize) {
        let name = self.stations[station].name.clone();
        if !self.stations[station].closed {
            self.client.close(&name).expect("ours to close");
            self.stations[station].closed = true;
            self.note("mailboxes closed");
            return;
        }
        self.client.open(&name).expect("ours to open");
        self.stations[station].closed = false;
        let place = &mut self.stations[station];
        let (senders, receivers) = (place.senders.len().max(1), place.receivers.len().max(1));
        // Whoever has not ended yet is killed: the one way or the other.
        place.senders.drain(..).for_each(|(_, mut worker)| worker.kill());
        place.receivers.drain(..).for_each(|mut worker| worker.kill());
        (0..senders).for_each(|_| self.add_sender(station));
        (0..receivers).for_each(|_| self.add_receiver(station));
    }

    /// A mailbox that has nothing to do with the others.
    fn come_and_go(&mut self) {
        let options = MailboxOptions::new().capacity_bytes(4096 << self.dice.below(8));
        self.client.create("passing", &options).expect("a mailbox");
        let mut sender = self.client.sender("passing").expect("its lane");
        for n in 0..self.dice.below(100) {
            let ticket = sender.send_tracked(&n.to_le_bytes());
            // Full, for the smallest.
            if ticket.is_err() || self.dice.below(50) == 0 {
                break;
            }
        }
        if self.dice.below(2) == 0 {
            drop(sender);
            self.client.delete("passing").expect("ours to delete");
        } else {
            self.client.delete("passing").expect("ours to delete");
            assert!(sender.try_send(b"late").is_err(), "it is gone");
        }
        self.note("mailboxes created and deleted");
    }

    /// One worker more, up to some, or one less.
    fn more_or_less(&mut self, station: usize) {
        let place = &mut self.stations[station];
        if place.closed {
            return;
        }
        let more = self.dice.below(2) == 0;
        match (self.dice.below(2) == 0, more) {
            (true, true) if place.senders.len() < 4 => self.add_sender(station),
            (true, false) if place.senders.len() > 1 => {
                if let Some((_, mut worker)) = place.senders.pop() {
                    worker.kill();
                }
            }
            (false, true) if place.receivers.len() < 4 => self.add_receiver(station),
            (false, false) if place.receivers.len() > 1 => {
                if let Some(mut worker) = place.receivers.pop() {
                    worker.kill();
                }
            }
            _ => return,
        }
        self.note("numbers of workers changed");
    }

    /// Its keeper starts another; whoever asks something meanwhile waits for that.
    fn kill_the_daemon(&mut self) {
        self.daemon.kill_kept();
        self.note("daemons killed");
    }

    /// One mailbox too many, as many as there may be, or room for one more: says the daemon's next, which reads the
    /// configuration anew. Then as before.
    fn change_limits(&mut self) {
        let used = self.client.status().expect("a status").usage.mailboxes;
        let limit = used - 1 + self.dice.below(3);
        self.limit_mailboxes(limit);
        let options = MailboxOptions::new().capacity_bytes(4096);
        match self.client.create("one_more", &options) {
            Ok(()) => {
                assert!(used < limit, "{used} of {limit} were in use");
                self.client.delete("one_more").expect("ours to delete");
            }
            Err(RequestError::Refused(Refusal::QuotaExceeded { limit: found, .. })) => {
                assert!(used >= limit && found == limit, "{used} of {limit} in use: {found}");
            }
            Err(error) => panic!("{error}"),
        }
        self.limit_mailboxes(MAILBOXES_MAX);
        self.note("limits changed");
    }

    fn limit_mailboxes(&mut self, limit: u64) {
        std::fs::write(&self.config, format!("[limits]\nmailboxes = {limit}\n")).expect("our file");
        let before = self.client.status().expect("a status").pid;
        self.client.restart_daemon().expect("ours to restart");
        wait_until("there is another daemon", || {
            self.client.status().expect("a status").pid != before
        });
    }

    /// Looks at dead letters, and gives them back.
    fn read_letters(&mut self, station: usize) {
        let name = format!("dead/{}", self.stations[station].name);
        let mut letters = self.client.receiver(&name).expect("a place among the dead letters");
        for _ in 0..self.dice.below(4) {
            if let Ok(letter) = letters.try_receive() {
                assert!(letter.dead_letter().is_some());
                letter.return_to_queue();
            }
        }
        self.note("dead letters looked at");
    }

    /// Ends a station: everything is taken, and every message accounted for. Says how many there were, and how many
    /// of them dead letters.
    fn settle(&mut self, station: usize) -> (u64, u64) {
        let mut place = self.stations.remove(station);
        for (_, worker) in &mut place.senders {
            worker.go_on();
            worker.kill();
        }
        if place.closed {
            self.client.open(&place.name).expect("ours to open");
        }
        place.receivers.iter_mut().for_each(Worker::go_on);
        self.stations.push(place);
        let last = self.stations.len() - 1;
        // Those there were may have ended with the mailbox closed.
        self.add_receiver(last);
        let mut place = self.stations.remove(last);
        let senders = || self.client.show(&place.name).expect("ours to see").summary.senders;
        wait_until("the daemon knows that the senders are dead", || senders() == 0);
        self.client.close(&place.name).expect("ours to close");
        for worker in &mut place.receivers {
            let answer = worker.child.slow_answer();
            assert!(answer.starts_with("ok"), "{}: {answer}", place.name);
        }
        let mut logs: Vec<Vec<Entry>> = place.logs.iter().map(|log| read_log(log)).collect();
        let letters = self.letters(&place.name);
        let dead = letters.len() as u64;
        logs.push(letters);
        let census = Census::of(&logs);
        assert_eq!(census.unmarked_duplicates, [], "{}: what comes again says so", place.name);
        let mut messages = 0;
        for &id in &place.all_senders {
            let (sent, came) = (self.sent(id), census.counts(id));
            let missing = came.iter().position(|&count| count == 0);
            assert_eq!(missing, None, "{}: a message of sender {id} is lost", place.name);
            let last = came.len() as u64;
            let name = &place.name;
            assert!(sent <= last && last <= sent + 1, "{name}: of {id} {sent} sent, {last} came");
            messages += last;
        }
        let known: HashSet<u32> = place.all_senders.iter().copied().collect();
        let strange = logs.iter().flatten().find(|entry| !known.contains(&entry.sender));
        assert_eq!(strange, None, "{}: a message that nobody sent", place.name);
        let summary = self.client.show(&place.name).expect("ours to see").summary;
        assert_eq!((summary.queued_bytes, summary.dead_letters), (0, 0), "{}", place.name);
        self.client.delete(&place.name).expect("ours to delete");
        (messages, dead)
    }

    /// Takes all dead letters of a mailbox.
    fn letters(&self, name: &str) -> Vec<Entry> {
        let receiver = self.client.receiver(&format!("dead/{name}"));
        let mut receiver = receiver.expect("a place among the dead letters");
        let mut letters = Vec::new();
        let mut numbers = HashSet::new();
        loop {
            let letter = match receiver.try_receive() {
                Ok(letter) => letter,
                Err(TryReceiveError::Empty) => break,
                Err(error) => panic!("{name}: {error}"),
            };
            let known = letter.dead_letter().expect("a dead letter");
            assert!(numbers.insert(known.number), "{name}: one dead letter twice");
            // Whoever rejects does not log; one that died with a message may have.
            let before = known.attempts - u32::from(known.reason == Reason::Rejected);
            let entry = numbered::read(letter.bytes(), before);
            if known.reason == Reason::Rejected {
                assert!(numbered::is_rejected(entry.number), "{name}: {entry:?}");
            }
            letters.push(entry);
            letter.acknowledge();
        }
        wait_until("the dead letters are gone", || {
            let _ = receiver.try_receive();
            self.client.show(name).expect("ours to see").summary.dead_letters == 0
        });
        letters
    }
}

#[test]
fn after_chaos_every_message_is_accounted_for_and_nothing_is_left() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let dice = Dice::new(seed());
    let config = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
    let path = config.to_str().expect("a path that is text");
    let daemon = TestDaemon::start_kept(&["--log", "error", "--config", path]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let mut soak = Soak::new(&daemon, client, config.to_path_buf(), dice);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(10));
    while Instant::now() < end {
        soak.act();
        std::thread::sleep(Duration::from_millis(soak.dice.below(20)));
    }
    let (mut messages, mut dead) = (0, 0);
    while !soak.stations.is_empty() {
        let (came, letters) = soak.settle(0);
        (messages, dead) = (messages + came, dead + letters);
    }
    let steps = soak.step;
    println!("{messages} messages, {dead} of them dead letters, {steps} steps: {:?}", soak.done);
    assert!(messages > 0 && dead > 0);
    before.check(&daemon, &soak.client);
}
