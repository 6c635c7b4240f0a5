//! All orders of a small case on a processor that keeps stores back: a sender, a receiver that goes to sleep, and two that turn
//! fences on and off meanwhile. Each has the steps of the code, one access of shared memory each.

use std::collections::HashSet;

use std::time::Instant;

use super::*;
use crate::lane::park::Woke;
use crate::sync::AtomicU32;

/// A step that is left out, or comes too early.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// The receiver looks whether senders fence before it says that it sleeps.
    AskedTooEarly,
    /// It needs no barrier either while fences are only coming.
    ComingIsOn,
    /// Who turns fences on calls no barrier.
    NoBarrier,
    /// The word does not count.
    NoCount,
    /// The sender looks for sleepers before it looks whether to fence.
    LookedTooEarly,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Switcher {
    at: u8,
    /// Turns left, on and off by turns.
    turns: u8,
    word: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    published: bool,
    sleeping: bool,
    fencing: u64,
    /// The sender, which has published but perhaps not for others to see.
    sender: u8,
    kept_back: bool,
    fences: bool,
    saw_sleeper: bool,
    /// The receiver.
    receiver: u8,
    may_skip: bool,
    asleep: bool,
    switchers: [Switcher; 2],
}

impl World {
    /// Everything that may happen next.
    fn steps(self, slip: Slip) -> Vec<Self> {
        let mut all = Vec::new();
        if self.kept_back {
            all.push(self.drained());
        }
        all.extend(self.sender_step(slip));
        all.extend(self.receiver_step(slip));
        all.extend((0..2).filter_map(|index| self.switcher_step(index, slip)));
        all
    }

    /// What a barrier does to the sender's processor, wherever that is.
    fn drained(self) -> Self {
        Self { published: self.published || self.kept_back, kept_back: false, ..self }
    }

    fn sender_step(self, slip: Slip) -> Option<Self> {
        let late = slip == Slip::LookedTooEarly;
        let looked = Self { saw_sleeper: self.sleeping, ..self };
        let asked = Self { fences: self.fencing & STATE != OFF, ..self };
        let next = match (self.sender, late) {
            (0, _) => Self { kept_back: true, ..self },
            (1, false) | (2, true) => asked,
            (2, false) | (3, true) if self.fences => self.drained(),
            (2, false) | (3, true) => self,
            (3, false) | (1, true) => looked,
            _ => return None,
        };
        Some(Self { sender: self.sender + 1, ..next })
    }

    fn receiver_step(self, slip: Slip) -> Option<Self> {
        let on = |state| state == ON || slip == Slip::ComingIsOn && state == COMING;
        let asked = Self { may_skip: on(self.fencing & STATE), ..self };
        let lain_down = Self { sleeping: true, ..self };
        let early = slip == Slip::AskedTooEarly;
        let next = match (self.receiver, early) {
            (0, false) | (1, true) => lain_down,
            (1, false) | (0, true) => asked,
            (2, _) if self.may_skip => self,
            (2, _) => self.drained(),
            (3, _) => Self { asleep: !self.published, ..self },
            _ => return None,
        };
        Some(Self { receiver: self.receiver + 1, ..next })
    }

    fn switcher_step(self, index: usize, slip: Slip) -> Option<Self> {
        let mut world = self;
        let Switcher { at, turns, word } = self.switchers[index];
        let count = |word: u64, state| match slip {
            Slip::NoCount => state,
            _ => next(word, state),
        };
        let exchange = |world: &mut Self, to: u64| {
            let same = world.fencing == word;
            if same {
                world.fencing = to;
            }
            same
        };
        let over = Switcher { at: 0, turns: turns.checked_sub(1)?, word: 0 };
        let mut then = Switcher { at: at + 1, turns, word };
        // The first turn, the third and so on turn fences on.
        let on = turns % 2 == 1;
        match (at, on) {
            (0, _) => then.word = world.fencing,
            (1, false) => {
                if word & STATE != OFF {
                    exchange(&mut world, count(word, OFF));
                }
                then = over;
            }
            (1, true) => match word & STATE {
                ON => then = over,
                COMING => {}
                _ => {
                    let coming = count(word, COMING);
                    if exchange(&mut world, coming) {
                        then.word = coming;
                    } else {
                        then = over;
                    }
                }
            },
            (2, _) if slip == Slip::NoBarrier => {}
            (2, _) => world = world.drained(),
            _ => {
                exchange(&mut world, count(word, ON));
                then = over;
            }
        }
        world.switchers[index] = then;
        Some(world)
    }

    /// The message is there, its receiver sleeps, and nobody wakes it.
    fn is_lost(&self) -> bool {
        self.sender == 4 && self.asleep && !self.saw_sleeper
    }
}

/// Goes through everything that can happen; says whether a message can be lost, and in how many states it looked.
fn explore(slip: Slip) -> (bool, usize) {
    let turns = |turns| Switcher { turns, ..Switcher::default() };
    // One of them has turned fences on already in some orders before anybody else begins.
    let first = World { switchers: [turns(1), turns(3)], ..World::default() };
    let (mut seen, mut left) = (HashSet::from([first]), vec![first]);
    let mut lost = false;
    while let Some(world) = left.pop() {
        lost |= world.is_lost();
        left.extend(world.steps(slip).into_iter().filter(|&next| seen.insert(next)));
    }
    (lost, seen.len())
}

#[test]
#[cfg_attr(miri, ignore = "thousands of states, and no memory is shared")]
fn whoever_turns_fences_on_and_off_no_wake_up_is_lost() {
    let (lost, states) = explore(Slip::None);
    assert!(!lost);
    assert!(states > 1000, "{states} states are no proof");
}

#[test]
#[cfg_attr(miri, ignore = "thousands of states, and no memory is shared")]
fn each_step_that_is_left_out_loses_one() {
    let slips = [
        Slip::AskedTooEarly,
        Slip::ComingIsOn,
        Slip::NoBarrier,
        Slip::NoCount,
        Slip::LookedTooEarly,
    ];
    for (index, slip) in slips.into_iter().enumerate() {
        assert!(explore(slip).0, "slip {index} is not noticed");
    }
}

/// A kernel that runs the barrier, or refuses to.
struct Kernel(bool);

impl Park for Kernel {
    fn wait(&self, _: &[(&AtomicU32, u32)], _: Option<Instant>) -> Woke {
        unreachable!("nobody sleeps here")
    }

    fn wake(&self, _: &AtomicU32, _: u32) {}

    fn barrier(&self) -> bool {
        self.0
    }
}

#[test]
fn the_word_goes_from_off_to_on_and_back_and_is_never_the_same_again() {
    let cursors = CursorsHeader::default();
    let word = || cursors.fencing.load(Relaxed);
    assert!(!is_asked_for(&cursors) && !is_on(&cursors));
    let mut before = vec![word()];
    for _ in 0..3 {
        turn_on(&cursors, &Kernel(true));
        assert!(is_asked_for(&cursors) && is_on(&cursors));
        let on = word();
        turn_on(&cursors, &Kernel(true));
        assert_eq!(word(), on, "it is on");
        turn_off(&cursors);
        assert!(!is_asked_for(&cursors) && !is_on(&cursors));
        assert!(!before.contains(&on) && !before.contains(&word()));
        before.extend([on, word()]);
    }
    assert!(!turn_on(&cursors, &Kernel(false)));
    assert!(!is_asked_for(&cursors), "without the barrier it is not turned on");
    // Somebody died before its barrier.
    cursors.fencing.store(next(word(), COMING), Relaxed);
    assert!(is_asked_for(&cursors) && !is_on(&cursors));
    assert!(turn_on(&cursors, &Kernel(true)));
    assert!(is_on(&cursors), "who makes the barrier may rely on it");
    cursors.fencing.store(next(word(), COMING), Relaxed);
    turn_off(&cursors);
    assert!(!is_asked_for(&cursors));
}

#[test]
fn who_sleeps_for_nearly_every_message_wants_fences_and_who_receives_many_does_not() {
    use Wish::{Fences, NoFences, Nothing};
    let wishes = |drowsiness: &mut Drowsiness, received: [u64; 5]| {
        received.map(|received| drowsiness.sleeps(received))
    };
    let mut drowsiness = Drowsiness::default();
    let often = [Nothing, Nothing, Nothing, Fences, Nothing];
    assert_eq!(wishes(&mut drowsiness, [1, 2, 3, 4, 5]), often);
    assert!(!drowsiness.is_over(5 + 255) && drowsiness.is_over(5 + 256));
    let more = [205, 405, 605, 805, 1005];
    assert_eq!(wishes(&mut drowsiness, more), [Nothing, Nothing, Nothing, NoFences, Nothing]);
    assert_eq!(drowsiness.sleeps(1005 + 256), NoFences);
    // Neither few nor many.
    let between = [1311, 1361, 1411, 1461, 1511];
    assert_eq!(wishes(&mut drowsiness, between), [Nothing; 5]);
    drowsiness.give_up();
    assert_eq!(wishes(&mut drowsiness, [1512, 1513, 1514, 1515, 1516]), [Nothing; 5]);
}
