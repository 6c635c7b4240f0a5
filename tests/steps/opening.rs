//! Processes that are killed while they come or go.

use crate::fate::Fate;
use crate::scene::{OTHERS, Scene};
use crate::sweep::{Operation, Reached};

/// A process opens its end to receive, receives and acknowledges; three messages are there.
pub(crate) struct OpeningReceiver;

impl Operation for OpeningReceiver {
    fn name(&self) -> String {
        "open to receive, receive, acknowledge".to_owned()
    }

    fn act(&self) -> String {
        "open_receiver".to_owned()
    }

    fn calls(&self) -> u32 {
        3
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let first = Fate::comes(OTHERS, scene.nth(0));
        let first = match reached.calls {
            0 => Some(first),
            1 => Some(first.had_by(0..=1)),
            2 => Some(Fate::may_come(OTHERS, scene.nth(0)).had_by(1..=1)),
            _ => None,
        };
        let others = (1..3).map(|n| Fate::comes(OTHERS, scene.nth(n)));
        first.into_iter().chain(others).collect()
    }
}

/// A process closes its end to receive, with two messages claimed that it was not given.
pub(crate) struct ClosingReceiver;

impl Operation for ClosingReceiver {
    fn name(&self) -> String {
        "close what receives, with messages claimed".to_owned()
    }

    fn act(&self) -> String {
        "close_receiver".to_owned()
    }

    fn alone(&self) -> bool {
        true
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let had = if reached.calls == 0 { 0..=1 } else { 0..=0 };
        let second = Fate::comes(OTHERS, scene.nth(1)).had_by(had);
        vec![second, Fate::comes(OTHERS, scene.nth(2))]
    }
}
