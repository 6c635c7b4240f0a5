//! The daemon is stepped through one request after the other, and through the repair of one death after the other, and
//! killed after some of its instructions; its successor finishes what it had begun. What comes of it must be what comes of it
//! without a kill.
//!
//! Of each a sample of its instructions, half of them close behind a system call, where the steps are that matter to a
//! successor: `STEPS=n` of them, `STEPS=all` for every one, `SEED=s` the same as before, `ONLY=reject` of that alone. At all
//! system calls `tests/daemon_calls.rs` kills.

#[path = "asked/deaths.rs"]
mod deaths;
#[path = "asked/hands.rs"]
mod hands;
#[path = "asked/requests.rs"]
mod requests;
#[path = "asked/scene.rs"]
mod scene;

use std::io::Write;
use std::time::Instant;

use libipc::protocol::Answer;
use nix::sys::personality::{Persona, get, set};
use tests::{Baseline, Dice, Stepped, SteppedPath, TestDaemon, seed};

use scene::{Prepare, Scene};

/// Kills of each request, if nobody says otherwise.
const SAMPLE: u64 = 12;

/// The instructions behind which to die.
fn plan(path: &SteppedPath) -> Vec<u64> {
    let all = path.addresses.len() as u64;
    let steps = std::env::var("STEPS").ok();
    let sample = match steps.as_deref() {
        Some("all") => return (0..all).collect(),
        Some(count) => count.parse().expect("STEPS is a number or `all`"),
        None => SAMPLE,
    };
    let mut dice = Dice::new(seed());
    let place = |_| match path.calls.get(dice.below(2 * path.calls.len() as u64) as usize) {
        Some(call) => (call + 1 + dice.below(20)).min(all - 1),
        None => dice.below(all),
    };
    (0..sample).map(place).collect()
}

/// Kills the daemon behind some of the instructions of a request.
fn sweep(what: &str, prepare: Prepare) {
    // The same addresses in each daemon: what keeps them, and so starts them, has it from us.
    let fixed = Persona::ADDR_NO_RANDOMIZE;
    let _ = get().and_then(|now| set(now | fixed));
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let walk = |stepped: &Stepped| stepped.walk();
    let mut scene = Scene::new(&daemon, &client);
    let request = prepare(&mut scene);
    let (path, expected) = scene.go(&request, false, walk, |_| String::new());
    scene.end();
    assert!(!matches!(expected.answer, Answer::Refused(_)), "{what}: {:?}", expected.answer);
    let before = Baseline::take(&daemon, &client);
    let (plan, start) = (plan(&path), Instant::now());
    let mut elsewhere = 0;
    for &steps in &plan {
        let mut scene = Scene::new(&daemon, &client);
        let request = prepare(&mut scene);
        let place = |_: &bool| format!("{what}: killed behind {steps} instructions");
        let drive = |stepped: &Stepped| stepped.go_along(&path, steps);
        let (there, outcome) = scene.go(&request, true, drive, place);
        scene.end();
        let as_expected = outcome.is_as(&expected);
        assert!(as_expected, "{}: {outcome:#?}, not {expected:#?}", place(&there));
        elsewhere += u64::from(!there);
    }
    let (kills, rate) = (plan.len(), plan.len() as f64 / start.elapsed().as_secs_f64());
    let instructions = path.addresses.len();
    // Past the test runner, which keeps the output of tests that pass.
    let line = format!(
        "{what}: {instructions} instructions, {kills} kills ({elsewhere} elsewhere), {rate:.0} a second"
    );
    writeln!(std::io::stderr(), "{line}").expect("stderr takes a line");
    before.check(&daemon, &client);
}

/// Every n-th of some requests, so that the tests share them.
fn sweep_share(all: &[(&str, Prepare)], n: usize, of: usize) {
    let only = std::env::var("ONLY").ok();
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    let share = all.iter().skip(n).step_by(of).filter(|(what, _)| wanted(what));
    share.for_each(|(what, prepare)| sweep(what, *prepare));
}

#[test]
fn killed_at_any_instruction_of_a_request_it_is_done_once_and_answered() {
    sweep_share(requests::CHANGES, 0, 2);
}

#[test]
fn killed_at_any_instruction_of_another_request_it_is_done_once_and_answered() {
    sweep_share(requests::CHANGES, 1, 2);
}

#[test]
fn killed_at_any_instruction_of_a_question_it_is_answered() {
    sweep_share(requests::QUESTIONS, 0, 1);
}

#[test]
fn killed_at_any_instruction_of_a_repair_what_was_in_hand_comes_again_or_is_counted_once() {
    sweep_share(deaths::DEATHS, 0, 2);
}

#[test]
fn killed_at_any_instruction_of_another_repair_what_was_in_hand_comes_again_or_is_counted_once() {
    sweep_share(deaths::DEATHS, 1, 2);
}
