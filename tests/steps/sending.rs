//! Processes that are killed while they send.

use libipc::{Buffering, MailboxOptions, SlowGroup};

use crate::fate::Fate;
use crate::scene::{OTHERS, Scene};
use crate::sweep::{self, Operation, Reached};

/// What the others have to do with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nothing.
    Idle,
    /// When it waits for room they take so many messages at a time.
    MakeRoom(usize),
    /// One of them sleeps in `receive`.
    Sleep,
    /// When it has stopped they take all there is, and it goes on.
    Spare,
}

/// A process sends: `first` messages before it is stepped through, then each call so many more.
pub(crate) struct Sending {
    pub(crate) name: &'static str,
    pub(crate) act: &'static str,
    pub(crate) first: u64,
    pub(crate) adds: &'static [u64],
    pub(crate) buffering: Buffering,
    pub(crate) others: Others,
    pub(crate) groups: &'static [(&'static str, SlowGroup)],
}

impl Sending {
    pub(crate) const fn new(
        name: &'static str,
        act: &'static str,
        first: u64,
        adds: &'static [u64],
    ) -> Self {
        let (buffering, others) = (Buffering::Bounded, Others::Idle);
        Self { name, act, first, adds, buffering, others, groups: &[] }
    }
}

impl Operation for Sending {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn act(&self) -> String {
        self.act.to_owned()
    }

    fn calls(&self) -> u32 {
        self.adds.len() as u32
    }

    fn options(&self) -> MailboxOptions {
        sweep::grouped(sweep::options().buffering(self.buffering), self.groups)
    }

    fn has_bystanders(&self) -> bool {
        self.others != Others::Sleep && self.groups.is_empty()
    }

    fn is_spared(&self) -> bool {
        self.others == Others::Spare
    }

    fn when_stopped(&self, scene: &mut Scene) {
        if self.is_spared() {
            scene.drain();
        }
    }

    fn at_begin(&self, scene: &mut Scene) {
        if self.others == Others::Sleep {
            scene.drain();
            scene.sleep_receiving();
        }
    }

    fn when_asleep(&self, scene: &mut Scene, _nth: u32) {
        let Others::MakeRoom(count) = self.others else { panic!("nothing to wait for") };
        scene.take(count);
    }

    fn when_dead(&self, scene: &mut Scene) {
        scene.end_sleep();
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let calls = if self.is_spared() { self.adds.len() } else { reached.calls as usize };
        let sent = self.first + self.adds.iter().take(calls).sum::<u64>();
        let under_way = self.adds.get(calls).copied().unwrap_or_default();
        // A group that is slow loses what was sent first.
        let lossy = self.groups.iter().any(|(_, slow)| *slow == SlowGroup::DropOldest);
        let came = |n| {
            let fate = Fate::comes(scene.victim, n);
            if lossy && n < self.first { fate.perhaps() } else { fate }
        };
        let mut fates: Vec<_> = (0..sent).map(came).collect();
        fates.extend((sent..sent + under_way).map(|n| Fate::may_come(scene.victim, n)));
        fates.extend((0..scene.sent()).map(|n| Fate::comes(OTHERS, scene.nth(n))));
        fates
    }
}

/// A process sends with a ticket, and takes the message back.
pub(crate) struct TakingBack;

impl Operation for TakingBack {
    fn name(&self) -> String {
        "send with a ticket, take back".to_owned()
    }

    fn act(&self) -> String {
        "tracked".to_owned()
    }

    fn calls(&self) -> u32 {
        2
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let first = Fate::comes(scene.victim, 0);
        // Once it has been taken back it must not come.
        if reached.calls == 2 { vec![first] } else { vec![first, Fate::may_come(scene.victim, 1)] }
    }
}
