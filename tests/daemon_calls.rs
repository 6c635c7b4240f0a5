//! A request is done once, and answered rightly, wherever the daemon is killed: before and behind each of its system calls
//! from the first on that writes the state, so everywhere between the write and the answer; and at some of those before.
//!
//! What must come of it is what comes of it without a kill: the same answer, the same descriptors with it, and the same told of
//! every mailbox, and found in it, afterwards. `STEPS=n` at so many of the places before, `SEED=s` the same as before. At other
//! instructions than these `tests/daemon_steps.rs` kills.

#[path = "asked/deaths.rs"]
mod deaths;
#[path = "asked/hands.rs"]
mod hands;
#[path = "asked/requests.rs"]
mod requests;
#[path = "asked/scene.rs"]
mod scene;

use std::collections::BTreeSet;

use libipc::protocol::Answer;
use tests::{AtCall, Baseline, Dice, Stepped, TestDaemon, seed};

use scene::{Prepare, Scene};

/// Where a daemon stands that has come so far.
fn place(calls: &[AtCall]) -> String {
    let side = calls.last().map_or("", |at| if at.done { "behind" } else { "before" });
    let call = calls.last().map_or(0, |at| at.call);
    format!("killed {side} system call {call}, place {}", calls.len())
}

/// Kills of each request before it is written into the state, if nobody says otherwise.
const SAMPLE: u64 = 5;

fn is_write(at: &AtCall) -> bool {
    at.call == nix::libc::SYS_pwrite64
}

/// The places at which to die: of those before the first write into the state a sample, and all from there on.
fn places(calls: &[AtCall], dice: &mut Dice) -> Vec<usize> {
    let written = calls.iter().position(is_write).unwrap_or(calls.len());
    let sample = std::env::var("STEPS").ok().and_then(|steps| steps.parse().ok());
    let sample = (0..sample.unwrap_or(SAMPLE)).map(|_| 1 + dice.below(written as u64) as usize);
    let early: BTreeSet<usize> = sample.collect();
    early.into_iter().chain(written + 1..=calls.len()).collect()
}

/// Kills the daemon at the places of a request.
fn sweep(what: &str, prepare: Prepare) {
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let round = |kill_at: Option<usize>| {
        let mut scene = Scene::new(&daemon, &client);
        let request = prepare(&mut scene);
        let drive = |stepped: &Stepped| stepped.calls(kill_at.unwrap_or(usize::MAX));
        let end = scene.go(&request, kill_at.is_some(), drive, |calls| place(calls));
        scene.end();
        end
    };
    let (calls, expected) = round(None);
    assert!(!matches!(expected.answer, Answer::Refused(_)), "{what}: {:?}", expected.answer);
    let before = Baseline::take(&daemon, &client);
    let places = places(&calls, &mut Dice::new(seed()));
    let mut been = BTreeSet::new();
    for &kill_at in &places {
        let (calls, outcome) = round(Some(kill_at));
        let as_expected = outcome.is_as(&expected);
        assert!(as_expected, "{what}: {}: {outcome:#?}, not {expected:#?}", place(&calls));
        been.extend(calls.last().map(|at| (at.call, at.done)));
    }
    println!("{what}: killed at {} of {} places", places.len(), calls.len());
    if calls.iter().any(is_write) {
        let written = (nix::libc::SYS_pwrite64, true);
        assert!(been.contains(&written), "{what}: never killed when all was written");
    }
    before.check(&daemon, &client);
}

/// Every n-th of some requests, so that the tests share them.
fn sweep_share(all: &[(&str, Prepare)], n: usize, of: usize) {
    all.iter().skip(n).step_by(of).for_each(|(what, prepare)| sweep(what, *prepare));
}

#[test]
fn a_request_is_done_once_and_answered() {
    sweep_share(requests::CHANGES, 0, 2);
}

#[test]
fn another_request_is_done_once_and_answered() {
    sweep_share(requests::CHANGES, 1, 2);
}

#[test]
fn a_session_ends_once_and_what_it_had_in_hand_comes_again_or_is_counted_once() {
    sweep_share(deaths::DEATHS, 0, 2);
}

#[test]
fn another_session_ends_once_and_what_it_had_in_hand_comes_again_or_is_counted_once() {
    sweep_share(deaths::DEATHS, 1, 2);
}

#[test]
fn what_is_only_asked_is_answered_whatever_becomes_of_the_daemon() {
    sweep_share(requests::QUESTIONS, 0, 1);
}
