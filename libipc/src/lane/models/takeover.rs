//! A receiver dies while it takes over what another one has returned, and that one goes on meanwhile.

use super::{Killed, Mailbox, drain, explore};
#[cfg(not(loom))]
use crate::lane::layout::Hold;
#[cfg(not(loom))]
use crate::lane::position::Position;
use crate::lane::repair::{lane_is_drained, mend_slot};
#[cfg(not(loom))]
use crate::lane::takeover::offers_something;
#[cfg(not(loom))]
use crate::sync::Ordering::Relaxed;
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

/// Dies at a step of its takeover of what is offered; behind the last step it does not.
fn die_while_taking_over(mailbox: &Mailbox, slot: u16, step: u32) {
    let mut claimant = mailbox.claimant_over(mailbox.model.deadly(step), slot, false);
    let life = std::panic::AssertUnwindSafe(|| assert!(claimant.take_over()));
    if let Err(cause) = std::panic::catch_unwind(life)
        && !cause.is::<Killed>()
    {
        std::panic::resume_unwind(cause);
    }
}

/// Whose slot is being taken over from claims the next record as soon as it can, and returns that too, while the
/// daemon mends what the dead one has left: nothing is lost, doubled, or left where nobody takes it over.
#[test]
fn loom_a_death_inside_a_takeover_beside_its_owner_loses_and_doubles_nothing() {
    for step in 1..=4 {
        explore(2, move || {
            let mailbox = Mailbox::new(3, 8);
            let mut writer = mailbox.writer();
            mailbox.send(&mut writer, 1);
            mailbox.send(&mut writer, 2);
            let mut owner = mailbox.claimant(0, false);
            assert_eq!(mailbox.take(&mut owner), Some(1));
            owner.return_to_queue();
            die_while_taking_over(&mailbox, 1, step);
            let daemon = mailbox.clone();
            let repair = thread::spawn(move || mend_slot(&daemon.cursors, 1));
            if mailbox.take(&mut owner).is_some() {
                owner.return_to_queue();
            }
            repair.join().unwrap();
            let mut got = drain(&mailbox, &mut mailbox.claimant(2, false));
            got.sort_unstable();
            assert_eq!(got, [1, 2], "death at step {step}");
            assert!(owner.has_free_hands(), "what it returned is stuck in its slot");
            assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
        });
    }
}

/// What a receiver alleges to offer and cannot have had is nothing for which anybody would stay awake.
#[test]
#[cfg(not(loom))]
fn an_offer_that_cannot_be_true_is_nothing_to_take() {
    let mailbox = Mailbox::new(2, 8);
    let mut writer = mailbox.writer();
    mailbox.send(&mut writer, 1);
    mailbox.roster.lanes[0].capacity_bytes.store(8 * 16, Relaxed);
    let mut claimant = mailbox.claimant(0, false);
    assert_eq!(drain(&mailbox, &mut claimant), [1]);
    let claim = claimant.claim_position(0);
    // Nothing in it; beyond the claim; longer than its lane; of a lane that nobody has.
    let (behind, ahead) = (Position::advance, Position::back);
    for (lane, from, end) in [
        (0, claim, claim),
        (0, claim, behind(claim, 2)),
        (0, ahead(claim, 20), claim),
        (7, ahead(claim, 2), claim),
    ] {
        let cell = &mailbox.cursors.slots[1];
        cell.end.store(end.get(), Relaxed);
        cell.hold.store(Hold { confirmed: true, lane, position: from }.to_word(), Relaxed);
        mailbox.cursors.header.offered[0].store(2, Relaxed);
        assert!(!claimant.anything_to_take(), "lane {lane}, {from:?} to {end:?}");
        assert!(!offers_something(&mailbox.cursors, &mailbox.roster, 1));
        assert!(!claimant.take_over());
    }
    let cell = &mailbox.cursors.slots[1];
    cell.end.store(claim.get(), Relaxed);
    let position = claim.back(2);
    cell.hold.store(Hold { confirmed: true, lane: 0, position }.to_word(), Relaxed);
    assert!(claimant.anything_to_take() && claimant.take_over());
}
