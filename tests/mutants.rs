//! The models of `libipc/src/lane/models` are worth what they catch. `mutations.toml` beside them lists changes to
//! the code that ships, each a step left out, moved or weakened, and which model catches it, by what.
//!
//! The sources themselves know nothing of it. A copy of them gets all mutations at once, each behind a question
//! which of them is on (`if crate::sync::mutated(3) { changed } else { as it was }`), is compiled once under loom, and
//! then each model runs alone, with one mutation on. `scripts/test` has that done; it takes a build and some
//! seconds, and so is left out of a plain `cargo test`, which only sees that the list fits the sources.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

const LANE: &str = "libipc/src/lane";
/// Says to a copy's models which mutations are on, counted from 1.
const CHOSEN: &str = "LIBIPC_MUTATION";

/// Stands at the end of a copy's `sync.rs`.
const SWITCH: &str = r#"
/// Whether this mutation is on.
pub fn mutated(number: usize) -> bool {
    static CHOSEN: std::sync::LazyLock<Vec<usize>> = std::sync::LazyLock::new(|| {
        let chosen = std::env::var("LIBIPC_MUTATION").unwrap_or_default();
        chosen.split_whitespace().map(|number| number.parse().unwrap()).collect()
    });
    CHOSEN.contains(&number)
}
"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutation: Vec<Mutation>,
}

/// One change. `old`, an expression or whole statements, stands exactly once in that function, but for white space.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    /// Below `lane/`.
    file: String,
    function: String,
    old: String,
    new: String,
    /// The name of another mutation that is on then, too: it takes away what hides this one.
    beside: Option<String>,
    /// Pairs: a model, and what stands in what it says when it fails.
    #[serde(default)]
    caught_by: Vec<(String, String)>,
    /// Models that do not catch it; `why` says why that is as it should be, or what is missing.
    #[serde(default)]
    missed_by: Vec<String>,
    #[serde(default)]
    why: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").into()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn mutations() -> Vec<Mutation> {
    let table: Table = toml::from_str(&read(&format!("{LANE}/models/mutations.toml"))).unwrap();
    table.mutation
}

/// The models, each with the path of its module.
fn models() -> BTreeMap<String, String> {
    let mut files = vec![("lane::models".to_owned(), format!("{LANE}/models.rs"))];
    for entry in std::fs::read_dir(repository().join(LANE).join("models")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs") {
            files.push((format!("lane::models::{module}"), format!("{LANE}/models/{name}")));
        }
    }
    let mut found = BTreeMap::new();
    for (module, path) in files {
        for line in read(&path).lines() {
            if let Some((model, _)) =
                line.strip_prefix("fn loom_").and_then(|rest| rest.split_once('('))
            {
                found.insert(format!("loom_{model}"), module.clone());
            }
        }
    }
    found
}

/// Where the function of this name stands, from its first line to its last.
fn function(text: &str, name: &str) -> Result<Range<usize>, String> {
    let begins = |line: &str| {
        let rest = line.split_once("fn ").map(|(_, rest)| rest);
        rest.and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    let (mut at, mut found) = (0, Vec::new());
    for line in text.split_inclusive('\n') {
        let code = !line.trim_start().starts_with("//");
        if code && begins(line) {
            found.push((at, &line[..line.len() - line.trim_start().len()]));
        }
        at += line.len();
    }
    let [(start, indent)] = found[..] else {
        return Err(format!("{} functions are called {name}", found.len()));
    };
    let last = format!("\n{indent}}}\n");
    let len = text[start..].find(&last).ok_or(format!("{name} does not end"))?;
    Ok(start..start + len + last.len())
}

/// Where `wanted` stands in that part of a text, white space aside: exactly once.
fn find(text: &str, within: Range<usize>, wanted: &str) -> Result<Range<usize>, String> {
    let solid = |text: &str, from: usize| -> Vec<(usize, char)> {
        let places = text.char_indices().map(|(at, c)| (from + at, c));
        places.filter(|(_, c)| !c.is_whitespace()).collect()
    };
    let wanted: Vec<char> = solid(wanted, 0).into_iter().map(|(_, c)| c).collect();
    let there = solid(&text[within.clone()], within.start);
    let mut found =
        there.windows(wanted.len()).filter(|window| window.iter().map(|(_, c)| c).eq(&wanted));
    match (found.next(), found.next()) {
        (Some([(first, _), .., (last, c)]), None) => Ok(*first..*last + c.len_utf8()),
        (Some(_), Some(_)) => Err("stands there more than once".into()),
        _ => Err("does not stand there".into()),
    }
}

/// A file with its mutations: each a number and what it is.
fn mutate(text: &str, mutations: &[(usize, &Mutation)]) -> Result<String, String> {
    let mut places: BTreeMap<(usize, usize), Vec<(usize, &str)>> = BTreeMap::new();
    for (number, mutation) in mutations {
        let place = function(text, &mutation.function)
            .and_then(|within| find(text, within, &mutation.old))
            .map_err(|error| format!("{}: {error}", mutation.name))?;
        places.entry((place.start, place.end)).or_default().push((*number, &mutation.new));
    }
    let (mut mutated, mut at) = (String::new(), 0);
    for ((start, end), changes) in places {
        if start < at {
            let names: Vec<_> = changes.iter().map(|(number, _)| number).collect();
            return Err(format!("the places of mutations {names:?} and of others overlap"));
        }
        mutated += &text[at..start];
        let old = &text[start..end];
        // As a part of an expression it needs them.
        let (open, close) = if old.ends_with([';', '}']) { ("", "") } else { ("(", ")") };
        mutated += open;
        for (number, new) in changes {
            write!(mutated, "if crate::sync::mutated({number}) {{ {new} }} else ").unwrap();
        }
        write!(mutated, "{{ {old} }}{close}").unwrap();
        at = end;
    }
    Ok(mutated + &text[at..])
}

/// Every file that is changed, as it is then.
fn mutated_files() -> Result<BTreeMap<String, String>, String> {
    let mutations = mutations();
    let mut files: BTreeMap<String, Vec<(usize, &Mutation)>> = BTreeMap::new();
    for (index, mutation) in mutations.iter().enumerate() {
        let path = format!("{LANE}/{}", mutation.file);
        files.entry(path).or_default().push((index + 1, mutation));
    }
    let mut changed = BTreeMap::new();
    for (path, mutations) in files {
        let text = mutate(&read(&path), &mutations).map_err(|error| format!("{path}: {error}"))?;
        changed.insert(path, text);
    }
    let path = "libipc/src/sync.rs";
    changed.insert(path.into(), read(path) + SWITCH);
    // Another version is another package: cargo keeps what it builds of the two apart.
    let version = concat!("\nversion = \"", env!("CARGO_PKG_VERSION"));
    let manifest = read("Cargo.toml").replacen(version, &format!("{version}+mutants"), 1);
    changed.insert("Cargo.toml".into(), manifest);
    Ok(changed)
}

/// Writes a copy of the sources with all mutations. What is there already as it should be stays untouched, and is not
/// compiled again.
fn write_copy(copy: &Path) {
    let changed = mutated_files().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(copy.join(&folder)).unwrap();
        for entry in std::fs::read_dir(repository().join(&folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = folder.join(&name);
            if name == "target" || name == ".git" {
                continue;
            }
            if repository().join(&path).is_dir() {
                folders.push(path);
                continue;
            }
            let text = match changed.get(path.to_str().unwrap()) {
                Some(text) => text.clone().into_bytes(),
                None => std::fs::read(repository().join(&path)).unwrap(),
            };
            if std::fs::read(copy.join(&path)).ok().as_ref() != Some(&text) {
                std::fs::write(copy.join(&path), text).unwrap();
            }
        }
    }
}

/// Compiles a copy's models as `scripts/test` does those of the sources, so that it finds loom compiled.
fn build(copy: &Path, target: &Path) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--package", "libipc", "--release", "--lib", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(copy)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the copy does not compile:\n{errors}");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut messages = messages.lines().map(|line| serde_json::from_str(line).unwrap());
    messages
        .find_map(|message: serde_json::Value| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program that it has built")
}

/// Runs one model with these mutations on.
fn run(program: &Path, module: &str, model: &str, chosen: &str) -> Output {
    let output = Command::new(program)
        .args(["--exact", &format!("{module}::{model}"), "--nocapture"])
        .env(CHOSEN, chosen)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test\n"), "{module}::{model} did not run: {said}");
    output
}

/// What a model said first when it failed.
fn complaint(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = errors.lines().skip_while(|line| !line.contains(" panicked at "));
    let said = lines.skip(1);
    let said = said.take_while(|line| !line.is_empty() && !line.starts_with("note: "));
    said.take(3).collect::<Vec<_>>().join(" | ")
}

/// The numbers that are on for a mutation, the mutation, a model, and what that is to say; `None`: it catches nothing.
type Case<'a> = (String, &'a Mutation, &'a str, Option<&'a str>);

/// Runs one case; says what came of it, and whether that is what should.
fn judge(program: &Path, models: &BTreeMap<String, String>, case: &Case<'_>) -> (bool, String) {
    let (chosen, Mutation { name, file, function, .. }, model, expected) = case;
    let output = run(program, &models[*model], model, chosen);
    let said = complaint(&output);
    let place = format!("{name} ({file}, {function})");
    match (expected, output.status.success()) {
        (Some(expected), false) if String::from_utf8_lossy(&output.stderr).contains(expected) => {
            (true, format!("caught    {place} by {model}: {said}"))
        }
        (Some(expected), false) => {
            (false, format!("otherwise {place} by {model}, not with {expected:?}: {said}"))
        }
        (Some(_), true) => (false, format!("SURVIVED  {place}: {model} does not catch it")),
        (None, true) => (true, format!("missed    {place} by {model}, as known")),
        (None, false) => (false, format!("caught    {place} by {model}, not as known: {said}")),
    }
}

#[test]
#[ignore = "builds libipc once more and runs its models: scripts/test does it, behind those of the sources"]
fn each_mutation_is_caught_by_its_models() {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or(repository().join("target"), Into::into);
    let copy = target.join("mutants");
    write_copy(&copy);
    let program = build(&copy, &target.join("loom"));
    let (mutations, models) = (mutations(), models());
    let mut cases: Vec<Case<'_>> = Vec::new();
    let number =
        |name: &String| mutations.iter().position(|other| other.name == *name).unwrap() + 1;
    for mutation in &mutations {
        let chosen = [&mutation.name].into_iter().chain(&mutation.beside);
        let chosen: Vec<_> = chosen.map(|name| number(name).to_string()).collect();
        let caught = mutation.caught_by.iter().map(|(model, said)| (model, Some(said.as_str())));
        let missed = mutation.missed_by.iter().map(|model| (model, None));
        for (model, expected) in caught.chain(missed) {
            cases.push((chosen.join(" "), mutation, model, expected));
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (good, line) = judge(&program, &models, case);
                    println!("{line}");
                    if !good {
                        failures.lock().unwrap().push(line);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!(
        "{} mutations, {} runs, {} not as listed",
        mutations.len(),
        cases.len(),
        failures.len()
    );
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// With no mutation on, the copy's models hold as those of the sources do: it is the mutations that they catch.
#[test]
#[ignore = "as long as all models together: for whoever changes this file"]
fn without_a_mutation_every_model_holds() {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or(repository().join("target"), Into::into);
    let copy = target.join("mutants");
    write_copy(&copy);
    let program = build(&copy, &target.join("loom"));
    let output = Command::new(program).arg("loom").env(CHOSEN, "").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_mutation_fits_the_sources() {
    let changed = mutated_files().unwrap();
    assert!(changed["Cargo.toml"].contains("+mutants\""), "the copy is another package");
    let count = changed.values().map(|text| text.matches("if crate::sync::mutated(").count());
    assert_eq!(count.sum::<usize>(), mutations().len());
}

#[test]
fn every_model_catches_something() {
    let (models, mutations) = (models(), mutations());
    let known = |model: &String| models.contains_key(model);
    let caught =
        || mutations.iter().flat_map(|mutation| &mutation.caught_by).map(|(model, _)| model);
    let named = caught().chain(mutations.iter().flat_map(|mutation| &mutation.missed_by));
    assert_eq!(named.filter(|model| !known(model)).collect::<Vec<_>>(), [""; 0], "no such model");
    let caught: BTreeSet<_> = caught().collect();
    let idle: Vec<_> = models.keys().filter(|model| !caught.contains(model)).collect();
    assert_eq!(idle, [""; 0], "models with no mutation beside them");
    for mutation in &mutations {
        let named = !mutation.caught_by.is_empty() || !mutation.missed_by.is_empty();
        assert!(named, "{}: who is to catch it?", mutation.name);
        let explained = mutation.missed_by.is_empty() || !mutation.why.is_empty();
        assert!(explained, "{}: why does nobody catch it?", mutation.name);
    }
}

#[test]
fn every_mutation_is_listed_in_the_documentation() {
    let text = read("docs/reliability.md");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words(&text);
    let missing: Vec<_> = mutations()
        .into_iter()
        .map(|mutation| mutation.name)
        .filter(|name| !text.contains(&words(name)))
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_mutation_that_fits_nowhere_or_twice_is_refused() {
    let text = "fn a() {\n    one();\n    two(\n        1,\n    );\n    one();\n}\n\nfn b() {\n    one();\n}\n";
    let with = |function: &str, old: &str| {
        let (name, file) = ("m".into(), "f".into());
        let (caught_by, missed_by, why) = (Vec::new(), Vec::new(), String::new());
        let (function, old, new, beside) = (function.into(), old.into(), "three();".into(), None);
        let mutation =
            Mutation { name, file, function, old, new, beside, caught_by, missed_by, why };
        mutate(text, &[(1, &mutation)])
    };
    assert_eq!(with("a", "one();"), Err("m: stands there more than once".into()));
    assert_eq!(with("a", "four();"), Err("m: does not stand there".into()));
    assert_eq!(with("c", "one();"), Err("m: 0 functions are called c".into()));
    let mutated = with("a", "two(1,);").unwrap();
    let expected = "if crate::sync::mutated(1) { three(); } else { two(\n        1,\n    ); }";
    assert!(mutated.contains(expected), "{mutated}");
    assert_eq!(with("b", "one();").unwrap().matches("three").count(), 1);
}
