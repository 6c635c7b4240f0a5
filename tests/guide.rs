//! The guide and its examples: each example runs as a program, checks what the guide says, and succeeds; the
//! guide names every example, and the lines that it shows are theirs.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tests::{TestDaemon, program};

/// Examples that belong to no section of the guide: the demo's job, and measurements.
const OTHERS: [&str; 6] =
    ["word_count", "crowd", "meeting", "tokio_ping_pong", "control", "upgrade"];

/// A test for each example, and the list of them.
macro_rules! examples {
    ($($name:ident)*) => {
        const RUN: &[&str] = &[$(stringify!($name)),*];

        mod example {
            $(
                #[test]
                fn $name() {
                    super::succeeds(stringify!($name));
                }
            )*
        }
    };
}

examples! {
    bounded
    call_reply
    completion
    dead_letters
    direct_asymmetric
    direct_symmetric
    endings
    groups
    in_place
    mailboxes
    order
    owner
    priority
    rendezvous
    unbounded
    waiting
    waiting_tokio
    who_receives
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs an example with a daemon of its own; it fails where something that it claims does not hold.
fn succeeds(name: &str) {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let example = FOLDER.get_or_init(build_examples).join(name);
    let daemon = TestDaemon::start(&[]);
    let ran = Command::new(example).env("IPCD_SOCKET", daemon.socket()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{name}: {}\n{said}{complained}", ran.status);
    assert!(!said.is_empty(), "{name} tells what happened");
    let left = daemon.client().list().unwrap();
    assert!(left.is_empty(), "{name} leaves nothing behind: {left:?}");
}

fn build_examples() -> PathBuf {
    // target/PROFILE/ipcd, of this test's own profile.
    let daemon = program("ipcd");
    let folder = daemon.parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(repository())
        .args([
            "build",
            "-p",
            "libipc",
            "--examples",
            "--features",
            "tokio",
            "--quiet",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .status()
        .unwrap();
    assert!(built.success(), "the examples do not build");
    folder.join("examples")
}

/// The sections of the guide, each with the examples that it names.
fn sections(guide: &str) -> Vec<(&str, Vec<&str>)> {
    guide
        .split("\n## ")
        .skip(1)
        .map(|section| {
            let title = section.lines().next().unwrap_or_default();
            let named = section.split("libipc/examples/").skip(1);
            (title, named.filter_map(|rest| Some(rest.split_once(".rs")?.0)).collect())
        })
        .collect()
}

/// The lines of a section's Rust, as they should stand in its examples.
fn lines_of_code(guide: &str, title: &str) -> Vec<String> {
    let section = guide.split("\n## ").find(|section| section.lines().next() == Some(title));
    let blocks = section.unwrap_or_default().split("```rust\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// What is wrong with a guide, given the examples that there are and what stands in them.
fn complaints(guide: &str, there: &BTreeMap<String, String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut named = BTreeSet::from(OTHERS.map(str::to_owned));
    for (title, examples) in sections(guide) {
        if examples.is_empty() {
            complaints.push(format!("section {title:?} names no example"));
        }
        for example in &examples {
            if !there.contains_key(*example) {
                complaints.push(format!("section {title:?}: there is no example {example:?}"));
            }
            named.insert((*example).to_owned());
        }
        let sources = || examples.iter().filter_map(|example| there.get(*example));
        for line in lines_of_code(guide, title) {
            if !sources().any(|source| source.lines().any(|of_it| of_it.trim() == line)) {
                complaints.push(format!("section {title:?}: not a line of its example: {line}"));
            }
        }
    }
    let unnamed = there.keys().filter(|example| !named.contains(*example));
    complaints.extend(unnamed.map(|example| format!("no section names the example {example:?}")));
    complaints
}

#[test]
fn every_section_names_an_example_that_exists_and_every_example_is_named_and_run() {
    let guide = std::fs::read_to_string(repository().join("docs/guide.md")).unwrap();
    let entries = std::fs::read_dir(repository().join("libipc/examples")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let programs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let there: BTreeMap<_, _> =
        programs.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect();
    let complaints = complaints(&guide, &there);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    let run: BTreeSet<_> = RUN.iter().copied().chain(OTHERS).map(str::to_owned).collect();
    assert_eq!(run, there.into_keys().collect(), "each example is run by a test here");
}

#[test]
fn a_guide_that_is_not_complete_is_noticed() {
    let text = "fn main() {\n    send()?;\n}\n";
    let there =
        [("one", text), (OTHERS[0], "")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let there = BTreeMap::from(there);
    let complete =
        "# Guide\n\n## First\n\n```rust\nsend()?;\n```\n\nSee `libipc/examples/one.rs`.\n";
    assert!(complaints(complete, &there).is_empty());
    for broken in [
        "# Guide\n\n## First\n\nNothing.\n",
        "# Guide\n",
        "# Guide\n\n## First\n\n`libipc/examples/one.rs`, `libipc/examples/two.rs`\n",
        "# Guide\n\n## First\n\n```rust\nsent()?;\n```\n`libipc/examples/one.rs`\n",
        "# Guide\n\n## First\n\n`libipc/examples/one.rs`\n\n## Second\n\nNothing.\n",
    ] {
        assert!(!complaints(broken, &there).is_empty(), "{broken}");
    }
}
