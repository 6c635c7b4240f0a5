//! The daemon is stepped through one request after the other and killed after some of its instructions; its successor
//! finishes what it had begun, and is held to what is promised.
//!
//! Of each request a sample of its instructions, half of them close behind a system call, where the steps are that matter to a
//! successor: `STEPS=n` of them, `SEED=s` the same as before.

use libipc::{Buffering, Client, MailboxOptions, Refusal, RequestError};
use tests::{Baseline, Child, Dice, Stepped, TestDaemon, patience, seed, settled, wait_until};

/// Kills of each request, if nobody says otherwise.
const SAMPLE: u64 = 12;

/// A daemon, a client that looks at what is there, and one that asks for things.
struct Scene {
    daemon: TestDaemon,
    client: Client,
    asks: Child,
    other: Child,
}

const NAME: &str = "stepped";

/// A request: what comes before it, how it is asked for, and what must be so afterwards.
struct Asked {
    what: &'static str,
    prepare: fn(&mut Scene),
    ask: fn(&mut Scene),
    check: fn(&mut Scene),
}

impl Scene {
    fn new() -> Self {
        let daemon = TestDaemon::start_kept(&["--log", "warn"]);
        let (client, asks, other) = (daemon.client(), daemon.child(), daemon.child());
        Self { daemon, client, asks, other }
    }

    fn create(&self) {
        let options = MailboxOptions::new().capacity_bytes(4096).receivers_max(2).lanes_max(4);
        self.client.create(NAME, &options.buffering(Buffering::Unbounded)).expect("a mailbox");
    }

    fn members(&self) -> (u32, u32) {
        let summary = self.client.show(NAME).expect("ours to see").summary;
        (summary.senders, summary.receivers)
    }

    fn delete(&self) {
        self.client.delete(NAME).expect("ours to delete");
        let again = self.client.delete(NAME);
        let gone = matches!(again, Err(RequestError::Refused(Refusal::NoSuchMailbox { .. })));
        assert!(gone, "{again:?}");
    }

    fn idle(&mut self) -> Baseline {
        let sessions = if self.other.ask("status").starts_with("ok") { 3 } else { 2 };
        Baseline::now(&self.daemon, &self.client, sessions)
    }

    /// One round, without a kill: how many instructions there are, and which of them are system calls.
    fn measure(&mut self, asked: &Asked) -> (u64, Vec<u64>) {
        let mut calls = Vec::new();
        let all = self.round(asked, None, Some(&mut calls));
        (all, calls)
    }

    /// One round; after how many instructions to kill, or none. Returns how many were done.
    fn round(
        &mut self,
        asked: &Asked,
        kill_after: Option<u64>,
        calls: Option<&mut Vec<u64>>,
    ) -> u64 {
        (asked.prepare)(self);
        let pid = self.daemon.status(&self.client).pid;
        let stepped = Stepped::take(pid);
        (asked.ask)(self);
        let done = stepped.steps(kill_after.unwrap_or(u64::MAX), calls);
        match kill_after {
            Some(_) => stepped.kill(),
            None => stepped.let_go(),
        }
        (asked.check)(self);
        if kill_after.is_some() {
            assert_ne!(self.daemon.status(&self.client).pid, pid, "it was killed");
        }
        self.delete_if_there();
        done
    }

    fn delete_if_there(&self) {
        if self.client.show(NAME).is_ok() {
            self.delete();
        }
    }
}

/// Kills the daemon after each of a sample of a request's instructions.
fn sweep(asked: &Asked) {
    let mut dice = Dice::new(seed());
    let sample = std::env::var("STEPS").ok().and_then(|steps| steps.parse().ok());
    let mut scene = Scene::new();
    let (all, calls) = scene.measure(asked);
    let before = settled(|| scene.idle());
    for _ in 0..sample.unwrap_or(SAMPLE) {
        let behind = calls.get(dice.below(2 * calls.len() as u64) as usize);
        let after = match behind {
            Some(call) => call + 1 + dice.below(20),
            None => dice.below(all + 1),
        };
        println!("{}: killed after {after} of {all}", asked.what);
        scene.round(asked, Some(after), None);
    }
    wait_until("everything is as it was", || scene.idle() == before);
}

#[test]
fn killed_at_any_instruction_of_a_create_the_mailbox_is_there_once() {
    sweep(&Asked {
        what: "create",
        prepare: |_| {},
        ask: |scene| scene.asks.tell(&format!("create {NAME}")),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            assert_eq!(scene.members(), (0, 0));
            let mut sender = scene.client.sender(NAME).expect("ours to open");
            sender.send(b"it works").expect("sent");
            scene.delete();
        },
    });
}

#[test]
fn killed_at_any_instruction_of_an_open_there_is_one_sender_and_one_receiver() {
    sweep(&Asked {
        what: "open to send",
        prepare: |scene| {
            scene.create();
            scene.other.done(&format!("receiver {NAME}"));
        },
        ask: |scene| scene.asks.tell(&format!("sender {NAME}")),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            assert_eq!(scene.members(), (1, 1));
            scene.asks.done("send a message");
            let got = scene.other.got("receive_within 60000");
            assert_eq!((got.text.as_str(), got.attempts), ("a message", 0));
            scene.asks.done("close_sender");
            scene.other.done("close_receiver");
        },
    });
    sweep(&Asked {
        what: "open to receive",
        prepare: |scene| {
            scene.create();
            scene.other.done(&format!("sender {NAME}"));
            scene.other.done("send a message");
        },
        ask: |scene| scene.asks.tell(&format!("receiver {NAME}")),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            assert_eq!(scene.members(), (1, 1));
            let got = scene.asks.got("receive_within 60000");
            assert_eq!((got.text.as_str(), got.attempts), ("a message", 0));
            scene.asks.done("close_receiver");
            scene.other.done("close_sender");
        },
    });
}

#[test]
fn killed_at_any_instruction_of_adding_a_lane_what_is_sent_into_it_comes() {
    sweep(&Asked {
        what: "add a lane",
        prepare: |scene| {
            scene.create();
            scene.asks.done(&format!("sender {NAME}"));
            scene.asks.done("send a message");
            scene.asks.done("priority 3");
        },
        ask: |scene| scene.asks.tell("send an urgent message"),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            assert_eq!(scene.members(), (1, 0));
            let mut receiver = scene.client.receiver(NAME).expect("ours to receive");
            for expected in ["an urgent message", "a message"] {
                let delivery = receiver.receive_deadline(patience()).expect("a message");
                assert_eq!((delivery.bytes(), delivery.attempts()), (expected.as_bytes(), 0));
                delivery.acknowledge();
            }
            scene.asks.done("close_sender");
        },
    });
}

#[test]
fn killed_at_any_instruction_of_a_close_the_place_is_free_and_what_was_sent_comes() {
    sweep(&Asked {
        what: "close",
        prepare: |scene| {
            scene.create();
            scene.asks.done(&format!("sender {NAME}"));
            scene.asks.done("send a message");
        },
        ask: |scene| scene.asks.tell("close_sender"),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            scene.asks.done("status");
            assert_eq!(scene.members(), (0, 0));
            let mut receiver = scene.client.receiver(NAME).expect("ours to receive");
            let delivery = receiver.receive_deadline(patience()).expect("a message");
            assert_eq!((delivery.bytes(), delivery.attempts()), (&b"a message"[..], 0));
        },
    });
}

#[test]
fn killed_at_any_instruction_of_a_delete_it_is_gone_and_who_waits_is_told() {
    sweep(&Asked {
        what: "delete",
        prepare: |scene| {
            scene.create();
            scene.other.done(&format!("receiver {NAME}"));
            scene.other.tell("receive");
            wait_until("the receiver sleeps", || scene.other.sleeps());
        },
        ask: |scene| scene.asks.tell(&format!("delete {NAME}")),
        check: |scene| {
            assert_eq!(scene.asks.answer(), "ok");
            assert_eq!(scene.other.answer(), "error Deleted");
            assert!(scene.client.show(NAME).is_err());
            scene.other.done("close_receiver");
        },
    });
}

#[test]
fn killed_at_any_instruction_of_repairing_a_death_the_message_in_hand_comes_again_marked() {
    sweep(&Asked {
        what: "end of a session",
        prepare: |scene| {
            scene.create();
            scene.other = scene.daemon.child();
            scene.other.done(&format!("receiver {NAME}"));
            scene.other.done(&format!("sender {NAME}"));
            scene.other.done("send first");
            scene.other.done("send second");
            assert_eq!(scene.other.got("hold").text, "first");
        },
        ask: |scene| {
            scene.other.kill();
        },
        check: |scene| {
            wait_until("it is known to be dead", || scene.members() == (0, 0));
            let mut receiver = scene.client.receiver(NAME).expect("ours to receive");
            for (text, attempts) in [("first", 1), ("second", 0)] {
                let delivery = receiver.receive_deadline(patience()).expect("a message");
                assert_eq!((delivery.bytes(), delivery.attempts()), (text.as_bytes(), attempts));
                delivery.acknowledge();
            }
            drop(receiver);
            scene.other = scene.daemon.child();
        },
    });
}
