//! Every interleaving of `ipcd` that frees records of a dead receiver with those who go on meanwhile.
//!
//! What `ipcd` does besides is done here in its place ([`bury`]); all else is the code that ships.

use super::{
    Acquire, Claimant, Mailbox, Mended, Model, Reach, Relaxed, Release, lane_is_drained, mend_slot,
    slot_is_idle, thread,
};
use super::{Arc, explore, get_cell};
use crate::lane::fate::{self, Fate};
use crate::lane::park;
use crate::lane::repair::{Held, free_first, held_by_gone};
use crate::lane::ring::Storage;
use crate::lane::withdraw::Record;
use crate::sync::AtomicU8;

/// The slot of the dead receiver.
const DEAD: u16 = 1;

/// Frees the first record of what the dead one holds, as where it is among the dead letters: returns its payload.
fn bury(mailbox: &Mailbox, held: &Held) -> u64 {
    let header = mailbox.model.header(held.from);
    let at = mailbox.model.index(held.from.advance(1));
    let payload = get_cell(&mailbox.model.cells.payloads[at]);
    let next = held.from.advance(header.granules());
    free_first(&mailbox.cursors, DEAD, held, next, true);
    park::ring(&mailbox.freed, u32::MAX, &mailbox.park);
    payload
}

/// Takes and acknowledges whatever there is, which nobody was handed out before.
fn receive_fresh(mailbox: &Mailbox, claimant: &mut Claimant<Model>) -> Vec<u64> {
    let mut got = Vec::new();
    while let Some(message) = mailbox.take(claimant) {
        let attempts = claimant.in_hand().map(|taken| taken.attempts);
        assert_eq!(attempts, Some(0), "{message} was never handed out");
        mailbox.acknowledge(claimant);
        got.push(message);
    }
    got
}

/// A receiver has died with two records, one of them in hand. That one becomes a dead letter while another receiver
/// goes on in the lane and the sender waits for the room: the other record is received once, as one that nobody had.
#[test]
fn loom_the_rest_behind_a_dead_letter_is_received_once() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let mut doomed = mailbox.claimant(DEAD, false);
        doomed.set_reach(Reach::batch(2, false));
        assert_eq!(mailbox.take(&mut doomed), Some(1));
        // As long as the two together: the lane is full.
        writer.0.find_room(4).unwrap();
        writer.0.publish(&[3; 40]);

        let (daemon, other) = (mailbox.clone(), mailbox.clone());
        let daemon = thread::spawn(move || {
            let held = held_by_gone(&daemon.cursors, DEAD).expect("it had won two");
            assert_eq!(held.hand_outs, 1);
            let dead = bury(&daemon, &held);
            let rest = held_by_gone(&daemon.cursors, DEAD).expect("it had won two");
            assert_eq!(rest.hand_outs, 0);
            assert_eq!(mend_slot(&daemon.cursors, DEAD), Mended::Offered);
            dead
        });
        let receiver =
            thread::spawn(move || receive_fresh(&other, &mut other.claimant(0, false)));
        mailbox.send(&mut writer, 4);
        assert_eq!(daemon.join().unwrap(), 1);
        let mut got = receiver.join().unwrap();
        got.extend(receive_fresh(&mailbox, &mut mailbox.claimant(0, false)));
        got.sort_unstable();
        assert_eq!(got, [2, 3, 4]);
        assert!(slot_is_idle(&mailbox.cursors, DEAD));
        assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
    });
}

/// Whoever sees that a record is done sees its fate.
#[test]
fn loom_the_fate_of_a_dead_letter_is_seen_with_its_end() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        assert_eq!(mailbox.take(&mut mailbox.claimant(DEAD, false)), Some(1));
        let fates: Arc<Vec<_>> = Arc::new((0..8).map(|_| AtomicU8::new(0)).collect());
        let (daemon, written) = (mailbox.clone(), fates.clone());
        let daemon = thread::spawn(move || {
            let held = held_by_gone(&daemon.cursors, DEAD).expect("it had won one");
            let index = fate::index(held.from, written.len());
            written[index].store(Fate::DeadLettered as u8, Relaxed);
            // PAIR(fate): Release here, as in `ipcd`.
            daemon.roster.lanes[0].fates.fetch_add(1, Release);
            bury(&daemon, &held);
        });
        mailbox.await_done(Record::message(mailbox.first, 1));
        // PAIR(fate): Acquire here, as where tickets ask.
        assert_ne!(mailbox.roster.lanes[0].fates.load(Acquire), 0, "taken for acknowledged");
        assert_eq!(fate::read(&fates, mailbox.first), Some(Fate::DeadLettered));
        daemon.join().unwrap();
    });
}
