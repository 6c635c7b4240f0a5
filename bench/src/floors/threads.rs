//! Channels between threads: what costs no process its own memory. Shown for comparison only.

use anyhow::{Result, bail};
use crossbeam_channel::{TryRecvError, TrySendError};
use measure::ends::{Polled, ReceiveEnd, SendEnd, TryReceive};
use measure::job::Job;
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::{Standing, System};
use measure::threads;

/// crossbeam-channel, between threads.
#[derive(Debug)]
pub(crate) struct Crossbeam;

/// rtrb, between threads; it never sleeps.
#[derive(Debug)]
pub(crate) struct Rtrb;

/// Messages are arrays: longer ones nobody would send by value.
const BYTES_MAX: usize = 1 << 10;

fn is_carried(load: &Load) -> bool {
    let kind = matches!(load.kind, Kind::Stream | Kind::PingPong | Kind::WakeUp);
    kind && load.is_one_to_one() && load.bytes <= BYTES_MAX
}

impl System for Crossbeam {
    fn key(&self) -> &str {
        "crossbeam"
    }

    fn name(&self) -> &str {
        "crossbeam, threads"
    }

    fn standing(&self) -> Standing {
        Standing::Reference
    }

    fn suits(&self, load: &Load) -> bool {
        is_carried(load)
    }

    fn is_in_one_process(&self) -> bool {
        true
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        match job.load.bytes {
            8 => run_crossbeam::<8>(job, stage),
            64 => run_crossbeam::<64>(job, stage),
            _ => run_crossbeam::<BYTES_MAX>(job, stage),
        }
    }
}

fn run_crossbeam<const BYTES: usize>(job: &Job, stage: &mut Stage) -> Result<()> {
    let messages = job.load.buffered_messages();
    let channel = || {
        let (sender, receiver) = crossbeam_channel::bounded::<[u8; BYTES]>(messages);
        (CrossbeamSender(sender, [0; BYTES]), CrossbeamReceiver(receiver))
    };
    if job.load.wait == Wait::Polling {
        return threads::run(job, stage, || {
            let (sender, receiver) = channel();
            (sender, Polled(receiver))
        });
    }
    threads::run(job, stage, channel)
}

struct CrossbeamSender<const BYTES: usize>(crossbeam_channel::Sender<[u8; BYTES]>, [u8; BYTES]);

impl<const BYTES: usize> SendEnd for CrossbeamSender<BYTES> {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.1);
        // It tries first, and sleeps only where there is no room.
        match self.0.try_send(self.1) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => self.0.send(message)?,
            Err(TrySendError::Disconnected(_)) => bail!("the other side is gone"),
        }
        Ok(written)
    }
}

struct CrossbeamReceiver<const BYTES: usize>(crossbeam_channel::Receiver<[u8; BYTES]>);

impl<const BYTES: usize> ReceiveEnd for CrossbeamReceiver<BYTES> {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        Ok(look(&self.0.recv()?))
    }
}

impl<const BYTES: usize> TryReceive for CrossbeamReceiver<BYTES> {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        match self.0.try_recv() {
            Ok(message) => Ok(Some(look(&message))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => bail!("the other side is gone"),
        }
    }
}

impl System for Rtrb {
    fn key(&self) -> &str {
        "rtrb"
    }

    fn name(&self) -> &str {
        "rtrb, threads"
    }

    fn standing(&self) -> Standing {
        Standing::Reference
    }

    fn suits(&self, load: &Load) -> bool {
        let polls = load.kind == Kind::Stream || load.wait == Wait::Polling;
        is_carried(load) && polls && load.kind != Kind::WakeUp
    }

    fn is_in_one_process(&self) -> bool {
        true
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        match job.load.bytes {
            8 => run_rtrb::<8>(job, stage),
            64 => run_rtrb::<64>(job, stage),
            _ => run_rtrb::<BYTES_MAX>(job, stage),
        }
    }
}

fn run_rtrb<const BYTES: usize>(job: &Job, stage: &mut Stage) -> Result<()> {
    let messages = job.load.buffered_messages();
    threads::run(job, stage, || {
        let (producer, consumer) = rtrb::RingBuffer::<[u8; BYTES]>::new(messages);
        (RtrbSender(producer, [0; BYTES]), Polled(RtrbReceiver(consumer)))
    })
}

struct RtrbSender<const BYTES: usize>(rtrb::Producer<[u8; BYTES]>, [u8; BYTES]);

impl<const BYTES: usize> SendEnd for RtrbSender<BYTES> {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.1);
        while self.0.push(self.1).is_err() {
            std::hint::spin_loop();
        }
        Ok(written)
    }
}

struct RtrbReceiver<const BYTES: usize>(rtrb::Consumer<[u8; BYTES]>);

impl<const BYTES: usize> TryReceive for RtrbReceiver<BYTES> {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.0.pop().ok().map(|message| look(&message)))
    }
}
