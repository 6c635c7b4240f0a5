//! `ipcctl` as it is typed: what it prints, what it does, and how it ends.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::shell::{Shell, ipcctl, run};
use tests::{UIDS, program, skip_unless_root, wait_until};

#[test]
fn the_commands_of_the_manual_do_what_it_says() {
    let shell = Shell::new();
    shell.does("create orders --capacity 1MiB --mode 0622");
    shell.does("send orders text");
    let ran = shell.run("send orders --lines", "one\ntwo\n\nfour");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(shell.does("peek orders --count 2"), "text\none\n");
    assert_eq!(shell.does("receive orders --count 3 --timeout 2s"), "text\none\ntwo\n");
    assert_eq!(shell.does("receive orders --count 2 --timeout 2s"), "\nfour\n");
    let list: Value = serde_json::from_str(&shell.does("list --json")).expect("JSON");
    assert_eq!(list["mailboxes"][0]["name"], "orders");
    assert_eq!(list["mailboxes"][0]["mode"], "0622");
    assert_eq!(list["mailboxes"][0]["capacity_bytes"], 1 << 20);
    assert!(shell.does("list").contains("orders"));
    shell.does("delete orders");
    assert!(!shell.does("list").contains("orders"));
}

#[test]
fn input_comes_whole_from_stdin_or_a_file_or_line_by_line() {
    let shell = Shell::new();
    shell.does("create orders");
    let ran = shell.run("send orders", "all of it\nin one");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(shell.does("receive orders --raw"), "all of it\nin one");
    let file = shell.daemon.folder().join("file");
    std::fs::write(&file, "a\nb\n").expect("a file");
    shell.does(&format!("send orders --file {}", file.display()));
    shell.does(&format!("send orders --lines --file {}", file.display()));
    assert_eq!(shell.does("receive orders --raw --count 3"), "a\nb\nab");
    let said = shell.ends("send orders --file /no/such/file", 1);
    assert!(said.contains("/no/such/file"), "{said}");
}

#[test]
fn a_closed_mailbox_refuses_sends_drains_and_opens_again() {
    let shell = Shell::new();
    shell.does("create orders");
    shell.does("send orders before");
    shell.does("close orders");
    let said = shell.ends("send orders after", 1);
    assert!(said.contains("ipcctl open"), "it says what to do: {said}");
    assert_eq!(shell.does("receive orders --follow"), "before\n");
    shell.does("open orders");
    shell.does("send orders after");
    shell.does("send orders more");
    let purged: Value = serde_json::from_str(&shell.does("purge orders --json")).expect("JSON");
    assert_eq!((&purged["done"], &purged["messages"]), (&"purged".into(), &2.into()));
    shell.ends("receive orders --timeout 10ms", 5);
}

#[test]
fn every_exit_code_is_what_the_help_says() {
    let shell = Shell::new();
    shell.does("create orders --capacity 4KiB");
    let said = shell.ends("create orders", 1);
    assert!(said.contains("exists already"), "{said}");
    for usage in ["", "receive", "no-such-verb", "create -bad-", "create x --capacity 3", "send"] {
        shell.ends(usage, 2);
    }
    let mut nobody = ipcctl();
    nobody.args(["list", "--socket", "/nonexistent/ipcd.sock"]);
    let ran = run(nobody, "");
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("/nonexistent/ipcd.sock"), "{}", ran.stderr);
    shell.ends("receive orders --timeout 10ms", 5);
    for verb in ["send", "receive", "delete", "show", "open", "close", "peek", "purge"] {
        let text = if verb == "send" { "text" } else { "" };
        let said = shell.ends(&format!("{verb} missing {text}"), 6);
        assert!(said.contains("missing"), "{said}");
    }
    let filled = shell.run("send orders --lines --timeout 10ms", &"sixteen.bytes...\n".repeat(200));
    assert_eq!(filled.code, Some(5), "{}", filled.stderr);
    let help = shell.does("--help");
    for code in 0..=8 {
        assert!(help.contains(&format!("\n  {code}  ")), "{help}");
    }
}

#[test]
fn permission_denied_has_its_own_exit_code() {
    if skip_unless_root("a user of another uid") {
        return;
    }
    let shell = Shell::new();
    shell.does(&format!("create theirs --owner {} --mode 0622", UIDS[0]));
    let copy = shell.daemon.folder().join("ipcctl");
    let copied = Command::new("cp").arg(program("ipcctl")).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    let as_stranger = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command.env_clear().args(arguments).arg("--socket").arg(shell.daemon.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run(
            {
                command.uid(UIDS[1]).gid(UIDS[1]).current_dir("/");
                command
            },
            "",
        )
    };
    for denied in [&["receive", "theirs"][..], &["delete", "theirs"], &["close", "theirs"]] {
        let ran = as_stranger(denied);
        assert_eq!(ran.code, Some(4), "{denied:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(&UIDS[1].to_string()), "{}", ran.stderr);
    }
    assert_eq!(as_stranger(&["send", "theirs", "allowed"]).code, Some(0));
}

#[test]
fn json_has_the_documented_shapes() {
    let shell = Shell::new();
    let created = &shell.run("create orders --json", "").json()[0];
    assert_eq!(*created, serde_json::json!({"mailbox": "orders", "done": "created"}));
    let sent = &shell.run("send orders text --json", "").json()[0];
    let expected =
        serde_json::json!({"mailbox": "orders", "done": "sent", "messages": 1, "bytes": 4});
    assert_eq!(*sent, expected);
    let shown = &shell.run("show orders --json", "").json()[0];
    for field in ["name", "id", "open", "owner", "mode", "capacity_bytes", "message_bytes_max"] {
        assert!(!shown[field].is_null(), "{field} of {shown}");
    }
    assert!(shown["members"].is_array() && shown["reserved_bytes"].is_u64(), "{shown}");
    let peeked = &shell.run("peek orders --json", "").json()[0];
    assert_eq!(peeked["text"], "text");
    let received = &shell.run("receive orders --json", "").json()[0];
    let uid = nix::unistd::geteuid().as_raw();
    assert_eq!(received["sender"]["uid"], uid);
    assert!(received["sender"]["pid"].is_u64(), "{received}");
    assert_eq!((&received["length"], &received["attempts"]), (&4.into(), &0.into()));
    let deleted = &shell.run("delete orders --json", "").json()[0];
    assert_eq!((&deleted["done"], &deleted["messages"]), (&"deleted".into(), &0.into()));
}

#[test]
fn receive_follows_until_the_mailbox_is_closed() {
    let shell = Shell::new();
    shell.does("create orders");
    let mut follower = shell.command("receive orders --follow").spawn().expect("ipcctl starts");
    let client = shell.daemon.client();
    wait_until("it receives", || client.show("orders").is_ok_and(|m| m.summary.receivers == 1));
    for text in ["one", "two", "three"] {
        shell.does(&format!("send orders {text}"));
    }
    shell.does("close orders");
    drop(follower.stdin.take());
    let output = follower.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\nthree\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_loses_no_message_unseen() {
    let shell = Shell::new();
    shell.does("create orders");
    let lines = "a line of some length\n".repeat(5000);
    assert_eq!(shell.run("send orders --lines --timeout 60s", &lines).code, Some(0));
    let mut child = shell.command("receive orders --count 5000").spawn().expect("ipcctl starts");
    drop(child.stdin.take());
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let left = shell.run("list --json", "").json()[0]["mailboxes"][0]["queued_messages"].as_u64();
    assert!(left.is_some_and(|left| left > 0), "what nobody reads stays: {left:?}");
}

#[test]
fn man_pages_and_completions_come_from_the_definition() {
    let shell = Shell::new();
    let folder = shell.daemon.folder().join("generated");
    std::fs::create_dir(&folder).expect("a folder");
    shell.does(&format!("generate man {}", folder.display()));
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a man page");
    assert!(page("ipcctl.1").contains("permission denied"), "the exit codes are in it");
    for verb in ["create", "open", "close", "delete", "list", "show", "send", "receive", "doctor"] {
        assert!(page(&format!("ipcctl-{verb}.1")).contains(".TH"), "{verb}");
    }
    for shell_name in ["bash", "zsh", "fish"] {
        shell.does(&format!("generate completions {shell_name} {}", folder.display()));
    }
    let files = std::fs::read_dir(&folder).expect("a folder").count();
    assert!(files > 12, "{files} files");
}

#[test]
fn names_and_messages_that_others_wrote_do_not_reach_a_terminal_raw() {
    let shell = Shell::new();
    let said = shell.ends("create new\u{1b}[31mline", 2);
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn doctor_says_what_is_well_and_what_to_do_where_it_is_not() {
    let shell = Shell::new();
    let report: Value = serde_json::from_str(&shell.run("doctor --json", "").stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    assert!(!checks.is_empty());
    for check in checks {
        assert!(check["check"].is_string() && check["found"].is_string(), "{check}");
        let ok = check["state"] == "ok";
        assert!(ok || check["advice"].is_string(), "a finding has an advice: {check}");
    }
    assert_eq!(report["failed"], false, "{report}");
    let mut nobody = ipcctl();
    nobody.args(["doctor", "--socket", "/nonexistent/ipcd.sock"]);
    let ran = run(nobody, "");
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
}
