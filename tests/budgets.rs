//! What a message costs in instructions, in a release: counted by valgrind, which counts the same each time, and held to a
//! budget. Whoever makes a path longer says so here.

use std::path::Path;
use std::process::Command;

use libipc::MailboxOptions;
use tests::{TestDaemon, counted_program, wait_until};

/// Messages that are counted.
const COUNT: u64 = 10_000;

/// A path of `paths.rs`, and how many instructions of it a message may take: what was counted last, and a twentieth, for other
/// processors have other ways to copy.
const BUDGETS: [(&str, u64); 10] = [
    ("send-8", 107),
    ("send-64", 172),
    ("receive-8", 117),
    ("receive-64", 125),
    ("receive-8-single", 117),
    ("receive-8-awaited", 403),
    ("receive-8-competing", 325),
    ("send-batch-8", 54),
    ("receive-batch-8", 91),
    ("try-receive-nothing", 117),
];

/// The same beside a receiver that sleeps: its sender looks whether it has rung already.
const SEND_TO_A_SLEEPER: u64 = 143;

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|it| it.status.success())
}

/// Instructions for a message.
fn count(daemon: &TestDaemon, program: &Path, path: &str, mailbox: Option<&str>) -> u64 {
    let out = daemon.folder().join("callgrind");
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=paths::measured_*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(daemon.socket())
        .args([path, &COUNT.to_string()])
        .args(mailbox)
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&counted.stderr);
    assert!(counted.status.success(), "{path}: {said}");
    let total = said.lines().find_map(|line| line.split_once("Collected : "));
    let total: u64 = total.expect("a count").1.trim().parse().expect("a number");
    assert!(total >= COUNT, "{path}: nothing was counted");
    total / COUNT
}

#[test]
fn no_message_costs_more_instructions_than_its_budget_has() {
    if !has_valgrind() {
        eprintln!(
            "SKIPPED: no_message_costs_more_instructions_than_its_budget_has: needs valgrind"
        );
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("asleep", &MailboxOptions::new().capacity_bytes(256 << 10));
    let mut sleeper = daemon.child();
    sleeper.done("receiver asleep");
    sleeper.tell("receive");
    wait_until("it sleeps", || sleeper.sleeps());
    sleeper.stop(true);
    let program = counted_program("paths");
    let count = |path, mailbox| count(&daemon, &program, path, mailbox);
    let counted = BUDGETS.iter().map(|&(path, budget)| (path, count(path, None), budget));
    let mut counted: Vec<_> = counted.collect();
    let beside = count("send-8", Some("asleep"));
    counted.push(("send-8, beside a sleeper", beside, SEND_TO_A_SLEEPER));
    for (path, instructions, budget) in &counted {
        println!("{path:>25} {instructions:>5} of {budget:>5}");
    }
    sleeper.kill();
    client.delete("asleep").expect("ours");
    let over: Vec<_> = counted.iter().filter(|(_, count, budget)| count > budget).collect();
    assert!(over.is_empty(), "beyond their budgets: {over:?}");
}
