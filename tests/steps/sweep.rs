//! Kills a process at one instruction after the other of what it does, and holds the others to what is promised.

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use libipc::sys::process::processors;
use libipc::{MailboxOptions, SlowGroup};
use tests::{Dice, program, seed, stay_on_processor};

use crate::copies::Copies;
use crate::fate::Fate;
use crate::route::Route;
use crate::scene::{MAILBOX, Scene};
use crate::shared::CAPACITY_BYTES;
use crate::victim::{Step, Victim};

/// Kills of an operation unless `STEPS` says otherwise.
const KILLS: u64 = 80;

/// An operation of more steps is a long one: to step through it takes longer than all else.
const LONG: u64 = 4000;

/// Kills of a long operation unless `STEPS` says otherwise.
const KILLS_OF_LONG: u64 = 30;

/// Kills of a long operation where `STEPS` says `all`, and not `every`.
const KILLS_OF_LONG_MAX: u64 = 1000;

/// Bytes in a lane that is full.
pub(crate) const LANE_FULL_BYTES: u64 = CAPACITY_BYTES as u64;

/// The mailbox that operations use unless they need another.
pub(crate) fn options() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(CAPACITY_BYTES as u64).receivers_max(8).lanes_max(16)
}

/// The same with groups.
pub(crate) fn grouped(options: MailboxOptions, groups: &[(&str, SlowGroup)]) -> MailboxOptions {
    let add = |options: MailboxOptions, &(name, slow): &(&str, _)| {
        options.group(name, slow).expect("a group's name")
    };
    groups.iter().fold(options, add)
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

    /// The group of receivers of which it is one.
    fn group(&self) -> Option<&'static str> {
        None
    }

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

    /// Where a death is only thought of: how many messages the others take while it stands still.
    fn competes(&self) -> usize {
        0
    }

    /// Whether it sleeps in `poll`.
    fn polls(&self) -> bool {
        false
    }

    /// When the others are there, once.
    fn at_first(&self, _scene: &mut Scene) {}

    /// When the others have taken everything.
    fn at_end(&self, _scene: &mut Scene) {}

    /// What may become of all messages that were sent, in the first group.
    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate>;

    /// The same as far as a copy of the mailbox tells.
    fn fates_on_copy(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        self.fates(scene, reached)
    }

    /// The same in another group.
    fn fates_elsewhere(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        self.fates(scene, reached)
    }
}

/// What came of walking through an operation once.
struct Walk {
    /// Steps gone, markers among them.
    steps: u64,
    reached: Reached,
    /// The steps after which it slept.
    asleep: Vec<u64>,
    /// The steps after which it had passed a marker.
    markers: Vec<u64>,
    route: Route,
    /// It stands elsewhere than whoever has gone before after as many steps.
    strayed: bool,
}

/// Says where it was if a check fails.
struct Place {
    name: String,
    steps: Cell<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: after {} steps", self.name, self.steps.get());
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
    operation.at_first(&mut scene);
    let name = operation.name();
    let mut copies = scene.copies().filter(|_| !operation.is_spared());
    let first = Way::Look(copies.as_mut());
    let Some(whole) = round(operation, &mut scene, u64::MAX, first) else {
        static SKIPPED: AtomicUsize = AtomicUsize::new(0);
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        say(&format!("SKIPPED ({count}): {name}: no process may be traced here, or not on x86-64"));
        return;
    };
    let plan = plan(&whole);
    let start = Instant::now();
    let mut strayed = 0;
    for &steps in &plan {
        let walk = round(operation, &mut scene, steps, Way::Along(&whole.route));
        strayed += u64::from(walk.expect("it was traced before").strayed);
    }
    let rate = plan.len() as f64 / start.elapsed().as_secs_f64();
    let instructions = whole.steps - u64::from(operation.calls()) - whole.asleep.len() as u64;
    let kills = plan.len() as u64 + 1;
    let share = 100.0 * kills as f64 / (whole.steps + 1) as f64;
    let looks = copies.map_or("not looked at".to_owned(), |copies| {
        format!("each looked at, {} of them changed something", copies.changes)
    });
    say(&format!(
        "{name}: {instructions} instructions, {looks}; {kills} kills, {share:.1} % of the steps ({strayed} elsewhere), {rate:.0} a second"
    ));
}

/// The steps after which to kill, but the last, after which it was killed already.
fn plan(whole: &Walk) -> Vec<u64> {
    let given = std::env::var("STEPS").ok();
    let long = whole.steps > LONG;
    let kills = match given.as_deref() {
        Some("all") if long => KILLS_OF_LONG_MAX,
        Some("all" | "every") => u64::MAX,
        Some(count) => count.parse().expect("STEPS is a number, `all` or `every`"),
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
fn round(operation: &dyn Operation, scene: &mut Scene, steps: u64, way: Way<'_>) -> Option<Walk> {
    let place = Place { name: operation.name(), steps: Cell::new(0) };
    scene.begin(operation.alone());
    operation.before(scene);
    let mut victim = start(scene, operation.group(), &operation.act())?;
    operation.at_begin(scene);
    victim.polls = operation.polls();
    let walk = walk(operation, scene, &mut victim, steps, way, &place.steps);
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
    operation.at_end(scene);
    for group in scene.groups() {
        let fates = match group {
            0 => operation.fates(scene, walk.reached),
            _ => operation.fates_elsewhere(scene, walk.reached),
        };
        scene.check(group, &fates);
    }
    scene.check_that_others_go_on();
    scene.check_resources(operation.alone());
    Some(walk)
}

/// How an operation is gone through.
enum Way<'a> {
    /// Step by step, with a look at what each would leave behind.
    Look(Option<&'a mut Copies>),
    /// As somebody has gone before.
    Along(&'a Route),
}

/// Looks what would come of it if the process were killed where it is.
fn look(
    operation: &dyn Operation,
    scene: &Scene,
    victim: &Victim,
    copies: &mut Copies,
    reached: Reached,
) {
    let got = copies.receive_without(victim.pid(), operation.competes());
    for group in scene.groups() {
        let fates = match group {
            0 => operation.fates_on_copy(scene, reached),
            _ => operation.fates_elsewhere(scene, reached),
        };
        scene.check_with(group, &got[group], &scene.loosened(fates));
    }
}

fn walk(
    operation: &dyn Operation,
    scene: &mut Scene,
    victim: &mut Victim,
    steps: u64,
    mut way: Way<'_>,
    place: &Cell<u64>,
) -> Walk {
    let none = Route::default();
    let route = if let Way::Along(route) = way { route } else { &none };

    let (asleep, markers, reached) = (Vec::new(), Vec::new(), Reached { calls: 0 });
    let (route_gone, strayed) = (Route::default(), false);
    let mut walk = Walk { steps: 0, reached, asleep, markers, route: route_gone, strayed };
    // Where it will be when it comes back, if it went to sleep on its way there.
    let mut behind_sleep = None;
    while walk.steps < steps && walk.reached.calls < operation.calls() {
        let ahead = route.ahead(walk.steps, steps).filter(|_| !victim.is_asleep());
        let (step, there) = match ahead {
            Some((landing, address)) => (victim.run_to(address), Some(landing)),
            None => (victim.step(), behind_sleep.take()),
        };
        walk.steps += 1;
        match step {
            Step::Done => walk.steps = there.unwrap_or(walk.steps),
            Step::Marker => {
                let usual = route.markers.get(walk.reached.calls as usize);
                walk.steps = usual.copied().unwrap_or(walk.steps);
                walk.reached.calls += 1;
                walk.markers.push(walk.steps);
                operation.when_returned(scene, walk.reached.calls);
            }
            Step::Asleep => {
                behind_sleep = there;
                let usual = route.asleep.get(walk.asleep.len());
                walk.steps = usual.copied().unwrap_or(walk.steps);
                walk.asleep.push(walk.steps);
                if walk.steps < steps {
                    operation.when_asleep(scene, walk.asleep.len() as u32 - 1);
                }
            }
        }
        place.set(walk.steps);
        if let Way::Look(Some(copies)) = &mut way {
            if victim.has_called() || step != Step::Done {
                scene.await_quiet();
            }
            if copies.look() || step != Step::Done {
                look(operation, scene, victim, copies, walk.reached);
            }
        }
    }
    let there = route.addresses.get(walk.steps as usize);
    walk.strayed = there.is_some() && victim.address().is_some_and(|it| Some(&it) != there);
    walk.route = Route::new(victim.been(), &walk.markers, &walk.asleep);
    walk
}

/// A process claims all that there is, and is killed with the first message in hand.
pub(crate) fn kill_holding(scene: &mut Scene) {
    let mut victim = start(scene, None, "receive:1").expect("it was traced before");
    victim.run_to_marker();
    victim.kill();
    scene.await_end();
}

/// Starts a process that is to do something, with whom it names. `None` if it may not be traced.
fn start(scene: &Scene, group: Option<&str>, act: &str) -> Option<Victim> {
    let (socket, id) = (scene.socket(), scene.victim.to_string());
    let socket = socket.to_str().expect("a path that is text");
    let place = group.map_or(MAILBOX.to_owned(), |group| format!("{MAILBOX}+{group}"));
    let act = act.replace("PID", &scene.named_pid().to_string());
    Victim::start(&program("stepped"), &[socket, &place, &id, &act])
}

/// Past the test runner, which keeps the output of tests that pass.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr takes a line");
}
