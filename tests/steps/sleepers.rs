//! Those of the others who wait in a call of the library, each in a thread, until somebody does something.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use libipc::Buffering;
use tests::numbered::{self, BYTES_MIN};
use tests::wait_until;

use super::{MAILBOX, OTHERS, Scene, message};
use crate::fate::Fate;
use crate::shared::{ANSWER, ROOM_BYTES, ROOM_MESSAGES};
use crate::victim::{await_sleep, is_asleep};

/// A thread that waits for something in a call of the library.
pub(super) struct Waiting<T> {
    task: PathBuf,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Waiting<T> {
    fn start(act: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("somebody listens");
            act()
        });
        let task = format!("/proc/self/task/{}", told.recv().expect("a thread's number"));
        Self { task: task.into(), thread }
    }

    /// Whether it neither runs nor is about to.
    fn is_quiet(&self) -> bool {
        self.thread.is_finished() || is_asleep(&self.task)
    }

    /// Waits until it sleeps; false if it has ended instead. `endless`: until it sleeps without an end, for a
    /// sleep that ends by itself hides that nobody has come to wake it.
    fn sleeps(&self, endless: bool) -> bool {
        await_sleep(&self.task, endless, || self.thread.is_finished())
    }

    fn end(self) -> T {
        wait_until("whoever waits is woken", || self.thread.is_finished());
        self.thread.join().expect("no panic there")
    }
}

impl Scene {
    /// One of the others calls, and waits for the answer; another one could give it.
    pub(crate) fn open_and_call(&mut self) {
        self.open_receiver(0);
        let mut sender = self.sender.take().expect("nobody waits with it");
        sender.set_spin_max(Duration::ZERO);
        let message = message(self.sent, BYTES_MIN);
        self.sent += 1;
        let blocked = Waiting::start(move || {
            let reply = sender.call(&message).expect("somebody answers");
            assert_eq!(reply.bytes(), ANSWER);
            sender
        });
        assert!(blocked.sleeps(true), "a call should have waited");
        self.blocked = Some(blocked);
    }

    /// Somebody who is about to call gets the answer when there is the call.
    pub(crate) fn answer_when_called(&mut self) {
        self.open_receiver(0);
        let mut receiver = self.receivers[0].take().expect("it is open");
        let sleeper = Waiting::start(move || {
            let delivery = receiver.receive().expect("a call");
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            delivery.reply(ANSWER).expect("somebody calls");
            (receiver, entry)
        });
        self.sleeper = Some(sleeper);
    }

    /// Waits for whoever was to answer.
    pub(crate) fn end_answer(&mut self) {
        let (receiver, entry) = self.sleeper.take().expect("somebody answers").end();
        self.receivers[0] = Some(receiver);
        self.got[0].push(entry);
    }

    /// Waits until neither the daemon nor any of the others does anything.
    pub(crate) fn await_quiet(&self) {
        let pid = self.daemon.pid();
        let quiet = |waits: &dyn Fn() -> bool| {
            wait_until("all are quiet", || tests::is_asleep(pid) && waits())
        };
        quiet(&|| self.sleeper.as_ref().is_none_or(Waiting::is_quiet));
        quiet(&|| self.blocked.as_ref().is_none_or(Waiting::is_quiet));
    }

    /// What may become of messages while some of the others may have them, or are about to send them.
    pub(crate) fn loosened(&self, fates: Vec<Fate>) -> Vec<Fate> {
        let rendezvous = self.options.attributes().buffering == Buffering::Rendezvous;
        let last = (OTHERS, self.sent.wrapping_sub(1));
        let sending = self.blocked.is_some() && !rendezvous;
        let loosened = |fate: Fate| {
            let loose = self.sleeper.is_some() || sending && (fate.sender, fate.number) == last;
            if loose { fate.perhaps() } else { fate }
        };
        fates.into_iter().map(loosened).collect()
    }

    /// One of the others goes to sleep in `receive`.
    pub(crate) fn sleep_receiving(&mut self) {
        self.open_receiver(0);
        let mut receiver = self.receivers[0].take().expect("it is open");
        let sleeper = Waiting::start(move || {
            // Without a deadline, at which it would look once more by itself.
            let delivery = receiver.receive().expect("it is woken and receives");
            let entry = numbered::read(delivery.bytes(), delivery.attempts());
            delivery.acknowledge();
            (receiver, entry)
        });
        sleeper.sleeps(false);
        self.sleeper = Some(sleeper);
    }

    /// If there is a sleeper it gets what is there, by itself; if nothing is there, what is sent to it now.
    pub(crate) fn end_sleep(&mut self) {
        let Some(sleeper) = self.sleeper.take() else { return };
        wait_until("a sleeper is woken by what is there", || {
            sleeper.thread.is_finished() || self.nothing_is_there() && sleeper.sleeps(false)
        });
        if !sleeper.thread.is_finished() {
            self.send(1);
        }
        let (receiver, entry) = sleeper.end();
        self.receivers[0] = Some(receiver);
        self.got[0].push(entry);
    }

    /// Whether nothing is to be received: nothing unclaimed, and nothing left by anybody.
    fn nothing_is_there(&self) -> bool {
        let detail = self.client.show(MAILBOX).expect("ours to see");
        detail.summary.queued_bytes == 0 && detail.members.iter().all(|member| member.alive)
    }

    /// One of the others sends a message and has to wait: for room, or where nothing is buffered for the
    /// acknowledgement. `endless`: see [`Waiting::sleeps`].
    pub(crate) fn sleep_sending(&mut self, len: usize, endless: bool) {
        let mut sender = self.sender.take().expect("nobody waits with it");
        sender.set_spin_max(Duration::ZERO);
        let message = message(self.sent, len);
        self.sent += 1;
        let blocked = Waiting::start(move || {
            sender.send(&message).expect("it is woken and sends");
            sender
        });
        assert!(blocked.sleeps(endless), "a send should have waited");
        self.blocked = Some(blocked);
    }

    /// Fills the lane of the others, one of whom then sleeps because it is full.
    pub(crate) fn fill_and_sleep_sending(&mut self, endless: bool) {
        let sender = self.sender.as_mut().expect("nobody waits with it");
        for _ in 0..ROOM_MESSAGES {
            sender.try_send(&message(self.sent, ROOM_BYTES)).expect("there is room");
            self.sent += 1;
        }
        self.sleep_sending(ROOM_BYTES, endless);
    }

    /// If one of the others waits in a send, and what it waits for has come about, it is woken by itself.
    pub(crate) fn end_blocked_if(&mut self, come_about: impl FnOnce(&Self) -> bool) {
        if self.blocked.is_some() && come_about(self) {
            self.end_blocked();
        }
    }

    /// Waits for the end of a send that waited, if there is one.
    pub(crate) fn end_blocked(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            self.sender = Some(blocked.end());
        }
    }
}
