//! The public ends of a mailbox, `Sender`, `Receiver` with its deliveries and batches, `Observer`, `Ticket`, against a real
//! service, while hostile members of the same mailbox write whatever they can at any moment: between the calls, and before each
//! read of the code that ships.
//!
//! Either everybody else may be hostile, other receivers too: then nothing may be read out of bounds, panic or hang. Or senders
//! alone are, of another uid: then what honest senders send is also received whole, once, and none is lost, and what is
//! corrupt is never blamed on an honest one.
#![no_main]

#[path = "client/book.rs"]
mod book;
#[path = "client/daemon.rs"]
mod daemon;
#[path = "client/hostile.rs"]
mod hostile;
#[path = "client/members.rs"]
mod members;
#[path = "client/others.rs"]
mod others;
#[path = "shared/words.rs"]
mod words;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use libipc::lane::position::Position;
use libipc::sync::hostile::before_each_read;
use libipc::{Buffering, ClientOptions, MailboxOptions, Order, Receivers, Role, SlowGroup};

use book::Book;
use daemon::Daemon;
use hostile::{Act, Hostile};
use members::{Members, Step};
use others::{Go, Others};

const NAME: &str = "mailbox";
/// The uid of who is hostile.
const HOSTILE: u32 = 4_000_000;
/// The uid of an honest process that comes and goes.
const OTHER: u32 = 3_000_000;
const STEPS_MAX: usize = 50;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Receivers are hostile, too.
    anybody: bool,
    /// Lanes begin just before the end of what positions can count.
    near_the_wrap: bool,
    kind: u8,
    steps: Vec<Do>,
    /// What is done while honest members do something: after so many reads.
    meanwhile: Vec<(u8, Meanwhile)>,
}

#[derive(Arbitrary, Debug)]
enum Do {
    Step(Step),
    Meanwhile(Meanwhile),
}

/// What happens at any moment.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Meanwhile {
    Act(Act),
    Go(Go),
}

/// Those by whom.
struct World {
    hostile: Hostile,
    others: Others,
}

impl World {
    fn take(&mut self, meanwhile: Meanwhile) {
        match meanwhile {
            Meanwhile::Act(act) => self.hostile.act(act),
            Meanwhile::Go(go) => self.others.act(go),
        }
    }
}

/// What the mailbox is like; whether its messages can be accounted for.
fn options(kind: u8, anybody: bool) -> (MailboxOptions, bool) {
    let small = || MailboxOptions::new().capacity_bytes(4096).mode(0o666);
    let small = || small().receivers_max(4).lanes_max(12);
    let options = match kind % 6 {
        0 => small(),
        1 => small().buffering(Buffering::Unbounded),
        2 => small().order(Order::Arrival),
        3 => small().receivers(Receivers::Exclusive),
        4 if !anybody => small().receivers(Receivers::Single),
        _ => {
            let add = |options: MailboxOptions, name, slow| options.group(name, slow);
            let options = add(small(), "block", SlowGroup::Block).expect("a name");
            let options = add(options, "drop", SlowGroup::DropOldest).expect("a name");
            return (options, false);
        }
    };
    (options, !anybody)
}

fuzz_target!(|input: Input| {
    let first = Position::new(if input.near_the_wrap { (1 << 48) - 3 } else { 0 });
    let daemon = Daemon::start(first.get());
    daemon.expect(nix::unistd::geteuid().as_raw());
    let client = ClientOptions::new().socket(daemon.path()).connect().expect("a session");
    let (options, exact) = options(input.kind, input.anybody);
    client.create(NAME, &options).expect("a mailbox");
    let groups = options.groups().iter().map(|group| group.name.as_str().to_owned()).collect();
    let book = Book::new(exact);
    let mut members = Members::new(client, groups, book.clone());
    daemon.expect(OTHER);
    let other = ClientOptions::new().socket(daemon.path()).connect().expect("a session");
    let others = Others::new(other, book);
    daemon.expect(HOSTILE);
    let mut hostile = Hostile::new(NAME, first);
    hostile.join(&daemon.path(), Role::Send);
    hostile.join(&daemon.path(), Role::Send);
    if input.anybody {
        hostile.join(&daemon.path(), Role::Receive);
    }
    let world = Rc::new(RefCell::new(World { hostile, others }));
    let (acts, mut meanwhile) = (world.clone(), VecDeque::from(input.meanwhile));
    before_each_read(Some(Box::new(move || match meanwhile.front_mut() {
        Some((0, it)) => {
            acts.borrow_mut().take(*it);
            meanwhile.pop_front();
        }
        Some((reads, _)) => *reads -= 1,
        None => {}
    })));
    for step in input.steps.iter().take(STEPS_MAX) {
        match step {
            Do::Step(step) => members.take(step),
            Do::Meanwhile(it) => {
                // Nothing happens while something happens.
                let hook = before_each_read(None);
                world.borrow_mut().take(*it);
                before_each_read(hook);
            }
        }
    }
    before_each_read(None);
    members.end();
    drop(world);
    daemon.stop();
});
