//! Chaos, and then the accounts: processes of several uids are killed, stopped and replaced at random, the daemon among
//! them, mailboxes of every kind come and go and are closed for a while, limits change, messages are rejected, given back and
//! taken back; in the end every message is accounted for, whatever came again is explained by a death or by who gave it
//! back, and everything else is as it was.
//!
//! `SOAK_SECONDS=1800` soaks for half an hour (10 seconds if nobody says otherwise); `SEED=n` repeats the dice.

#[path = "soak/books.rs"]
mod books;
#[path = "soak/kinds.rs"]
mod kinds;
#[path = "soak/station.rs"]
mod station;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, Refusal, RequestError};
use tests::{Balance, Baseline, Dice, TestDaemon, seed, skip_unless_root, wait_until};

use kinds::kinds;
use station::{Station, Worker};

/// Mailboxes that one uid may have while that does not matter.
const MAILBOXES_MAX: u64 = 1000;
/// Messages on the way to or from a stopped process wait for it no longer than so many steps.
const STEPS_STOPPED: u64 = 40;
/// Senders of a mailbox, at most.
const SENDERS_MAX: usize = 4;

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

impl<'a> Soak<'a> {
    fn new(daemon: &'a TestDaemon, client: Client, config: PathBuf, dice: Dice) -> Self {
        let (stations, done) = (Vec::new(), std::collections::BTreeMap::new());
        let mut soak =
            Self { daemon, client, config, dice, stations, senders_made: 0, step: 0, done };
        let alone = skip_unless_root("soak: workers of other uids");
        for mut kind in kinds() {
            kind.strangers &= !alone;
            let mode = if kind.strangers { 0o666 } else { 0o600 };
            soak.client.create(kind.name, &kind.options.clone().mode(mode)).expect("a mailbox");
            soak.stations.push(Station::new(kind));
        }
        for station in 0..soak.stations.len() {
            soak.fill(station, 2, 2);
        }
        soak
    }

    fn note(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Adds so many senders, and receivers of each group, to a station; of those no more than there may be.
    fn fill(&mut self, station: usize, senders: usize, receivers: usize) {
        (0..senders).for_each(|_| self.add_sender(station));
        let kind = &self.stations[station].kind;
        let (groups, most) = (kind.group_count(), kind.receivers_max);
        for group in 0..groups {
            let wanted = if groups > 1 { 1 } else { receivers.min(most) };
            (0..wanted).for_each(|_| self.add_receiver(station, group));
        }
    }

    fn add_sender(&mut self, station: usize) {
        let place = &mut self.stations[station];
        if place.add_sender(self.daemon, &mut self.dice, self.senders_made) {
            self.senders_made += 1;
        }
    }

    fn add_receiver(&mut self, station: usize, group: usize) {
        self.stations[station].add_receiver(self.daemon, &mut self.dice, group);
    }

    fn act(&mut self) {
        self.step += 1;
        let step = self.step;
        for worker in self.stations.iter_mut().flat_map(Station::workers) {
            if worker.stopped_until.is_some_and(|until| until <= step) {
                worker.go_on();
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
            place.senders.swap_remove(victim).kill();
            self.note("senders killed");
        }
        self.add_sender(station);
    }

    fn replace_receiver(&mut self, station: usize) {
        let place = &mut self.stations[station];
        let victim = self.dice.below(place.receivers.len() as u64) as usize;
        let (group, mut worker) = place.receivers.swap_remove(victim);
        worker.kill();
        self.note("receivers killed");
        self.add_receiver(station, group);
    }

    fn stop_one(&mut self, station: usize) {
        let until = self.step + 1 + self.dice.below(STEPS_STOPPED);
        let place = &mut self.stations[station];
        let count = place.workers().count();
        let which = self.dice.below(count as u64) as usize;
        let worker = place.workers().nth(which).filter(|worker| worker.stopped_until.is_none());
        if let Some(worker) = worker {
            worker.stop(until);
            self.note("processes stopped");
        }
    }

    /// Closes a mailbox, or opens a closed one: its senders have ended, and so have its receivers once it was
    /// drained; there are new ones then.
    fn close_for_a_while(&mut self, station: usize) {
        let place = &mut self.stations[station];
        let name = place.name();
        if !place.closed {
            self.client.close(name).expect("ours to close");
            place.closed = true;
            self.note("mailboxes closed");
            return;
        }
        self.client.open(name).expect("ours to open");
        place.closed = false;
        let (senders, receivers) = (place.senders.len().max(1), place.receivers.len().max(1));
        // Whoever has not ended yet is killed: the one way or the other.
        place.senders.drain(..).for_each(|mut worker| worker.kill());
        place.receivers.drain(..).for_each(|(_, mut worker)| worker.kill());
        self.fill(station, senders, receivers);
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
        if self.dice.below(2) == 0 {
            match more {
                true if place.senders.len() < SENDERS_MAX => self.add_sender(station),
                false if place.senders.len() > 1 => {
                    place.senders.pop().iter_mut().for_each(Worker::kill);
                }
                _ => return,
            }
        } else {
            let group = self.dice.below(place.kind.group_count() as u64) as usize;
            let (there, most) = (place.receivers_of(group), place.kind.receivers_max);
            match more {
                true if there < most => self.add_receiver(station, group),
                false if there > 1 => {
                    let place = &mut place.receivers;
                    let last = place.iter().rposition(|(theirs, _)| *theirs == group);
                    place.remove(last.expect("there are some")).1.kill();
                }
                _ => return,
            }
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
        let limit = self.mailboxes_used() - 1 + self.dice.below(3);
        self.limit_mailboxes(limit);
        let options = MailboxOptions::new().capacity_bytes(4096);
        let before = self.mailboxes_used();
        let created = self.client.create("one_more", &options);
        match created {
            Ok(()) => {
                let used = self.mailboxes_used();
                assert!(used <= limit, "{used} of {limit} are in use");
                self.client.delete("one_more").expect("ours to delete");
            }
            Err(RequestError::Refused(Refusal::QuotaExceeded { limit: found, used, .. })) => {
                assert!(
                    used >= limit && found == limit,
                    "{used} of {limit}, {before} before: {found}"
                );
            }
            Err(error) => panic!("{error}"),
        }
        self.limit_mailboxes(MAILBOXES_MAX);
        self.note("limits changed");
    }

    /// Mailboxes of ours, those for answers to our callers among them, which come and go.
    fn mailboxes_used(&self) -> u64 {
        self.client.status().expect("a status").usage.mailboxes
    }

    fn limit_mailboxes(&mut self, limit: u64) {
        std::fs::write(&self.config, format!("[limits]\nmailboxes = {limit}\n")).expect("our file");
        let before = self.client.status().expect("a status").pid;
        self.client.restart_daemon().expect("ours to restart");
        wait_until("there is another daemon", || {
            self.client.status().expect("a status").pid != before
        });
    }

    /// Looks at dead letters: gives some back, and takes others for good.
    fn read_letters(&mut self, station: usize) {
        let place = &mut self.stations[station];
        let name = format!("dead/{}", place.name());
        let mut letters = self.client.receiver(&name).expect("a place among the dead letters");
        for _ in 0..self.dice.below(4) {
            if let Ok(letter) = letters.try_receive() {
                assert!(letter.dead_letter().is_some());
                letter.return_to_queue();
            }
        }
        drop(letters);
        // More than there come meanwhile: once they are as many as may be, what would be another is offered again.
        let count = self.dice.below(200) as usize;
        place.letters.extend(books::take_letters(&self.client, place.name(), count));
        self.note("dead letters looked at");
    }

    /// Nobody sends any more.
    fn end_senders(&mut self) {
        for worker in self.stations.iter_mut().flat_map(|station| &mut station.senders) {
            worker.go_on();
            worker.kill();
        }
    }

    /// Ends a station: everything is taken, and every message accounted for.
    fn settle(&mut self, station: usize) -> Vec<Balance> {
        let place = &mut self.stations[station];
        if place.closed {
            self.client.open(place.name()).expect("ours to open");
        }
        place.workers().for_each(Worker::go_on);
        // Those there were may have ended with the mailbox closed.
        for group in 0..place.kind.group_count() {
            if place.receivers_of(group) >= place.kind.receivers_max {
                let old = place.receivers.iter().position(|(theirs, _)| *theirs == group);
                place.receivers.remove(old.expect("there are some")).1.kill();
            }
            place.add_receiver(self.daemon, &mut self.dice, group);
        }
        let kills = self.done.get("daemons killed").copied().unwrap_or_default();
        books::settle(place, self.daemon, &self.client, kills)
    }
}

#[test]
fn after_chaos_every_message_is_accounted_for_and_nothing_is_left() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let dice = Dice::new(seed());
    let config = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
    let path = config.to_str().expect("a path that is text");
    let daemon = TestDaemon::start_kept(&["--log", "error,ipcd::service=warn", "--config", path]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let mut soak = Soak::new(&daemon, client, config.to_path_buf(), dice);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(10));
    while Instant::now() < end {
        soak.act();
        std::thread::sleep(Duration::from_millis(soak.dice.below(20)));
    }
    soak.end_senders();
    let balances: Vec<_> = (0..soak.stations.len()).flat_map(|n| soak.settle(n)).collect();
    let sum = |count: fn(&Balance) -> u64| balances.iter().map(count).sum::<u64>();
    let (messages, dead) = (sum(|it| it.messages), sum(|it| it.letters));
    let (repeats, unnoted, deaths) =
        (sum(|it| it.repeats), sum(|it| it.unnoted), sum(|it| it.deaths));
    println!(
        "{messages} messages, {dead} of them dead letters, {} steps: {:?}; {deaths} receivers died or were ended, {repeats} \
         messages came again though that was noted, {unnoted} though it was not",
        soak.step, soak.done
    );
    assert!(balances.iter().all(|it| it.messages > 0) && dead > 0);
    soak.stations.clear();
    before.check(&daemon, &soak.client);
}
