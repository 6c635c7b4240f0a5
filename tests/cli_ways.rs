//! Every way of message passing, from the command line.

use tests::shell::Shell;

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
