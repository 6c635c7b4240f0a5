//! Processes that are killed while they wait on many, on a descriptor, or for one of many.

use crate::fate::Fate;
use crate::scene::{NAMED, OTHERS, Scene};
use crate::sweep::{Operation, Reached};

/// How a process waits for what the others send when it sleeps: then it receives and acknowledges the first of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// On two ends at once.
    Set,
    /// On a descriptor, when it had found nothing.
    Descriptor,
}

impl Operation for Waiting {
    fn name(&self) -> String {
        match self {
            Self::Set => "wait with two ends, receive, acknowledge".to_owned(),
            Self::Descriptor => "find nothing, poll, receive, acknowledge".to_owned(),
        }
    }

    fn act(&self) -> String {
        if *self == Self::Set { "wait_set" } else { "polled" }.to_owned()
    }

    fn calls(&self) -> u32 {
        if *self == Self::Set { 3 } else { 4 }
    }

    fn has_bystanders(&self) -> bool {
        false
    }

    fn polls(&self) -> bool {
        *self == Self::Descriptor
    }

    fn when_asleep(&self, scene: &mut Scene, nth: u32) {
        assert_eq!(nth, 0, "it sleeps though there is a message");
        scene.send(2);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let fate = |n| {
            let number = scene.nth(n);
            // The last three calls: it has waited, received, acknowledged.
            match (n, reached.calls + 3 - self.calls()) {
                (0, 3) => None,
                (0, 2) => Some(Fate::may_come(OTHERS, number).had_by(1..=1)),
                (0, 1) => Some(Fate::comes(OTHERS, number).had_by(0..=1)),
                _ => Some(Fate::comes(OTHERS, number)),
            }
        };
        (0..scene.sent()).filter_map(fate).collect()
    }
}

/// A process receives from a process that it names; there are messages of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choosing {
    /// It has claimed those of another one, three, and been given the first: it puts the others aside.
    AsideOthers,
    /// There is none of that process before it sleeps.
    Asleep,
}

impl Operation for Choosing {
    fn name(&self) -> String {
        match self {
            Self::AsideOthers => "put aside for a named one, receive, acknowledge".to_owned(),
            Self::Asleep => "receive from a named one, sleep, acknowledge".to_owned(),
        }
    }

    fn act(&self) -> String {
        let act = if *self == Self::Asleep { "await_from" } else { "receive_from" };
        format!("{act}:PID")
    }

    fn calls(&self) -> u32 {
        if *self == Self::Asleep { 2 } else { 4 }
    }

    fn alone(&self) -> bool {
        *self == Self::AsideOthers
    }

    fn has_bystanders(&self) -> bool {
        false
    }

    fn at_first(&self, scene: &mut Scene) {
        scene.add_named();
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
        if *self == Self::AsideOthers {
            scene.send_named();
        }
    }

    fn when_asleep(&self, scene: &mut Scene, nth: u32) {
        assert_eq!((*self, nth), (Self::Asleep, 0), "it sleeps though there is a message");
        scene.send_named();
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let named = scene.named_number();
        // The last two calls: it has received it, and acknowledged it.
        let named = match reached.calls + 2 - self.calls().min(reached.calls + 2) {
            0 => Some(Fate::comes(NAMED, named).had_by(0..=1)),
            1 => Some(Fate::may_come(NAMED, named).had_by(1..=1)),
            _ => None,
        };
        let named = named.filter(|_| scene.has_sent_named());
        let first = Fate::comes(OTHERS, scene.nth(0));
        let first = match (self, reached.calls) {
            (Self::Asleep, _) => Some(first),
            (_, 0) => Some(first.had_by(0..=1)),
            (_, 1) => Some(Fate::may_come(OTHERS, scene.nth(0)).had_by(1..=1)),
            _ => None,
        };
        let others = (1..3).map(|n| {
            let fate = Fate::comes(OTHERS, scene.nth(n));
            // What is left of what was claimed with the first, until it is put aside.
            let left = *self == Self::AsideOthers && n == 1 && [1, 2].contains(&reached.calls);
            if left { fate.had_by(0..=1) } else { fate }
        });
        named.into_iter().chain(first).chain(others).collect()
    }
}
