//! SIGKILL at any instruction: a process is stepped through one operation after the other and killed after each
//! number of steps; then the daemon mends what it left, and the others are held to what is promised.
//!
//! By default a sample of each operation's steps; `STEPS=all` kills after every one of them, `STEPS=n` after n
//! of them, `SEED=s` after the same as before. docs/reliability.md tells more.

#[path = "steps/answering.rs"]
mod answering;
#[path = "steps/copies.rs"]
mod copies;
#[path = "steps/fate.rs"]
mod fate;
#[path = "steps/opening.rs"]
mod opening;
#[path = "steps/receiving.rs"]
mod receiving;
#[path = "steps/route.rs"]
mod route;
#[path = "steps/scene.rs"]
mod scene;
#[path = "steps/sending.rs"]
mod sending;
#[path = "steps/shared.rs"]
mod shared;
#[path = "steps/sweep.rs"]
mod sweep;
#[path = "steps/victim.rs"]
mod victim;
#[path = "steps/waiting.rs"]
mod waiting;

use libipc::{Buffering, Receivers, SlowGroup};

use answering::{Calling, Rejecting, Replying};
use opening::{ClosingReceiver, OpeningReceiver};
use receiving::{Others, Receiving, ReceivingBatch, ReceivingLossy, Returning};
use sending::{Sending, TakingBack};
use sweep::sweep;
use waiting::{Choosing, Waiting};

#[test]
fn killed_at_any_instruction_of_a_send_it_has_sent_whole_or_not_at_all() {
    sweep(&Sending::new("send 8 bytes", "send:8", 1, &[1]));
    sweep(&Sending::new("send 1000 bytes", "send:1000", 1, &[1]));
    sweep(&Sending::new("send for the first time", "first_send:16", 0, &[1]));
    sweep(&Sending::new("reserve, commit", "reserve", 1, &[0, 1]));
}

#[test]
fn killed_at_any_instruction_of_a_batch_it_has_sent_the_first_of_it_whole() {
    sweep(&Sending::new("send a batch of 4", "send_batch:4", 1, &[4]));
    let others = sending::Others::MakeRoom(2);
    sweep(&Sending {
        others,
        ..Sending::new("send a batch, wait for room", "send_batch_in_full:3", 4, &[3])
    });
}

#[test]
fn killed_at_any_instruction_of_a_send_to_a_sleeper_it_leaves_nobody_asleep_over_a_message() {
    let others = sending::Others::Sleep;
    sweep(&Sending { others, ..Sending::new("send, wake a receiver", "send:16", 1, &[1]) });
}

#[test]
fn killed_at_any_instruction_of_a_send_that_waits_for_room_it_has_sent_whole_or_not_at_all() {
    let others = sending::Others::MakeRoom(1);
    sweep(&Sending { others, ..Sending::new("send, wait for room", "full_send", 4, &[1]) });
}

#[test]
fn killed_at_any_instruction_of_a_meeting_it_has_sent_whole_or_not_at_all() {
    let (buffering, others) = (Buffering::Rendezvous, sending::Others::MakeRoom(1));
    sweep(&Sending {
        buffering,
        others,
        ..Sending::new("send, wait for the acknowledgement", "meet", 0, &[1])
    });
}

#[test]
fn killed_at_any_instruction_of_taking_a_message_back_it_comes_once_or_not_at_all() {
    sweep(&TakingBack);
}

#[test]
fn killed_at_any_instruction_of_making_a_lane_it_loses_nothing_and_leaves_no_lane() {
    sweep(&Sending {
        buffering: Buffering::Unbounded,
        ..Sending::new("send, go on in a larger lane", "full_send", 4, &[1])
    });
    sweep(&Sending::new("set a priority, send", "send_at:3", 1, &[0, 1]));
}

#[test]
fn killed_at_any_instruction_of_a_receive_it_loses_nothing_and_what_it_had_is_marked() {
    sweep(&Receiving::new("receive, acknowledge", 1, 3, Others::Open));
    sweep(&Receiving::new("receive, acknowledge, 3 of a run", 3, 4, Others::Away));
    sweep(&Receiving {
        receivers: Receivers::Single,
        ..Receiving::new("receive, acknowledge, twice, single", 2, 3, Others::Away)
    });
    sweep(&Receiving {
        receivers: Receivers::Exclusive,
        ..Receiving::new("receive, acknowledge, in turn", 1, 3, Others::Open)
    });
}

#[test]
fn killed_at_any_instruction_of_returning_a_message_it_comes_again_once_and_marked() {
    sweep(&Returning { alone: false });
    sweep(&Returning { alone: true });
}

#[test]
fn killed_at_any_instruction_of_a_batch_it_loses_nothing_and_what_it_had_is_marked() {
    sweep(&ReceivingBatch { alone: false });
    sweep(&ReceivingBatch { alone: true });
}

#[test]
fn killed_at_any_instruction_of_taking_over_it_loses_nothing_and_the_mark_counts_on() {
    sweep(&Receiving::new("take over what was returned", 1, 3, Others::Offer));
    sweep(&Receiving::new("take over from the dead", 2, 3, Others::Die));
    sweep(&Receiving::new("put aside for what is urgent", 2, 3, Others::Urge));
}

#[test]
fn killed_at_any_instruction_of_a_receive_that_sleeps_it_leaves_nobody_asleep_over_a_message() {
    sweep(&Receiving::new("receive, sleep", 1, 0, Others::Send));
    sweep(&Receiving::new("receive, sleep, told of a new sender", 1, 0, Others::SendAnew));
    sweep(&Receiving::new("receive, sleep beside another", 1, 0, Others::SendAndSleep));
    let receivers = Receivers::Exclusive;
    sweep(&Receiving {
        receivers,
        ..Receiving::new("receive, sleep before the next in line", 1, 0, Others::SendAndSleep)
    });
}

#[test]
fn killed_at_any_instruction_of_making_room_it_leaves_no_sender_asleep_over_it() {
    sweep(&Receiving::new("acknowledge, wake a full sender", 1, 0, Others::WaitForRoom));
    sweep(&Receiving::new("acknowledge, wake who awaits that", 1, 0, Others::Meet));
}

#[test]
fn killed_at_any_instruction_of_a_send_into_groups_each_gets_it_whole_or_not_at_all() {
    let groups = &[("audit", SlowGroup::Block), ("ledger", SlowGroup::Block)];
    sweep(&Sending { groups, ..Sending::new("send into two groups", "send:16", 1, &[1]) });
    let groups = &[("ticker", SlowGroup::DropOldest)];
    sweep(&Sending {
        groups,
        ..Sending::new("send, have a slow group lose its oldest", "full_send", 4, &[1])
    });
}

#[test]
fn killed_at_any_instruction_of_a_receive_in_a_group_that_may_lose_nothing_comes_twice() {
    sweep(&ReceivingLossy);
}

#[test]
fn killed_at_any_instruction_of_a_rejection_it_is_a_dead_letter_once_or_comes_again() {
    sweep(&Rejecting);
}

#[test]
fn killed_at_any_instruction_of_a_call_it_is_answered_by_one_of_those_left_or_was_never_sent() {
    sweep(&Calling { again: false });
    sweep(&Calling { again: true });
    sweep(&Replying);
}

#[test]
fn killed_at_any_instruction_of_waiting_on_many_it_leaves_nobody_asleep_over_a_message() {
    sweep(&Waiting::Set);
    sweep(&Waiting::Descriptor);
}

#[test]
fn killed_at_any_instruction_of_receiving_from_a_named_one_it_loses_nothing_of_the_others() {
    sweep(&Choosing::AsideOthers);
    sweep(&Choosing::Asleep);
}

#[test]
fn stopped_at_any_instruction_of_a_receive_it_and_a_competitor_get_each_message_once() {
    sweep(&Receiving::new("receive, others take all meanwhile", 1, 3, Others::Compete));
    sweep(&Receiving::new(
        "receive, others take one meanwhile (not killed)",
        1,
        3,
        Others::CompeteAndSpare,
    ));
}

#[test]
fn stopped_at_any_instruction_of_a_send_it_keeps_nobody_and_sends_whole() {
    let others = sending::Others::Spare;
    sweep(&Sending {
        others,
        ..Sending::new("send 1000 bytes (not killed)", "send:1000", 1, &[1])
    });
    sweep(&Sending {
        others,
        ..Sending::new("send a batch of 4 (not killed)", "send_batch:4", 1, &[4])
    });
}

#[test]
fn killed_at_any_instruction_of_coming_it_leaves_nothing_behind() {
    sweep(&Sending::new("connect", "connect", 0, &[0]));
    sweep(&Sending::new("open to send, send", "open_sender", 0, &[0, 1]));
    sweep(&OpeningReceiver);
}

#[test]
fn killed_at_any_instruction_of_going_it_leaves_nothing_behind() {
    sweep(&Sending::new("close what sends", "close_sender", 1, &[0]));
    sweep(&ClosingReceiver);
}
