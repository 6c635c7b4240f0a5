//! What every test here stands on: a private daemon, child processes that misbehave on request, and
//! waiting for a condition instead of for a time.
//!
//! - [`TestDaemon`]: an `ipcd` of one test, in a folder of its own, gone when the test ends.
//! - [`Child`]: the program `misbehave`, as any uid, told what to do line by line.
//! - [`RawClient`]: the control protocol without the library that keeps to its rules.
//! - [`Stepped`]: a daemon that runs when and as far as a test lets it.
//! - [`breakpoint`]: where a process that is traced stops.
//! - [`shell`]: `ipcctl` as it is typed.
//! - [`numbered`]: messages that tell who sent them and which they are, and the logs of those who got them.
//! - [`Accounts`]: what all those logs must come to.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[path = "harness/accounts.rs"]
mod accounts;
#[path = "harness/baseline.rs"]
mod baseline;
#[path = "harness/breakpoint.rs"]
pub mod breakpoint;
#[path = "harness/child.rs"]
mod child;
#[path = "harness/daemon.rs"]
mod daemon;
#[path = "harness/numbered.rs"]
pub mod numbered;
#[path = "harness/raw_client.rs"]
mod raw_client;
#[path = "harness/shell.rs"]
pub mod shell;
#[path = "harness/stepped.rs"]
mod stepped;

pub use accounts::{Accounts, Balance};
pub use baseline::Baseline;
pub use child::{Child, Got};
pub use daemon::{Absence, TestDaemon, descriptors_of};
pub use raw_client::{Numbered, RawClient, claim_first, hello, lane_to_write, publish};
pub use stepped::{AtCall, Path as SteppedPath, Stepped, is_asleep};

/// Two uids that own nothing and need no entry anywhere.
pub const UIDS: [u32; 2] = [64001, 64002];

/// A uid for a daemon that is neither root nor one of these.
pub const DAEMON_UID: u32 = 64003;

/// How long anything may take before a test calls it stuck. No test passes or fails by being faster.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The instant at which patience ends.
#[must_use]
pub fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// Sets a limit of a running process of ours: `--nofile=64`.
///
/// # Panics
/// If that is not to be had.
pub fn limit(pid: u32, what: &str) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), what]).status();
    assert!(status.expect("prlimit runs").success(), "prlimit {what}");
}

/// Limits the address space of a running process of ours to what it has now and so many bytes more.
///
/// # Panics
/// If that is not to be had.
pub fn limit_address_space(pid: u32, more_bytes: u64) {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("ours");
    let pages: u64 = statm.split(' ').next().and_then(|word| word.parse().ok()).expect("pages");
    limit(pid, &format!("--as={}:unlimited", pages * 4096 + more_bytes));
}

/// Waits until a condition holds.
///
/// # Panics
/// When patience has ended, naming what never came.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = patience();
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks until what is seen has stopped changing.
///
/// # Panics
/// When patience has ended.
pub fn settled<T: PartialEq>(mut look: impl FnMut() -> T) -> T {
    const LOOKS: u32 = 30;
    let (mut seen, mut same) = (look(), 0);
    wait_until("what is seen settles", || {
        let now = look();
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        same >= LOOKS
    });
    seen
}

/// Whether this test may go on: it needs several uids, so it needs root. Says so aloud, and counts, where
/// it may not.
#[must_use]
pub fn skip_unless_root(test: &str) -> bool {
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Past the test runner, which keeps the output of tests that pass.
    let said = writeln!(std::io::stderr(), "SKIPPED ({count}): {test}: needs root for other uids");
    said.expect("stderr takes a line");
    true
}

/// Whether this test may go on: it needs two processors. Says so aloud where it may not.
#[must_use]
pub fn skip_unless_two_processors(test: &str) -> bool {
    if libipc::sys::process::processors() > 1 {
        return false;
    }
    let said = writeln!(std::io::stderr(), "SKIPPED: {test}: needs two processors");
    said.expect("stderr takes a line");
    true
}

/// Keeps this thread on one of the processors that it may run on.
///
/// # Panics
/// If it may not run on so many.
pub fn stay_on_processor(nth: usize) {
    let us = nix::unistd::Pid::from_raw(0);
    let all = nix::sched::sched_getaffinity(us).expect("the kernel tells");
    let mut usable = (0..nix::sched::CpuSet::count()).filter(|&cpu| all.is_set(cpu) == Ok(true));
    let mut one = nix::sched::CpuSet::new();
    one.set(usable.nth(nth).expect("so many processors")).expect("a processor's number");
    nix::sched::sched_setaffinity(us, &one).expect("one of those that it may run on");
}

/// The path of one of the workspace's programs: in the folder `PROGRAMS` if that is set, else built, with all others,
/// at the first call and with the profile of this very test.
///
/// # Panics
/// If they do not build.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build_programs).join(name)
}

/// One of the programs of these tests as a release would have it, but for its instructions: how many they are does not
/// depend on how slowly they are counted.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn counted_program(name: &str) -> PathBuf {
    let which = ["--package", "tests", "--features", "counted", "--bin", name];
    build(&target_and_profile().0, "release", &which).join(name)
}

fn build_programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("PROGRAMS") {
        return folder.into();
    }
    let (target, profile) = target_and_profile();
    build(&target, &profile, &["--workspace", "--bins"])
}

/// The folder of the builds that this test is of, and which of them it is.
fn target_and_profile() -> (PathBuf, String) {
    let us = std::env::current_exe().expect("the path of this test");
    // target/PROFILE/deps/TEST
    let folder = us.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let profile = folder.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let target = folder.parent().expect("a profile lies in target");
    (target.to_owned(), profile.to_owned())
}

fn build(target: &Path, folder: &str, which: &[&str]) -> PathBuf {
    let profile = if folder == "debug" { "dev" } else { folder };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["build", "--quiet", "--profile", profile, "--target-dir"])
        .arg(target)
        .args(which)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the programs do not build");
    target.join(folder)
}

/// A seed for a test's dice: from `SEED` if set, so that a failure can be repeated; said aloud.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let seed = given.unwrap_or_else(now);
    println!("SEED={seed} repeats these dice");
    seed
}

/// Dice that a seed determines.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`. Source: splitmix64, Steele, Lea and Flood 2014.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
