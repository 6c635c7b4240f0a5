//! What has become of every message of a mailbox: the notes of all its receivers and its dead letters, taken together.
//!
//! A receiver notes what it does with a message before it does it, and [`Deed::Settled`] when it ends in order. So of a
//! receiver that was killed the last step alone is in doubt: what it had in hand when it died. Every hand-out of a message
//! but the last must be one behind which it may come again: its receiver gave it back, or is one of those and may not have
//! acknowledged it. Marks count hand-outs, one by one; what they count beyond those that were noted a death
//! must explain, each no more than one receiver has in hand. (Where messages are in hand by the batch the marks of those behind
//! it may count a batch that is given back as well.)

use std::collections::HashMap;
use std::path::Path;

use libipc::{OnDeath, Reason};

use crate::numbered::{Deed, Note, is_rejected, read_notes};

/// A message came once, was never handed out before, and was acknowledged.
const PLAIN: u8 = 1;
/// What came of it stands in [`Accounts::odd`].
const ODD: u8 = 2;

/// The books of one mailbox, or of one of its groups.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Of each sender's messages, by their numbers: 0 for one that never came, [`PLAIN`] or [`ODD`].
    seen: HashMap<u32, Vec<u8>>,
    odd: HashMap<(u32, u64), Vec<Event>>,
    /// Receivers that were killed.
    deaths: u64,
    /// Hand-outs that those may not have noted, at most.
    in_doubt: u64,
    /// The same of messages that had been given back in a batch before, and were claimed with one that was given back.
    recounts_max: u64,
}

/// What came of a message at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    /// How often it had been handed out before.
    attempts: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Acknowledged,
    /// To come again.
    GivenBack,
    /// To be among the dead letters.
    Rejected,
    /// Noted by a receiver that was killed then, and may not have done it.
    Perhaps(Deed),
    DeadLetter(Reason),
}

/// What some books come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Messages that came.
    pub messages: u64,
    /// Times that a message came again though a receiver had noted that it acknowledges it: that one was killed.
    pub repeats: u64,
    /// Hand-outs that marks count, and nobody noted.
    pub unnoted: u64,
    /// The same of messages that had been given back in a batch before, and not all of that batch was handed out when it came
    /// again.
    pub recounted: u64,
    /// Dead letters.
    pub letters: u64,
    /// Messages that whoever had them last may not have acknowledged: it was killed.
    pub perhaps_dropped: u64,
    /// Messages that came, and that whoever had them last did not acknowledge.
    pub dropped: u64,
    /// Receivers that were killed.
    pub deaths: u64,
}

impl Accounts {
    /// Enters the log of a receiver that had so many messages in hand at most.
    ///
    /// # Panics
    /// If it is no log.
    pub fn enter_log(&mut self, path: &Path, in_hand_max: u64) {
        // The last step, of which it is not known yet whether something came behind it.
        let (mut step, mut whole) = (Vec::<Note>::new(), true);
        read_notes(path, |note| {
            if whole {
                // What it had taken over of others with what it gives back counts as handed out by it, too.
                let batch =
                    step.iter().any(|before| before.deed == Deed::Returns) && in_hand_max > 1;
                self.recounts_max += if batch { in_hand_max } else { 0 };
                let undone = note.deed == Deed::Undone;
                step.drain(..).for_each(|before| self.enter(before, Some(undone)));
            }
            whole = !note.with_next;
            step.push(note);
        });
        let last = step.last().map(|note| note.deed);
        if last == Some(Deed::Settled) {
            return;
        }
        assert!(step.len() as u64 <= in_hand_max, "{} messages in hand", step.len());
        step.into_iter().for_each(|note| self.enter(note, None));
        self.deaths += 1;
        self.in_doubt += in_hand_max;
    }

    /// Enters a note: whether it could not be done after all, if that is known.
    fn enter(&mut self, Note { entry, deed, .. }: Note, undone: Option<bool>) {
        let what = match (deed, undone) {
            (Deed::Settled | Deed::Undone, _) => return,
            (deed, None) => What::Perhaps(deed),
            (Deed::Returns, _) | (_, Some(true)) => What::GivenBack,
            (Deed::Rejects, _) => What::Rejected,
            (Deed::Acknowledges, _) => What::Acknowledged,
        };
        self.enter_event(entry.sender, entry.number, Event { attempts: entry.attempts, what });
    }

    /// Enters a dead letter, which was handed out so often.
    pub fn enter_letter(&mut self, sender: u32, number: u64, hand_outs: u32, reason: Reason) {
        let what = What::DeadLetter(reason);
        self.enter_event(sender, number, Event { attempts: hand_outs, what });
    }

    fn enter_event(&mut self, sender: u32, number: u64, event: Event) {
        let seen = self.seen.entry(sender).or_default();
        let index = usize::try_from(number).expect("a number that somebody has counted to");
        if seen.len() <= index {
            seen.resize(index + 1, 0);
        }
        let plain = Event { attempts: 0, what: What::Acknowledged };
        if seen[index] == 0 && event == plain {
            seen[index] = PLAIN;
            return;
        }
        let odd = self.odd.entry((sender, number)).or_default();
        if seen[index] == PLAIN {
            odd.push(plain);
        }
        seen[index] = ODD;
        odd.push(event);
    }

    /// The senders of whom something came.
    pub fn senders(&self) -> impl Iterator<Item = u32> {
        self.seen.keys().copied()
    }

    /// Numbers from 0 of a sender's messages of which the last came.
    #[must_use]
    pub fn through(&self, sender: u32) -> u64 {
        self.seen.get(&sender).map_or(0, |seen| seen.len() as u64)
    }

    /// Whether a message came.
    #[must_use]
    pub fn came(&self, sender: u32, number: u64) -> bool {
        let seen = self.seen.get(&sender).and_then(|seen| seen.get(number as usize));
        seen.is_some_and(|&seen| seen != 0)
    }

    /// Messages of a sender, of its first so many, that never came; and the first of them.
    #[must_use]
    pub fn missing(&self, sender: u32, sent: u64) -> (u64, Option<u64>) {
        let mut missing = (0..sent).filter(|&number| !self.came(sender, number));
        let first = missing.next();
        (first.map_or(0, |_| 1 + missing.count() as u64), first)
    }

    /// Holds that of a sender's messages all of the first `sent` came, and of those behind them none, or the first
    /// of `under_way` that its death may have cut short. Returns how many came.
    ///
    /// # Panics
    /// Naming one that did not, or that nobody sent.
    pub fn check_sent(&self, what: &str, sender: u32, sent: u64, under_way: u64) -> u64 {
        let through = self.through(sender);
        let (_, lost) = self.missing(sender, through.max(sent));
        assert_eq!(lost, None, "{what}: a message of sender {sender} is lost");
        let sends = sent..=sent + under_way;
        assert!(
            sends.contains(&through),
            "{what}: sender {sender}: {sends:?} sent, {through} came"
        );
        through
    }

    /// Holds that nothing came again but what a death or a receiver that gave it back explains, and that marks
    /// count right.
    ///
    /// # Panics
    /// Naming a message with which that is not so.
    #[must_use]
    pub fn check(&self, what: &str, on_death: OnDeath) -> Balance {
        let came = |seen: &Vec<u8>| seen.iter().filter(|&&seen| seen != 0).count() as u64;
        let messages = self.seen.values().map(came).sum();
        let mut balance = Balance { messages, deaths: self.deaths, ..Balance::default() };
        for (&(sender, number), events) in &self.odd {
            let mut events = events.clone();
            events.sort_by_key(|event| event.attempts);
            let name = || format!("{what}: message {number} of sender {sender}: {events:?}");
            let batches = self.recounts_max > 0;
            balance
                .enter(&events, number, on_death, batches)
                .unwrap_or_else(|why| panic!("{}: {why}", name()));
        }
        let Balance { repeats, unnoted, recounted, .. } = balance;
        let (deaths, batches) = (self.in_doubt, self.recounts_max);
        assert!(
            repeats + unnoted <= deaths && repeats + unnoted + recounted <= deaths + batches,
            "{what}: deaths explain no more than {deaths}, batches {batches}: {balance:?}"
        );
        balance
    }
}

impl Balance {
    /// Enters all that came of one message, in order.
    fn enter(
        &mut self,
        events: &[Event],
        number: u64,
        on_death: OnDeath,
        batches: bool,
    ) -> Result<(), &'static str> {
        let mut expected = 0;
        for event in events {
            let Some(more) = event.attempts.checked_sub(expected) else {
                return Err("it came again with the same mark");
            };
            let again = batches && expected > 0;
            let count = if again { &mut self.recounted } else { &mut self.unnoted };
            *count += u64::from(more);
            expected = event.attempts + 1;
        }
        let behind = events.iter().skip(1).map(|event| Some(event.what)).chain([None]);
        for (event, next) in events.iter().zip(behind) {
            self.enter_one(event.what, next, number, on_death)?;
        }
        Ok(())
    }

    /// Enters what came of a message, and what came of it next.
    fn enter_one(
        &mut self,
        what: What,
        next: Option<What>,
        number: u64,
        on_death: OnDeath,
    ) -> Result<(), &'static str> {
        let letter = matches!(next, Some(What::DeadLetter(_)));
        match what {
            What::Acknowledged if next.is_some() => {
                return Err("it came again though it was acknowledged");
            }
            What::DeadLetter(_) if next.is_some() => {
                return Err("it came again though it was a dead letter");
            }
            What::Rejected if next != Some(What::DeadLetter(Reason::Rejected)) => {
                return Err("it was rejected, and is no dead letter");
            }
            What::GivenBack | What::Perhaps(Deed::Returns | Deed::Rejects) if next.is_none() => {
                if on_death != OnDeath::Drop {
                    return Err("it did not come again though it was given back");
                }
                self.dropped += 1;
            }
            What::DeadLetter(Reason::Rejected) if !is_rejected(number) => {
                return Err("nobody rejected it");
            }
            What::DeadLetter(_) => self.letters += 1,
            What::Perhaps(Deed::Acknowledges) => match (next, on_death) {
                (None, _) => self.perhaps_dropped += 1,
                (_, OnDeath::Drop) => return Err("it came again though its receiver was killed"),
                (_, OnDeath::DeadLetter) if !letter => {
                    return Err("it is no dead letter though its receiver was killed");
                }
                _ => self.repeats += 1,
            },
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbered::{Entry, open_log};

    const ACKNOWLEDGES: Deed = Deed::Acknowledges;

    fn note(number: u64, attempts: u32, deed: Deed) -> Note {
        Note::of(Entry { sender: 1, attempts, number }, deed)
    }

    /// The books of receivers that have noted so much, and had so many messages in hand.
    fn books(logs: &[&[Note]], in_hand_max: u64) -> Accounts {
        let mut accounts = Accounts::default();
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (n, notes) in logs.iter().enumerate() {
            let path = folder.path().join(n.to_string());
            let mut log = open_log(&path).expect("a log");
            notes.iter().for_each(|note| note.log(&mut log).expect("a log"));
            accounts.enter_log(&path, in_hand_max);
        }
        accounts
    }

    fn balance(logs: &[&[Note]]) -> Result<Balance, ()> {
        let accounts = books(logs, 1);
        std::panic::catch_unwind(|| accounts.check("test", OnDeath::Redeliver)).map_err(drop)
    }

    #[test]
    fn what_the_last_step_of_the_dead_explains_may_come_again() {
        let killed = [note(0, 0, ACKNOWLEDGES), note(1, 0, ACKNOWLEDGES)];
        let ended = [note(1, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        let found = balance(&[&killed, &ended]).expect("the second came again");
        assert_eq!((found.messages, found.repeats, found.deaths), (2, 1, 1));
        let given_back =
            [note(0, 0, Deed::Returns), note(0, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        let found = balance(&[&given_back]).expect("it was given back");
        assert_eq!((found.messages, found.repeats, found.deaths), (1, 0, 0));
        // It had the message in hand, and did not come to note that.
        let found = balance(&[&[], &ended]).expect("a death explains that");
        assert_eq!((found.unnoted, found.deaths), (1, 1));
    }

    #[test]
    fn what_was_acknowledged_comes_again_for_no_reason_and_is_found() {
        let killed = [note(0, 0, ACKNOWLEDGES), note(1, 0, ACKNOWLEDGES)];
        let again = [note(0, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&killed, &again]).expect_err("the first was acknowledged before the death");
        let ended = [note(0, 0, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&ended, &again]).expect_err("nobody died");
    }

    #[test]
    fn marks_that_nothing_explains_are_found() {
        let killed = [note(0, 0, ACKNOWLEDGES)];
        let unmarked = [note(0, 0, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&killed, &unmarked]).expect_err("it came again unmarked");
        let marked = [note(0, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&marked]).expect_err("nobody died, nobody gave it back");
        let twice = [note(0, 2, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&killed, &twice]).expect_err("two hand-outs, one death");
    }

    #[test]
    fn what_is_given_back_or_rejected_is_not_lost() {
        let lost = [note(0, 0, Deed::Returns), Note::alone(Deed::Settled)];
        balance(&[&lost]).expect_err("it never came again");
        let rejected = [note(996, 0, Deed::Rejects), Note::alone(Deed::Settled)];
        balance(&[&rejected]).expect_err("it is no dead letter");
        let mut accounts = books(&[&rejected], 1);
        accounts.enter_letter(1, 996, 1, Reason::Rejected);
        assert_eq!(accounts.check("test", OnDeath::Redeliver).letters, 1);
        let refused = [note(996, 0, Deed::Rejects), Note::alone(Deed::Undone)];
        balance(&[&refused, &[Note::alone(Deed::Settled)]]).expect_err("it never came again");
        let again = [note(996, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        balance(&[&[refused, again].concat()]).expect("it was given back");
    }

    #[test]
    fn what_is_to_be_dropped_at_a_death_does_not_come_again() {
        let killed = [note(0, 0, ACKNOWLEDGES)];
        let again = [note(0, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        let check = |logs: &[&[Note]], on_death| {
            let accounts = books(logs, 1);
            std::panic::catch_unwind(|| accounts.check("test", on_death)).map_err(drop)
        };
        check(&[&killed, &again], OnDeath::Redeliver).expect("a death explains that");
        check(&[&killed, &again], OnDeath::Drop).expect_err("it was to be dropped");
        check(&[&killed, &again], OnDeath::DeadLetter).expect_err("it was to be a dead letter");
        let found = check(&[&killed], OnDeath::Drop).expect("nothing came again");
        assert_eq!((found.dropped, found.perhaps_dropped), (0, 1));
        let returned = [note(0, 0, Deed::Returns), Note::alone(Deed::Settled)];
        let found = check(&[&returned, &[]], OnDeath::Drop).expect("whoever had it next died");
        assert_eq!((found.dropped, found.perhaps_dropped), (1, 0));
    }

    #[test]
    fn the_whole_batch_of_the_dead_may_come_again_and_no_other() {
        let mut batch = [0, 1, 2, 3].map(|number| note(number, 0, ACKNOWLEDGES));
        batch[2].with_next = true;
        let again = |number| [note(number, 1, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        let check = |number| {
            let accounts = books(&[&batch, &again(number)], 2);
            std::panic::catch_unwind(|| accounts.check("test", OnDeath::Redeliver)).is_ok()
        };
        assert_eq!([0, 1, 2, 3].map(check), [false, false, true, true]);
    }

    #[test]
    fn a_message_that_is_missing_or_that_nobody_sent_is_found() {
        let log = [note(0, 0, ACKNOWLEDGES), note(2, 0, ACKNOWLEDGES), Note::alone(Deed::Settled)];
        let accounts = books(&[&log], 1);
        assert_eq!(accounts.missing(1, 3), (1, Some(1)));
        let check = |accounts: &Accounts, sent| {
            std::panic::catch_unwind(|| accounts.check_sent("test", 1, sent, 1)).map_err(drop)
        };
        check(&accounts, 3).expect_err("one is lost");
        let whole = [0, 1, 2].map(|number| note(number, 0, ACKNOWLEDGES));
        let accounts = books(&[&whole], 1);
        assert_eq!((check(&accounts, 2), check(&accounts, 3)), (Ok(3), Ok(3)));
        check(&accounts, 1).expect_err("one that nobody sent");
        check(&accounts, 4).expect_err("the last is lost");
    }
}
