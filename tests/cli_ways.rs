//! Every way of message passing, from the command line.

use libipc::{Client, MailboxOptions};
use serde_json::json;
use tests::shell::Shell;
use tests::wait_until;

/// How many have a mailbox open to receive.
fn receivers(client: &Client, mailbox: &str) -> u32 {
    client.show(mailbox).expect("a mailbox").summary.receivers
}

#[test]
fn every_attribute_can_be_set_and_is_shown() {
    let shell = Shell::new();
    shell.does("create plain");
    shell.does(
        "create all --buffering unbounded --receivers exclusive --order arrival --lifetime system",
    );
    shell.does("create link --receivers single --buffering rendezvous");
    let shown = |name: &str| shell.run(&format!("show {name} --json"), "").json().remove(0);
    let plain = shown("plain");
    for (attribute, word) in [
        ("buffering", "bounded"),
        ("who_receives", "any"),
        ("order", "sender"),
        ("lifetime", "system"),
    ] {
        assert_eq!(plain[attribute], word, "{plain}");
    }
    let all = shown("all");
    assert_eq!(all["buffering"], "unbounded");
    assert_eq!(all["who_receives"], "exclusive");
    assert_eq!(all["order"], "arrival");
    let link = shown("link");
    assert_eq!((&link["who_receives"], &link["receivers_max"]), (&"single".into(), &1.into()));
    let text = shell.does("show all");
    for word in ["unbounded", "exclusive", "arrival", "system"] {
        assert!(text.contains(word), "{text}");
    }
    let list = shell.does("list");
    for kind in ["plain", "unbounded,exclusive,arrival", "rendezvous,single"] {
        assert!(list.contains(kind), "{list}");
    }
    let listed = &shell.run("list --json", "").json()[0]["mailboxes"];
    assert_eq!(listed[0]["buffering"], "unbounded", "{listed}");
}

#[test]
fn what_does_not_go_together_is_refused_and_says_why() {
    let shell = Shell::new();
    for (flags, why) in [
        ("--receivers single --max-receivers 2", "one receiver"),
        ("--receivers single --group audit", "one receiver"),
        ("--buffering rendezvous --group audit:drop-oldest", "every group"),
        ("--buffering unbounded --group audit:drop-oldest", "never full"),
        ("--group audit --group audit:drop-oldest", "same name"),
        (
            "--group a --group b --group c --group d --group e --group f --group g --group h --group i",
            "0 to 8",
        ),
        ("--lifetime process", "as soon as ipcctl has ended"),
        ("--lifetime week", "system, process"),
        ("--owner process", "--lifetime"),
        ("--buffering lazy", "rendezvous"),
        ("--receivers some", "exclusive"),
        ("--order chaos", "arrival"),
        ("--group audit:sometimes", "drop-oldest"),
        ("--group .audit", "begin with"),
    ] {
        let said = shell.ends(&format!("create orders {flags}"), 2);
        assert!(said.contains(why), "create orders {flags}: {said}");
    }
    assert_eq!(shell.does("list"), "", "nothing was created");
}

#[test]
fn each_group_gets_every_message_and_is_shown_with_what_it_lost() {
    let shell = Shell::new();
    shell.does("create prices --capacity 4KiB --group audit --group screen:drop-oldest");
    shell.does("send prices 100");
    shell.does("send prices 101");
    assert_eq!(shell.does("peek prices --group audit"), "100\n101\n");
    assert_eq!(shell.does("receive prices --group audit --count 2"), "100\n101\n");
    let groups = |shell: &Shell| shell.run("show prices --json", "").json()[0]["groups"].clone();
    let shown = groups(&shell);
    let names = [&shown[0]["name"], &shown[1]["name"]];
    assert_eq!(names, ["audit", "screen"], "{shown}");
    assert_eq!([&shown[0]["slow"], &shown[1]["slow"]], ["block", "drop-oldest"]);
    assert_eq!([&shown[0]["queued_messages"], &shown[1]["queued_messages"]], [0, 2], "{shown}");
    shell.does("send prices 102");
    let purged = shell.run("purge prices --group audit --json", "").json().remove(0);
    assert_eq!(purged["messages"], 1, "{purged}");
    shell.does("create news --capacity 4KiB --group screen:drop-oldest");
    let lines = "a line of some length, sixty-four bytes of it with the header\n".repeat(80);
    assert_eq!(shell.run("send news --lines --timeout 60s", &lines).code, Some(0));
    let shown = shell.run("show news --json", "").json().remove(0);
    let dropped = shown["groups"][0]["dropped_messages"].as_u64().expect("a number");
    assert!(dropped > 0, "a lane of 4 KiB does not hold 80 lines: {shown}");
    let text = shell.does("show news");
    assert!(text.contains("drop-oldest") && text.contains(&dropped.to_string()), "{text}");
    for verb in ["receive", "peek", "purge"] {
        let said = shell.ends(&format!("{verb} prices --group staff"), 2);
        assert!(said.contains("audit"), "it names those that there are: {said}");
    }
    for verb in ["receive", "purge"] {
        let said = shell.ends(&format!("{verb} prices"), 2);
        assert!(said.contains("audit"), "a group must be named: {said}");
    }
}

#[test]
fn a_higher_priority_is_received_first_and_shown() {
    let shell = Shell::new();
    shell.does("create ward");
    shell.does("send ward cold");
    shell.does("send ward heart --priority 20");
    let shown = shell.run("show ward --json", "").json().remove(0);
    let priorities: Vec<_> = shown["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|m| m["priority"].clone())
        .collect();
    assert!(priorities.contains(&json!(20)), "{shown}");
    assert!(shell.does("show ward").contains("of priority 20"));
    assert_eq!(shell.does("receive ward --count 2"), "heart\ncold\n");
    shell.ends("send ward text --priority 32", 2);
}

#[test]
fn what_one_process_sends_can_be_received_alone() {
    let shell = Shell::new();
    shell.does("create orders");
    shell.does("send orders first");
    let sender = shell.command("send orders second").spawn().expect("ipcctl starts");
    let pid = sender.id();
    assert!(sender.wait_with_output().expect("our child").status.success());
    assert_eq!(shell.does(&format!("receive orders --from {pid}")), "second\n");
    let said = shell.ends(&format!("receive orders --from {pid} --timeout 10ms"), 5);
    assert!(said.contains("no message came"), "it may still come: {said}");
    let said = shell.ends("receive orders --from nobody", 7);
    assert!(said.contains("nobody"), "{said}");
    assert_eq!(shell.does("receive orders"), "first\n");
}

#[test]
fn processes_are_reached_by_name_and_by_process_id() {
    let shell = Shell::new();
    let client = shell.daemon.client();
    let mut inbox = client.register(Some("printer"), &MailboxOptions::new()).expect("an inbox");
    assert!(shell.does("list").contains("process/printer"));
    let listed = shell.run("list --json", "").json()[0]["mailboxes"][0].clone();
    assert_eq!(
        (&listed["name"], &listed["lifetime"]),
        (&json!("process/printer"), &json!("process"))
    );
    shell.does("send --to printer a-page");
    assert_eq!(inbox.receive().expect("a page").into_bytes(), b"a-page");
    let us = std::process::id();
    let sent = shell.run(&format!("send --to {us} --lines --json"), "one\ntwo\n").json().remove(0);
    assert_eq!(sent, json!({"process": us.to_string(), "done": "sent", "messages": 2, "bytes": 6}));
    assert_eq!(inbox.receive().expect("a line").into_bytes(), b"one");
    let said = shell.ends("send --to plotter a-page", 7);
    assert!(said.contains("plotter"), "{said}");
    let said = shell.ends("receive process/printer", 4);
    assert!(said.contains("owns"), "only the owner receives: {said}");
    for (line, why) in [
        ("send --to printer orders text", "--to says who receives"),
        ("send --to printer text --lines", "no use"),
        ("send --to printer text --priority 3", "--priority"),
        ("send", "<NAME>"),
        ("send .hidden text", "begin with"),
    ] {
        let said = shell.ends(line, 2);
        assert!(said.contains(why), "{line}: {said}");
    }
}

#[test]
fn a_mailbox_is_deleted_once_it_is_drained() {
    let shell = Shell::new();
    shell.does("create orders");
    shell.does("send orders last");
    let draining = shell.run("delete orders --drain --json", "").json().remove(0);
    assert_eq!(draining, json!({"mailbox": "orders", "done": "draining", "messages": 1}));
    let said = shell.ends("send orders more", 1);
    assert!(said.contains("closed"), "{said}");
    assert_eq!(shell.does("receive orders"), "last\n");
    wait_until("it is gone", || shell.run("show orders", "").code == Some(6));
    shell.does("create empty");
    let deleted = shell.run("delete empty --drain --json", "").json().remove(0);
    assert_eq!(deleted, json!({"mailbox": "empty", "done": "deleted", "messages": 0}));
    shell.ends("show empty", 6);
}

#[test]
fn a_link_of_two_refuses_a_third() {
    let shell = Shell::new();
    shell.does("create link --receivers single");
    let mut receiver = shell.command("receive link --follow").spawn().expect("ipcctl starts");
    let client = shell.daemon.client();
    wait_until("it receives", || receivers(&client, "link") == 1);
    let said = shell.ends("receive link", 1);
    assert!(said.contains("link"), "{said}");
    let _sender = client.sender("link").expect("the one sender");
    let said = shell.ends("send link text", 1);
    assert!(said.contains(&std::process::id().to_string()), "it says who sends: {said}");
    shell.does("close link");
    assert!(receiver.wait().expect("our child").success());
}

#[test]
fn a_synchronous_send_says_truly_how_it_ended() {
    let shell = Shell::new();
    shell.does("create hatch --buffering rendezvous");
    shell.does("create plain");
    for line in ["send hatch soup --timeout 10ms", "send plain soup --sync --timeout 10ms"] {
        shell.ends(line, 5);
    }
    let client = shell.daemon.client();
    for mailbox in ["hatch", "plain"] {
        let sync = if mailbox == "plain" { "--sync" } else { "" };
        let sender = shell.command(&format!("send {mailbox} stew {sync}")).spawn();
        assert_eq!(shell.does(&format!("receive {mailbox}")), "stew\n", "what timed out is gone");
        assert!(sender.expect("ipcctl starts").wait().expect("our child").success());

        let mut receiver = client.receiver(mailbox).expect("a receiver");
        let mut in_hand = shell.command(&format!("send {mailbox} cake {sync} --timeout 3s"));
        let in_hand = in_hand.spawn().expect("ipcctl starts");
        let cake = receiver.receive().expect("the cake");
        let ended = in_hand.wait_with_output().expect("our child");
        assert_eq!(ended.status.code(), Some(8), "{mailbox}");
        cake.acknowledge();
    }
}

#[test]
fn a_call_prints_the_reply_and_says_how_it_ended_without_one() {
    let shell = Shell::new();
    shell.does("create sums");
    shell.ends("call sums 1+1 --timeout 10ms", 5);
    let server = shell.command("receive sums --reply two").spawn().expect("ipcctl starts");
    let pid = server.id();
    let reply = shell.run("call sums 1+1 --json", "").json().remove(0);
    assert_eq!((&reply["text"], &reply["server"]["pid"]), (&json!("two"), &json!(pid)), "{reply}");
    let served = server.wait_with_output().expect("our child");
    assert_eq!(String::from_utf8_lossy(&served.stdout), "1+1\n", "what timed out is gone");

    shell.does("send sums plain");
    assert_eq!(shell.does("receive sums --reply unasked"), "plain\n", "a message needs no reply");

    let client = shell.daemon.client();
    let mut careless = client.receiver("sums").expect("a receiver");
    let caller = shell.command("call sums 1+1").spawn().expect("ipcctl starts");
    let call = careless.receive().expect("the call");
    assert!(call.is_call());
    drop(call.into_bytes());
    let ended = caller.wait_with_output().expect("our child");
    assert_eq!(ended.status.code(), Some(1), "it was acknowledged without a reply");
    let caller = shell.command("call sums 1+1 --timeout 3s").spawn().expect("ipcctl starts");
    let in_hand = careless.receive().expect("the call");
    let ended = caller.wait_with_output().expect("our child");
    assert_eq!(ended.status.code(), Some(8));
    in_hand.acknowledge();
    shell.ends("call missing 1+1", 6);
}

#[test]
fn a_tracked_send_tells_what_becomes_of_the_message() {
    let shell = Shell::new();
    shell.does("create orders");
    let ran = shell.run("send orders tea --tracked --timeout 10ms", "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), "queued\n"), "{}", ran.stderr);
    assert_eq!(shell.does("receive orders"), "tea\n", "it stays where it is");
    let sender = shell.command("send orders tea --tracked --json").spawn().expect("ipcctl starts");
    let mut receiver = shell.daemon.client().receiver("orders").expect("a receiver");
    receiver.receive().expect("tea").acknowledge();
    let told = sender.wait_with_output().expect("our child");
    let told = String::from_utf8_lossy(&told.stdout);
    let lines: Vec<_> = told.lines().collect();
    let done = lines.iter().position(|line| *line == r#"{"state":"done"}"#);
    assert_eq!(done, Some(lines.len() - 2), "the last state, then what was done: {told}");
    let lost = shell.command("send orders tea --tracked").spawn().expect("ipcctl starts");
    let client = shell.daemon.client();
    drop(receiver);
    wait_until("it is queued", || {
        client.show("orders").is_ok_and(|m| m.summary.queued_messages == 1)
    });
    shell.does("delete orders");
    let lost = lost.wait_with_output().expect("our child");
    assert_eq!(lost.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&lost.stdout).ends_with("lost with its mailbox\n"));
}
