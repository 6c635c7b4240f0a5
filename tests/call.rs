//! Request and reply.

use std::time::{Duration, Instant};

use libipc::{
    CallError, MailboxOptions, ReplyError, Role, SendError, Ticket, TicketState, TryReceiveError,
    WaitSet,
};
use tests::{Child, TestDaemon, UIDS, patience, skip_unless_root, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

fn server(daemon: &TestDaemon) -> Child {
    let mut child = daemon.child();
    child.done("receiver orders");
    child
}

#[test]
fn a_call_gets_the_answer_to_it_from_whom_the_kernel_attests() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut child = server(&daemon);
    let mut caller = client.sender("orders").unwrap();
    for number in 0..200u32 {
        child.tell("answer");
        let request = number.to_le_bytes();
        let reply = caller.call_deadline(&request, patience()).unwrap();
        assert_eq!(reply.bytes(), [b"re: ", &request[..]].concat());
        assert_eq!(reply.server().pid, child.pid());
        assert_eq!(child.answer(), format!("ok answered {}", std::process::id()));
    }
    let members = client.show("orders").unwrap().members;
    assert_eq!(members.iter().filter(|member| member.role == Role::Send).count(), 1);
}

#[test]
fn a_call_across_uids_needs_no_more_than_the_mailboxs_own_mode() {
    if skip_unless_root("a_call_across_uids") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let owner = small().owner(Some(UIDS[0]), None).mode(0o602);
    client.create("orders", &owner).unwrap();
    let mut server = daemon.child_as(UIDS[0]);
    server.done("receiver orders");
    let mut caller = daemon.child_as(UIDS[1]);
    caller.done("sender orders");
    server.tell("answer");
    assert_eq!(caller.done("call tea"), "re: tea");
    assert_eq!(server.answer(), format!("ok answered {}", caller.pid()));
    server.tell("answer");
    assert_eq!(caller.done("call more tea"), "re: more tea");
    assert!(server.answer().starts_with("ok"));
}

#[test]
fn a_call_whose_server_is_killed_ends_at_once() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    for answered_before in [false, true] {
        let mut child = server(&daemon);
        let mut caller = client.sender("orders").unwrap();
        if answered_before {
            child.tell("answer");
            assert_eq!(caller.call(b"first").unwrap().bytes(), b"re: first");
            assert!(child.answer().starts_with("ok"));
        }
        child.tell("hold");
        let called = std::thread::spawn(move || caller.call_deadline(b"second", patience()));
        assert!(child.answer().contains("second"));
        child.kill();
        let error = called.join().unwrap().unwrap_err();
        assert!(matches!(error, CallError::ServerGone), "{error:?}");
        // What it had in hand the next server gets.
        let mut next = client.receiver("orders").unwrap();
        let delivery = next.receive_deadline(patience()).unwrap();
        assert_eq!((delivery.bytes(), delivery.attempts()), (&b"second"[..], 1));
        assert!(delivery.is_call());
        assert!(matches!(delivery.reply(b"too late"), Err(ReplyError::CallerGone)));
        assert!(matches!(next.try_receive(), Err(TryReceiveError::Empty)));
    }
}

#[test]
fn of_two_servers_the_second_answers_what_the_first_died_over() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut first = server(&daemon);
    first.tell("hold");
    let mut caller = client.sender("orders").unwrap();
    let called = std::thread::spawn(move || caller.call_deadline(b"tea", patience()));
    assert!(first.answer().contains("tea"));
    let mut second = server(&daemon);
    second.tell("answer");
    first.kill();
    assert_eq!(called.join().unwrap().unwrap().bytes(), b"re: tea");
    assert!(second.answer().starts_with("ok"));
}

#[test]
fn a_call_that_is_acknowledged_without_an_answer_ends_at_once() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let mut child = server(&daemon);
    child.tell("receive");
    let mut caller = daemon.child();
    caller.done("sender orders");
    // Without a deadline: at that it would be told all the same.
    caller.tell("call tea");
    assert_eq!(caller.answer(), "error NotAnswered");
    assert!(child.answer().contains("tea"));
}

#[test]
fn an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_call() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut caller = client.sender("orders").unwrap();
    let (given_up, too_late) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let late = receiver.receive_deadline(patience()).unwrap();
            too_late.recv_timeout(Duration::from_secs(60)).unwrap();
            late.reply(b"too late").unwrap();
            receiver.receive_deadline(patience()).unwrap().reply(b"in time").unwrap();
        });
        loop {
            let soon = Instant::now() + Duration::from_millis(20);
            match caller.call_deadline(b"slow", soon).unwrap_err() {
                CallError::TimedOut => {}
                CallError::InHand(_) => break,
                other => panic!("{other:?}"),
            }
        }
        given_up.send(()).unwrap();
        assert_eq!(caller.call_deadline(b"next", patience()).unwrap().bytes(), b"in time");
    });
}

#[test]
fn a_call_that_nobody_takes_is_withdrawn_at_its_deadline_and_one_in_hand_is_not() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let soon = || Instant::now() + Duration::from_millis(20);
    let mut caller = client.sender("orders").unwrap();
    let error = caller.call_deadline(b"to nobody", soon()).unwrap_err();
    assert!(matches!(error, CallError::TimedOut), "{error:?}");
    let mut child = server(&daemon);
    child.tell("hold");
    let error = loop {
        match caller.call_deadline(b"held", soon()).unwrap_err() {
            CallError::TimedOut => {}
            other => break other,
        }
    };
    let CallError::InHand(ticket) = error else { panic!("{error:?}") };
    assert!(child.answer().contains("held"), "what was withdrawn is never received");
    assert_eq!(ticket.state().unwrap(), TicketState::InHand);
    child.done("ack");
    assert_eq!(ticket.wait_deadline(patience()).unwrap(), TicketState::Done);
    child.tell("answer");
    assert_eq!(caller.call_deadline(b"next", patience()).unwrap().bytes(), b"re: next");
}

#[test]
fn an_answer_to_a_caller_that_is_gone_is_an_error_and_leaves_nothing_behind() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let before = daemon.status(&client).mailboxes;
    for answered_before in [false, true] {
        let mut caller = daemon.child();
        caller.done("sender orders");
        if answered_before {
            caller.tell("call first");
            receiver.receive_deadline(patience()).unwrap().reply(b"one").unwrap();
            assert_eq!(caller.answer(), "ok one");
        }
        caller.tell("call second");
        let delivery = receiver.receive_deadline(patience()).unwrap();
        let pid = delivery.sender().pid;
        assert_eq!(pid, caller.pid());
        caller.kill();
        wait_until("its end is known", || daemon.status(&client).mailboxes == before);
        let error = delivery.reply(b"two").unwrap_err();
        assert!(matches!(error, ReplyError::CallerGone), "{error:?}");
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    }
    wait_until("its lanes are gone, too", || {
        let _ = receiver.try_receive();
        client.show("orders").unwrap().members.len() == 1
    });
}

#[test]
fn a_message_that_is_no_call_cannot_be_answered_and_comes_again() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    client.sender("orders").unwrap().send(b"no question").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert!(!delivery.is_call());
    assert!(matches!(delivery.reply(b"?"), Err(ReplyError::NotACall)));
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"no question");
}

#[test]
fn deleting_a_mailbox_ends_its_calls() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut caller = client.sender("orders").unwrap();
    let called = std::thread::spawn(move || {
        let error = caller.call_deadline(b"tea", patience()).unwrap_err();
        (error, caller.call(b"more").unwrap_err())
    });
    wait_until("it is called", || client.list().unwrap().iter().any(|m| m.queued_messages == 1));
    client.delete("orders").unwrap();
    let (first, second) = called.join().unwrap();
    assert!(matches!(first, CallError::Deleted), "{first:?}");
    assert!(matches!(second, CallError::NotSent(SendError::Deleted)), "{second:?}");
}

#[test]
fn a_set_waits_for_tickets_beside_mailboxes() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.create("replies", &small()).unwrap();
    let mut replies = client.receiver("replies").unwrap();
    let mut sender = client.sender("orders").unwrap();
    let mut ticket: Ticket = sender.send_tracked(b"tea").unwrap();
    let mut set = WaitSet::new();
    assert!(set.look(&mut [&mut replies, &mut ticket]).is_empty());
    let mut child = server(&daemon);
    let waits = std::thread::spawn(move || {
        let mut set = WaitSet::new();
        set.set_spin_max(Duration::ZERO);
        let ready = set.wait_deadline(&mut [&mut replies, &mut ticket], patience());
        assert_eq!(ready.unwrap(), [1]);
        ticket.state().unwrap()
    });
    assert!(child.got("receive").text == "tea");
    assert_eq!(waits.join().unwrap(), TicketState::Done);
}
