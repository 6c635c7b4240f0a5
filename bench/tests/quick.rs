//! The whole program, once and briefly: every load on ours and on a few systems of the kernel and the floors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Builds the daemon of the main workspace; returns its program.
fn ipcd() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ipcd");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "ipcd", "--target-dir"])
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "ipcd is built");
    target.join("debug/ipcd")
}

/// One at a time: each wants both cores.
static TURN: Mutex<()> = Mutex::new(());

fn bench(arguments: &[&str], ipcd: &Path, out: &Path) -> String {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .args(["--quick", "--ipcd"])
        .arg(ipcd)
        .arg("--out")
        .arg(out)
        .output()
        .expect("bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bench {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn check_figures(out: &Path) {
    let mut figures = 0;
    for entry in fs::read_dir(out).expect("a folder").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "svg") {
            let svg = fs::read_to_string(entry.path()).expect("a figure");
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{:?}", entry.path());
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{:?}", entry.path());
            figures += 1;
        }
    }
    assert!(figures > 0, "figures were drawn");
}

#[test]
fn every_load_works_on_ours_on_the_kernels_systems_and_on_the_floors() {
    let (ipcd, out) = (ipcd(), tempfile::tempdir().expect("a folder"));
    let systems = "ours,ours-single,ours-polling,pipe,seqpacket,line,futex,ring";
    let summary = bench(&["--systems", systems], &ipcd, out.path());
    let text = fs::read_to_string(out.path().join("bench.md")).expect("a report");
    let is_wrong =
        |line: &&str| ["failed:", "lost ", "corrupt "].iter().any(|word| line.contains(word));
    let wrong: Vec<_> = text.lines().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "the report says {wrong:#?}");
    let json = fs::read_to_string(out.path().join("bench.json")).expect("all samples");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    for load in json["loads"].as_array().expect("loads") {
        let name = load["name"].as_str().expect("a name");
        assert!(summary.contains(name), "the summary has {name}");
        let of_ours = |entry: &&Value| entry["load"] == name && entry["system"] == "ours";
        // A busy machine may move under a sample each time: then it is dropped aloud.
        let taken = json["samples"].as_array().expect("samples").iter().filter(of_ours).count();
        let missed = json["misses"].as_array().expect("misses").iter().filter(of_ours).count();
        assert_eq!(taken + missed, 1, "{name} was measured once on ours");
    }
    check_figures(out.path());
}

#[test]
fn what_grows_is_measured_and_drawn() {
    let (ipcd, out) = (ipcd(), tempfile::tempdir().expect("a folder"));
    let text = bench(&["scale", "--only", "lanes"], &ipcd, out.path());
    assert!(!text.contains("failed:"), "{text}");
    assert!(text.contains("| 1,000 |"), "{text}");
    check_figures(out.path());
}

#[test]
fn a_build_that_is_compared_with_itself_is_as_good_as_itself() {
    let (ipcd, out) = (ipcd(), tempfile::tempdir().expect("a folder"));
    let other = ipcd.to_string_lossy();
    let arguments = [
        ["compare", "--other", "itself", "--other-bench", env!("CARGO_BIN_EXE_bench")].as_slice(),
        &["--other-ipcd", &other, "--only", "call"],
    ];
    let text = bench(&arguments.concat(), &ipcd, out.path());
    assert!(text.contains("ours @itself") || text.contains("| ours |"), "{text}");
    let json = fs::read_to_string(out.path().join("compare.json")).expect("all samples");
    assert!(json.contains("ours@itself") && !json.contains("\"failed\""), "{json}");
}

#[test]
fn a_system_that_fails_is_shown_as_failed_and_the_others_go_on() {
    let (ipcd, out) = (ipcd(), tempfile::tempdir().expect("a folder"));
    // The kernel's limit does not let it hold a message of 1 MiB, unless somebody has raised that.
    bench(&["--systems", "mq,pipe", "--only", "stream 1 MiB"], &ipcd, out.path());
    let text = fs::read_to_string(out.path().join("bench.md")).expect("a report");
    assert!(text.contains("| pipe |"), "{text}");
    assert!(text.contains("| POSIX mq | -") || text.contains("| POSIX mq | 0"), "{text}");
}
