//! What the eye forgets: rules about the sources that no compiler checks. Each rule is a function from
//! sources to complaints; the tests below hold the repository to it, and see each rule fail once on
//! a source that breaks it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const LINES_MAX: usize = 700;

/// Files that may contain unsafe code: the product's two homes, who vouches for senders of its own, and tests
/// that misbehave on purpose.
const UNSAFE_HOMES: [&str; 12] = [
    "libipc/src/sys/",
    "libipc/src/lane/memory.rs",
    "libipc/src/lane/memory/",
    "bench/src/calls/",
    "measure/src/inherited.rs",
    "measure/src/systems/ours_bulk.rs",
    "measure/src/systems/sysv_calls.rs",
    "tests/bulk.rs",
    "tests/misbehave",
    "tests/paths.rs",
    "tests/shared_memory_evidence.rs",
    "tests/stepped.rs",
];

/// What the code of a folder must not mention, since the imports point the other way.
const WRONG_WAYS: [(&str, &[&str]); 6] = [
    (
        "libipc/src/lane/",
        &[
            "crate::client",
            "crate::sender",
            "crate::receiver",
            "crate::delivery",
            "sys::socket",
            "sys::futex",
            "nix::",
            "libc::",
        ],
    ),
    ("libipc/", &["ipcd::", "ipcctl::"]),
    (
        "ipcd/src/registry",
        &[
            "std::fs",
            "std::io",
            "std::net",
            "nix::",
            "libc::",
            "OwnedFd",
            "BorrowedFd",
            "Instant",
            "SystemTime",
        ],
    ),
    ("ipcd/", &["ipcctl::"]),
    ("ipcctl/", &["ipcd::"]),
    ("measure/", &["ipcd::", "ipcctl::"]),
];

// In two pieces here and below, so that this file is no finding itself.
const UNSAFE: &str = concat!("uns", "afe");
const UNSAFE_LINT: &str = concat!("uns", "afe_code");

struct Source {
    /// Path below the repository.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines that are not comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").into()
}

/// Every text file of the repository but what is generated.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if ["target", ".git", "Cargo.lock", "corpus", "artifacts"].contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(repository()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

fn unsafe_lives_at_home(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        if UNSAFE_HOMES.iter().any(|home| source.path.starts_with(home)) {
            continue;
        }
        for (number, line) in source.code() {
            let code = line.split("//").next().unwrap_or(line);
            if has_word(code, UNSAFE) || has_word(code, UNSAFE_LINT) {
                complaints
                    .push(format!("{}:{number}: {UNSAFE} code outside of its homes", source.path));
            }
        }
    }
    complaints
}

/// The sources that are compiled into what is shipped, models of it aside.
fn is_product(source: &Source) -> bool {
    let shipped = ["libipc/src/", "ipcd/src/", "ipcctl/src/"];
    shipped.iter().any(|folder| source.path.starts_with(folder)) && !source.path.contains("/models")
}

fn both_ends_of_each_pair_exist(sources: &[Source]) -> Vec<String> {
    let mut ends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| is_product(source)) {
        for (_, rest) in source
            .text
            .match_indices("PAIR(")
            .map(|(at, found)| (at, &source.text[at + found.len()..]))
        {
            if let Some((name, _)) = rest.split_once(')') {
                ends.entry(name).or_default().push(&source.path);
            }
        }
    }
    let lonely = ends.into_iter().filter(|(_, places)| places.len() < 2);
    lonely.map(|(name, places)| format!("{}: PAIR({name}) has no other end", places[0])).collect()
}

fn imports_point_one_way(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (_, forbidden) in
            WRONG_WAYS.iter().filter(|(folder, _)| source.path.starts_with(folder))
        {
            for (number, line) in source.code() {
                for word in forbidden.iter().filter(|word| {
                    has_word(line, word.trim_end_matches(':')) && line.contains(**word)
                }) {
                    complaints
                        .push(format!("{}:{number}: {word} is not for this folder", source.path));
                }
            }
        }
    }
    for (manifest, forbidden) in
        [("libipc/", "ipcd"), ("libipc/", "ipcctl"), ("ipcd/", "ipcctl"), ("ipcctl/", "ipcd")]
    {
        let path = format!("{manifest}Cargo.toml");
        for source in sources.iter().filter(|source| source.path == path) {
            if source.text.lines().any(|line| {
                line.starts_with(forbidden) && line[forbidden.len()..].starts_with(['.', ' ', '='])
            }) {
                complaints.push(format!("{path}: {forbidden} is no dependency of this crate"));
            }
        }
    }
    complaints
}

fn lane_atomics_come_from_sync(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let lane = sources.iter().filter(|source| source.path.starts_with("libipc/src/lane/"));
    for source in lane.filter(|source| is_product(source)) {
        for (number, line) in source.code() {
            if (line.contains("sync::atomic") && !line.contains("atomic::compiler_fence"))
                || line.contains("loom::sync")
            {
                complaints.push(format!(
                    "{}:{number}: atomics in lane/ come from crate::sync",
                    source.path
                ));
            }
        }
    }
    complaints
}

fn nothing_is_left_over(sources: &[Source]) -> Vec<String> {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("db", "g!")];
    find_in_all(sources, &marks, "a leftover")
}

fn no_path_of_this_machine_is_named(sources: &[Source]) -> Vec<String> {
    let marks = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("../sha", "red"),
        concat!("/ho", "me/"),
    ];
    find_in_all(sources, &marks, "a path of somebody's machine")
}

fn find_in_all(sources: &[Source], marks: &[&str], what: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                complaints.push(format!("{}:{}: {what}: {mark}", source.path, index + 1));
            }
        }
    }
    complaints
}

fn files_stay_short(sources: &[Source]) -> Vec<String> {
    let long =
        sources.iter().filter(|source| source.is_rust() && source.text.lines().count() > LINES_MAX);
    long.map(|source| format!("{}: more than {LINES_MAX} lines", source.path)).collect()
}

type Rule = fn(&[Source]) -> Vec<String>;

fn hold(rule: Rule) {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "libipc/src/lib.rs"), "sources were found");
    let complaints = rule(&sources);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[track_caller]
fn breaks(rule: Rule, path: &str, text: &str) {
    let source = Source { path: path.into(), text: text.into() };
    assert!(!rule(&[source]).is_empty(), "the rule does not see {text:?} in {path}");
}

#[track_caller]
fn keeps(rule: Rule, path: &str, text: &str) {
    let complaints = rule(&[Source { path: path.into(), text: text.into() }]);
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn unsafe_code_is_nowhere_but_in_its_homes() {
    let block = concat!("let byte = uns", "afe { *pointer };");
    breaks(unsafe_lives_at_home, "libipc/src/lane/ring.rs", block);
    breaks(unsafe_lives_at_home, "ipcd/src/main.rs", block);
    breaks(unsafe_lives_at_home, "ipcctl/src/main.rs", concat!("#![expect(uns", "afe_code)]"));
    keeps(unsafe_lives_at_home, "libipc/src/lane/memory.rs", block);
    keeps(unsafe_lives_at_home, "libipc/src/lane/ring.rs", concat!("// no uns", "afe code here"));
    hold(unsafe_lives_at_home);
}

#[test]
fn every_named_ordering_pair_has_both_ends() {
    let end = concat!("// PA", "IR(publish): Release here, Acquire there.\n");
    breaks(both_ends_of_each_pair_exist, "libipc/src/lane/ring.rs", end);
    keeps(both_ends_of_each_pair_exist, "libipc/src/lane/ring.rs", &end.repeat(2));
    hold(both_ends_of_each_pair_exist);
}

#[test]
fn no_import_points_the_wrong_way() {
    breaks(imports_point_one_way, "libipc/src/lane/park.rs", "use crate::sys::futex::wait;");
    breaks(imports_point_one_way, "libipc/src/lane/claim.rs", "use crate::receiver::Receiver;");
    breaks(imports_point_one_way, "ipcd/src/registry/quota.rs", "use std::fs::File;");
    breaks(
        imports_point_one_way,
        "ipcd/src/registry/link.rs",
        "fn expired(now: Instant) -> bool {",
    );
    breaks(imports_point_one_way, "ipcctl/src/main.rs", "use ipcd::registry;");
    breaks(imports_point_one_way, "ipcd/src/main.rs", "use ipcctl::output;");
    breaks(imports_point_one_way, "ipcctl/Cargo.toml", "ipcd = { path = \"../ipcd\" }");
    breaks(imports_point_one_way, "libipc/Cargo.toml", "ipcd.workspace = true");
    keeps(imports_point_one_way, "libipc/src/lane/park.rs", "/// Not [`crate::sys::futex`].");
    hold(imports_point_one_way);
}

#[test]
fn the_lanes_atomics_are_those_that_the_models_see() {
    breaks(
        lane_atomics_come_from_sync,
        "libipc/src/lane/ring.rs",
        "use std::sync::atomic::AtomicU64;",
    );
    breaks(
        lane_atomics_come_from_sync,
        "libipc/src/lane/ring.rs",
        "use core::sync::atomic::fence;",
    );
    // It orders the compiler alone: there is nothing to model.
    keeps(
        lane_atomics_come_from_sync,
        "libipc/src/lane/park.rs",
        "std::sync::atomic::compiler_fence(SeqCst);",
    );
    keeps(lane_atomics_come_from_sync, "libipc/src/lane/ring.rs", "use crate::sync::AtomicU64;");
    // What a model keeps from loom's eyes.
    keeps(
        lane_atomics_come_from_sync,
        "libipc/src/lane/models/arrival.rs",
        "use std::sync::atomic::AtomicU64;",
    );
    hold(lane_atomics_come_from_sync);
}

#[test]
fn no_leftover_is_in_any_file() {
    breaks(nothing_is_left_over, "README.md", concat!("TO", "DO: explain"));
    breaks(nothing_is_left_over, "ipcd/src/main.rs", concat!("db", "g!(value);"));
    hold(nothing_is_left_over);
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    breaks(no_path_of_this_machine_is_named, "docs/layout.md", concat!("see /ho", "me/me/notes"));
    breaks(
        no_path_of_this_machine_is_named,
        "docs/layout.md",
        concat!("see ../sha", "red/design.md"),
    );
    hold(no_path_of_this_machine_is_named);
}

#[test]
fn no_source_file_grows_beyond_what_one_reads_at_once() {
    breaks(files_stay_short, "libipc/src/client.rs", &"line\n".repeat(LINES_MAX + 1));
    keeps(files_stay_short, "libipc/src/client.rs", &"line\n".repeat(LINES_MAX));
    hold(files_stay_short);
}
