//! Processes that are killed while they call, answer, or make a dead letter of what they received.

use crate::fate::Fate;
use crate::scene::{OTHERS, Scene};
use crate::sweep::{Operation, Reached};

/// A process calls, and one of the others answers when it sleeps.
pub(crate) struct Calling {
    /// It has called before: there is a way for the answers.
    pub(crate) again: bool,
}

impl Operation for Calling {
    fn name(&self) -> String {
        format!("call{}", if self.again { " again" } else { ", for the first time" })
    }

    fn act(&self) -> String {
        format!("call{}", if self.again { "_again" } else { "" })
    }

    fn before(&self, scene: &mut Scene) {
        if self.again {
            scene.answer_when_called();
        }
    }

    fn at_begin(&self, scene: &mut Scene) {
        if self.again {
            scene.end_answer();
        }
    }

    fn when_asleep(&self, scene: &mut Scene, nth: u32) {
        assert_eq!(nth, 0, "it sleeps though it was answered");
        scene.take(1);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let before = self.again.then(|| Fate::comes(scene.victim, 0));
        let call = u64::from(self.again);
        let call = match reached.calls {
            0 => Fate::may_come(scene.victim, call),
            _ => Fate::comes(scene.victim, call),
        };
        before.into_iter().chain([call]).collect()
    }
}

/// A process receives a call of one of the others, who sleeps, and answers.
pub(crate) struct Replying;

impl Operation for Replying {
    fn name(&self) -> String {
        "receive a call, answer".to_owned()
    }

    fn act(&self) -> String {
        "reply".to_owned()
    }

    fn calls(&self) -> u32 {
        2
    }

    fn at_first(&self, scene: &mut Scene) {
        // From then on the others have what they need for that, and it stays.
        scene.open_and_call();
        scene.drain();
        scene.end_blocked();
    }

    fn before(&self, scene: &mut Scene) {
        scene.open_and_call();
    }

    fn has_bystanders(&self) -> bool {
        false
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let call = scene.nth(0);
        match reached.calls {
            0 => vec![Fate::comes(OTHERS, call).had_by(0..=1)],
            1 => vec![Fate::may_come(OTHERS, call).had_by(1..=1)],
            _ => Vec::new(),
        }
    }
}

/// A process receives one of three messages, and makes a dead letter of it.
pub(crate) struct Rejecting;

impl Operation for Rejecting {
    fn name(&self) -> String {
        "receive, make a dead letter".to_owned()
    }

    fn act(&self) -> String {
        "reject".to_owned()
    }

    fn calls(&self) -> u32 {
        2
    }

    fn at_first(&self, scene: &mut Scene) {
        // From then on there is a place for them.
        scene.send(1);
        scene.take_and_reject();
        scene.take_letters();
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
    }

    fn at_end(&self, scene: &mut Scene) {
        scene.take_letters();
    }

    /// It comes once: again, or as a dead letter, which its receiver's own hand-out counts for.
    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let had = if reached.calls < 2 { 0..=1 } else { 0..=0 };
        let first = Fate::comes(OTHERS, scene.nth(0)).had_by(had);
        let others = (1..3).map(|n| Fate::comes(OTHERS, scene.nth(n)));
        [first].into_iter().chain(others).collect()
    }

    /// Nobody looks at the dead letters there.
    fn fates_on_copy(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let mut fates = self.fates(scene, reached);
        match reached.calls {
            0 => {}
            1 => fates[0] = fates[0].clone().perhaps(),
            _ => drop(fates.remove(0)),
        }
        fates
    }
}
