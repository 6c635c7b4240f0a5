//! Processes that are killed while they receive.

use libipc::{Buffering, MailboxOptions, Receivers, SlowGroup};
use tests::numbered::BYTES_MIN;

use crate::fate::Fate;
use crate::scene::{OTHERS, Scene};
use crate::sweep::{self, Operation, Reached};

/// What the others have to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// They have the mailbox open to receive, no more.
    Open,
    /// They have not.
    Away,
    /// They have returned the first message, so it is offered.
    Offer,
    /// One that has claimed all of the messages has been killed with the first in hand.
    Die,
    /// They have not, and send something urgent when it has acknowledged a message.
    Urge,
    /// They send when it has gone to sleep.
    Send,
    /// The same, but one who has just come.
    SendAnew,
    /// The same, and one of them sleeps as well.
    SendAndSleep,
    /// One of them waits because its lane is full.
    WaitForRoom,
    /// One of them waits for the acknowledgement.
    Meet,
    /// When it has stopped they take all there is.
    Compete,
    /// When it has stopped they take one message, and it goes on.
    CompeteAndSpare,
}

/// A process receives and acknowledges some of the messages that the others have sent.
pub(crate) struct Receiving {
    pub(crate) name: &'static str,
    pub(crate) receives: u32,
    pub(crate) queued: u64,
    pub(crate) others: Others,
    pub(crate) receivers: Receivers,
}

impl Receiving {
    pub(crate) const fn new(
        name: &'static str,
        receives: u32,
        queued: u64,
        others: Others,
    ) -> Self {
        Self { name, receives, queued, others, receivers: Receivers::Any }
    }
}

impl Operation for Receiving {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn act(&self) -> String {
        format!("receive:{}", self.receives)
    }

    fn calls(&self) -> u32 {
        // Where another sleeps nothing is acknowledged: so it must come to whoever sleeps.
        if self.others == Others::SendAndSleep { 1 } else { 2 * self.receives }
    }

    fn options(&self) -> MailboxOptions {
        let meet = self.others == Others::Meet;
        let buffering = if meet { Buffering::Rendezvous } else { Buffering::Bounded };
        sweep::options().buffering(buffering).receivers(self.receivers)
    }

    fn alone(&self) -> bool {
        matches!(self.others, Others::Away | Others::Die | Others::Urge)
    }

    fn has_bystanders(&self) -> bool {
        let sleeps = matches!(self.others, Others::Send | Others::SendAnew | Others::SendAndSleep);
        !self.alone() && !sleeps && self.receivers == Receivers::Any
    }

    fn is_spared(&self) -> bool {
        self.others == Others::CompeteAndSpare
    }

    fn at_first(&self, scene: &mut Scene) {
        if self.others == Others::Urge {
            scene.add_urgent();
        }
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(self.queued);
        match self.others {
            Others::Offer => scene.take_and_return(),
            Others::Die => sweep::kill_holding(scene),
            Others::WaitForRoom => scene.fill_and_sleep_sending(true),
            Others::Meet => scene.sleep_sending(BYTES_MIN, true),
            _ => {}
        }
    }

    fn when_returned(&self, scene: &mut Scene, calls: u32) {
        if self.others == Others::Urge && calls == 2 {
            scene.send_urgently();
        }
    }

    fn when_asleep(&self, scene: &mut Scene, nth: u32) {
        match self.others {
            Others::Send if nth == 0 => scene.send(2),
            Others::SendAnew if nth == 0 => scene.send_anew(),
            // It is told of the new one a little later, if the daemon is slow.
            Others::SendAnew => {}
            Others::SendAndSleep if nth == 0 => {
                scene.sleep_receiving();
                scene.send(1);
            }
            other => panic!("it sleeps again, or for nothing: {other:?}"),
        }
    }

    fn competes(&self) -> usize {
        if self.others == Others::Compete { usize::MAX } else { 0 }
    }

    fn when_stopped(&self, scene: &mut Scene) {
        match self.others {
            Others::Compete => scene.drain(),
            Others::CompeteAndSpare => scene.take(1),
            _ => {}
        }
    }

    fn when_dead(&self, scene: &mut Scene) {
        scene.end_sleep();
        // Whatever the dead one acknowledged makes room, or ends the meeting: nobody needs to help.
        let unclaimed = if self.others == Others::Meet { 1 } else { sweep::LANE_FULL_BYTES };
        scene
            .end_blocked_if(|scene| scene.unclaimed_bytes() < unclaimed && scene.nothing_is_left());
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let place = |n| match (self.others, n) {
            // What is urgent comes second.
            (Others::Urge, 0) => 0,
            (Others::Urge, n) if n == self.queued => 1,
            (Others::Urge, n) => n as u32 + 1,
            (_, n) => n as u32,
        };
        let fate = |n| {
            let fate = self.fate(scene.nth(n), place(n), reached.calls)?;
            // What is left of what was claimed in advance, until it is put aside for what is urgent.
            let first_left =
                self.others == Others::Urge && n == 1 && [1, 2].contains(&reached.calls);
            Some(if first_left { fate.had_by(0..=1) } else { fate })
        };
        (0..scene.sent()).filter_map(fate).collect()
    }
}

impl Receiving {
    /// What may become of the message that is received as the n-th: call 2n does that, call 2n + 1 acknowledges it.
    fn fate(&self, number: u64, n: u32, calls: u32) -> Option<Fate> {
        let comes = Fate::comes(OTHERS, number);
        if self.is_spared() {
            return Some(comes);
        }
        let offered = matches!(self.others, Others::Offer | Others::Die);
        let had = u32::from(offered && n == 0);
        let (receive, acknowledge) = (2 * n, 2 * n + 1);
        if calls > acknowledge {
            return None;
        }
        if calls == acknowledge {
            return Some(Fate::may_come(OTHERS, number).had_by(had + 1..=had + 1));
        }
        if calls == receive {
            return Some(comes.had_by(had..=had + 1));
        }
        // What was claimed in advance counts as handed out once all before it is acknowledged, and at first as
        // often as that.
        let next = (self.alone() || offered) && calls + 1 == receive;
        Some(comes.had_by(0..=if next { 1 + u32::from(offered && n == 1) } else { 0 }))
    }
}

/// A process receives and acknowledges in one of two groups, which loses messages rather than hold senders back.
pub(crate) struct ReceivingLossy;

impl Operation for ReceivingLossy {
    fn name(&self) -> String {
        "receive in a group that may lose, acknowledge".to_owned()
    }

    fn act(&self) -> String {
        "receive:1".to_owned()
    }

    fn group(&self) -> Option<&'static str> {
        Some("ticker")
    }

    fn calls(&self) -> u32 {
        2
    }

    fn options(&self) -> MailboxOptions {
        let groups = [("ticker", SlowGroup::DropOldest), ("ledger", SlowGroup::Block)];
        sweep::grouped(sweep::options(), &groups)
    }

    fn has_bystanders(&self) -> bool {
        false
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
    }

    /// What it had may have been in hand, so it does not come again.
    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let first = (reached.calls == 0).then(|| Fate::may_come(OTHERS, scene.nth(0)));
        let others = (1..3).map(|n| Fate::comes(OTHERS, scene.nth(n)));
        first.into_iter().chain(others).collect()
    }

    fn fates_elsewhere(&self, scene: &Scene, _reached: Reached) -> Vec<Fate> {
        (0..3).map(|n| Fate::comes(OTHERS, scene.nth(n))).collect()
    }
}

/// A process receives a message and returns it.
pub(crate) struct Returning {
    pub(crate) alone: bool,
}

impl Operation for Returning {
    fn name(&self) -> String {
        format!("receive, return{}", if self.alone { ", alone" } else { "" })
    }

    fn act(&self) -> String {
        "drop".to_owned()
    }

    fn calls(&self) -> u32 {
        2
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(3);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let had = if reached.calls == 0 { 0..=1 } else { 1..=1 };
        let mut fates = vec![Fate::comes(OTHERS, scene.nth(0)).had_by(had)];
        fates.extend((1..3).map(|n| Fate::comes(OTHERS, scene.nth(n))));
        fates
    }
}

/// A process receives four of six messages at once, and acknowledges the first, then the others.
pub(crate) struct ReceivingBatch {
    pub(crate) alone: bool,
}

impl Operation for ReceivingBatch {
    fn name(&self) -> String {
        format!("receive a batch of 4{}", if self.alone { ", alone" } else { "" })
    }

    fn act(&self) -> String {
        "receive_batch:4".to_owned()
    }

    fn calls(&self) -> u32 {
        3
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn before(&self, scene: &mut Scene) {
        scene.send(6);
    }

    fn fates(&self, scene: &Scene, reached: Reached) -> Vec<Fate> {
        let fate = |n: u64| {
            let number = scene.nth(n);
            let gone_with = if n == 0 { 1 } else { 2 };
            match (n, reached.calls) {
                (4.., _) => Some(Fate::comes(OTHERS, number)),
                (_, 0) => Some(Fate::comes(OTHERS, number).had_by(0..=1)),
                (_, calls) if calls > gone_with => None,
                (_, calls) if calls == gone_with => {
                    Some(Fate::may_come(OTHERS, number).had_by(1..=1))
                }
                _ => Some(Fate::comes(OTHERS, number).had_by(1..=1)),
            }
        };
        (0..6).filter_map(fate).collect()
    }
}
