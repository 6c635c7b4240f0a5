//! Kills a process at one instruction after the other of what it does, and holds the others to what is promised.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use libipc::MailboxOptions;
use libipc::sys::process::processors;
use tests::{Dice, program, seed, stay_on_processor};

use crate::scene::{Fate, MAILBOX, Scene};
use crate::shared::CAPACITY_BYTES;
use crate::victim::{Step, Victim};

/// Kills of an operation unless `STEPS` says otherwise.
const KILLS: u64 = 40;

/// An operation of more steps is a long one: to step through it takes longer than all else.
const LONG: u64 = 4000;

/// Kills of a long operation unless `STEPS` says otherwise.
const KILLS_OF_LONG: u64 = 10;

/// Kills of a long operation where `STEPS` says `all`.
const KILLS_OF_LONG_MAX: u64 = 1000;

/// Bytes in a lane that is full.
pub(crate) const LANE_FULL_BYTES: u64 = CAPACITY_BYTES as u64;

/// The mailbox that operations use unless they need another.
pub(crate) fn options() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(CAPACITY_BYTES as u64).receivers_max(8).lanes_max(16)
}

/// How far a process had come when it was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// Steps of the operation that had ended: calls that had returned.
    pub(crate) calls: u32,
}

/// What is done with a mailbox by the process that is killed, and by the others around it.
pub(crate) trait Operation {
    /// What the process is told to do: see `stepped.rs`.
    fn act(&self) -> String;

    /// What it is, for people.
    fn name(&self) -> String;

    /// How many markers it passes, the first aside.
    fn calls(&self) -> u32 {
        1
    }

    fn options(&self) -> MailboxOptions {
        options()
    }

    /// Whether none of the others has the mailbox open to receive.
    fn alone(&self) -> bool {
        false
    }

    /// Whether there are others that must be able to exchange a message while the process stands still. Not where one
    /// receives at a time, or where one of the others sleeps: it would receive that message.
    fn has_bystanders(&self) -> bool {
        !self.alone()
    }

    /// Whether the process is not killed after all, but goes on to its end.
    fn is_spared(&self) -> bool {
        false
    }

    /// Before the process starts.
    fn before(&self, _scene: &mut Scene) {}

    /// When it is about to begin.
    fn at_begin(&self, _scene: &mut Scene) {}

    /// When so many of its calls have returned.
    fn when_returned(&self, _scene: &mut Scene, _calls: u32) {}

    /// When it has gone to sleep, for the `nth` time: lets it go on.
    fn when_asleep(&self, _scene: &mut Scene, _nth: u32) {
        panic!("it sleeps though there is nothing to wait for");
    }

    /// When it has stopped for the last time.
    fn when_stopped(&self, _scene: &mut Scene) {}

    /// When the daemon has noticed its death, before the others take anything.
    fn when_dead(&self, _scene: &mut Scene) {}

    /// What may become of all messages that were sent.
    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate>;
}

/// What came of walking through an operation once.
struct Walk {
    /// Steps gone, markers among them.
    steps: u64,
    reached: Reached,
    /// The steps after which it slept.
    asleep: Vec<u64>,
}

/// Says where it was if a check fails.
struct Place {
    name: String,
    steps: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: after {} steps", self.name, self.steps);
        }
    }
}

/// Steps through an operation, and kills it after each number of steps, or after a sample of these.
pub(crate) fn sweep(operation: &dyn Operation) {
    // Tracer and traced take turns: on one processor that costs no wake-up across two. The tests share them.
    static SWEEPS: AtomicUsize = AtomicUsize::new(0);
    stay_on_processor(SWEEPS.fetch_add(1, Ordering::Relaxed) % processors());
    // The same addresses each time, so the same instructions, as far as that is ours to decide.
    let fixed = nix::sys::personality::Persona::ADDR_NO_RANDOMIZE;
    let _ = nix::sys::personality::get().and_then(|now| nix::sys::personality::set(now | fixed));
    let mut scene = Scene::new(operation.options(), operation.has_bystanders());
    let name = operation.name();
    let Some(whole) = round(operation, &mut scene, u64::MAX) else {
        static SKIPPED: AtomicUsize = AtomicUsize::new(0);
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        say(&format!("SKIPPED ({count}): {name}: no process may be traced here, or not on x86-64"));
        return;
    };
    let plan = plan(&whole);
    for &steps in &plan {
        round(operation, &mut scene, steps).expect("it was traced before");
    }
    let instructions = whole.steps - u64::from(operation.calls()) - whole.asleep.len() as u64;
    let kills = plan.len() as u64 + 1;
    let share = 100.0 * kills as f64 / (whole.steps + 1) as f64;
    say(&format!("{name}: {instructions} instructions, {kills} kills, {share:.1} % of the steps"));
}

/// The steps after which to kill, but the last, after which it was killed already.
fn plan(whole: &Walk) -> Vec<u64> {
    let given = std::env::var("STEPS").ok();
    let long = whole.steps > LONG;
    let kills = match given.as_deref() {
        Some("all") if long => KILLS_OF_LONG_MAX,
        Some("all") => u64::MAX,
        Some(count) => count.parse().expect("STEPS is a number or `all`"),
        None if long => KILLS_OF_LONG,
        None => KILLS,
    };
    if kills > whole.steps {
        return (0..whole.steps).collect();
    }
    let mut dice = Dice::new(seed());
    let mut plan: Vec<_> = (0..kills).map(|_| dice.below(whole.steps)).collect();
    plan.extend(&whole.asleep);
    plan.sort_unstable();
    plan.dedup();
    plan
}

/// One process, killed after so many steps, or at the end of its operation. `None` if it may not be traced.
fn round(operation: &dyn Operation, scene: &mut Scene, steps: u64) -> Option<Walk> {
    let mut place = Place { name: operation.name(), steps };
    scene.begin(operation.alone());
    operation.before(scene);
    let mut victim = start(scene, &operation.act())?;
    operation.at_begin(scene);
    let walk = walk(operation, scene, &mut victim, steps);
    place.steps = walk.steps;
    scene.check_that_nobody_is_held_up();
    operation.when_stopped(scene);
    if operation.is_spared() {
        scene.note(&victim.finish());
    } else {
        victim.kill();
    }
    scene.await_end();
    operation.when_dead(scene);
    scene.drain();
    scene.end_blocked();
    scene.drain();
    scene.check(&operation.fates(scene, walk.reached));
    scene.check_that_others_go_on();
    scene.check_resources(operation.alone());
    Some(walk)
}

fn walk(operation: &dyn Operation, scene: &mut Scene, victim: &mut Victim, steps: u64) -> Walk {
    let mut walk = Walk { steps: 0, reached: Reached { calls: 0 }, asleep: Vec::new() };
    while walk.steps < steps && walk.reached.calls < operation.calls() {
        let step = victim.step();
        walk.steps += 1;
        match step {
            Step::Done => {}
            Step::Marker => {
                walk.reached.calls += 1;
                operation.when_returned(scene, walk.reached.calls);
            }
            Step::Asleep => {
                walk.asleep.push(walk.steps);
                if walk.steps < steps {
                    operation.when_asleep(scene, walk.asleep.len() as u32 - 1);
                }
            }
        }
    }
    walk
}

/// A process claims all that there is, and is killed with the first message in hand.
pub(crate) fn kill_holding(scene: &mut Scene) {
    let mut victim = start(scene, "receive:1").expect("it was traced before");
    while victim.step() != Step::Marker {}
    victim.kill();
    scene.await_end();
}

/// Starts a process that is to do something. `None` if it may not be traced.
fn start(scene: &Scene, act: &str) -> Option<Victim> {
    let (socket, id) = (scene.socket(), scene.victim.to_string());
    let socket = socket.to_str().expect("a path that is text");
    Victim::start(&program("stepped"), &[socket, MAILBOX, &id, act])
}

/// Past the test runner, which keeps the output of tests that pass.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr takes a line");
}
