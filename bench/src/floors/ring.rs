//! A ring with one writer and one reader in two processes, slots of one size, and nothing around it: no names, no
//! headers, no wake-up.
//!
//! Word 0 counts the messages written, word 128 those read; slot `n` holds message `n` modulo their number.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use anyhow::Result;
use measure::ends::{Ends, ReceiveEnd, SendEnd};
use measure::inherited;
use measure::job::{Channel, Job};
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::{Prepared, Standing, System};

use crate::calls::shared::{self, Shared};

/// A bare ring between two processes.
#[derive(Debug)]
pub(crate) struct Ring;

const TAIL: usize = 0;
const HEAD: usize = 128;
const SLOTS: usize = 4096;
/// Pauses of a full writer between two looks: looking all the time would take the line away from the reader.
const FULL_PAUSES: u32 = 100;
/// Pauses of an idle reader of a stream between two looks, for the same reason.
const EMPTY_PAUSES: u32 = 100;

impl System for Ring {
    fn key(&self) -> &str {
        "ring"
    }

    fn name(&self) -> &str {
        "bare ring"
    }

    fn standing(&self) -> Standing {
        Standing::Floor
    }

    fn suits(&self, load: &Load) -> bool {
        match load.kind {
            Kind::Stream | Kind::InPlace => load.is_one_to_one(),
            Kind::PingPong => load.wait == Wait::Polling,
            _ => false,
        }
    }

    fn prepare(&self, load: &Load, _name: &str) -> Result<Prepared> {
        let memory = shared::create(SLOTS + slots(load) * load.bytes)?;
        Ok(Prepared { descriptors: vec![memory], ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        match (job.load.kind, job.load.bytes) {
            (Kind::InPlace, _) => stage.run(job, open(job)?.map(InPlace, InPlace)),
            // With the size known when they are compiled, the copies need no loop.
            (_, 8) => run_copying(job, stage, [0; 8]),
            (_, 64) => run_copying(job, stage, [0; 64]),
            (_, bytes) => run_copying(job, stage, vec![0; bytes]),
        }
    }
}

fn slots(load: &Load) -> usize {
    load.buffered_messages().next_power_of_two()
}

fn open(job: &Job) -> Result<Ends<End, End>> {
    let pauses = if job.load.kind == Kind::PingPong { 0 } else { EMPTY_PAUSES };
    let end = |channel: &Channel| -> Result<End> {
        let [memory] = inherited::descriptors(channel)?;
        let shared = Shared::map(&memory)?;
        let slots = slots(&job.load) as u64;
        Ok(End { shared, slots, bytes: job.load.bytes, position: 0, limit: 0, pauses })
    };
    let sender = job.channel_out.as_ref().map(end).transpose()?;
    let receiver = job.channel_in.as_ref().map(end).transpose()?;
    Ok(Ends { sender, receiver })
}

fn run_copying<B: Body>(job: &Job, stage: &mut Stage, body: B) -> Result<()> {
    let copying = |end| Copying { end, message: body.clone() };
    stage.run(job, open(job)?.map(copying, copying))
}

/// A message in the process's own memory.
trait Body: AsRef<[u8]> + AsMut<[u8]> + Clone {}

impl<B: AsRef<[u8]> + AsMut<[u8]> + Clone> Body for B {}

/// An end, with its own position and a remembered view of the other's.
struct End {
    shared: Shared,
    slots: u64,
    bytes: usize,
    position: u64,
    limit: u64,
    /// Of an idle reader.
    pauses: u32,
}

impl End {
    #[inline]
    fn offset(&self) -> usize {
        // Their number is a power of two.
        SLOTS + (self.position & (self.slots - 1)) as usize * self.bytes
    }

    #[inline]
    fn wait_for_room(&mut self) {
        while self.position == self.limit {
            // Acquire: the reader is done with the slots; pairs with its Release of the head.
            self.limit = self.shared.word(HEAD).load(Ordering::Acquire) + self.slots;
            if self.position == self.limit {
                (0..FULL_PAUSES).for_each(|_| spin_loop());
            }
        }
    }

    #[inline]
    fn wait_for_message(&mut self) {
        while self.position == self.limit {
            // Acquire: makes the messages visible; pairs with the writer's Release of the tail.
            self.limit = self.shared.word(TAIL).load(Ordering::Acquire);
            if self.position == self.limit {
                (0..self.pauses).for_each(|_| spin_loop());
            }
        }
    }

    /// Goes on to the next slot, and lets the other side know by the word at `place`.
    #[inline]
    fn advance(&mut self, place: usize) {
        self.position += 1;
        // Release: the slot is the other's from now on; pairs with its Acquire above.
        self.shared.word(place).store(self.position, Ordering::Release);
    }
}

/// Copies messages in and out.
struct Copying<B> {
    end: End,
    message: B,
}

impl<B: Body> SendEnd for Copying<B> {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(self.message.as_mut());
        self.end.wait_for_room();
        self.end.shared.write(self.end.offset(), self.message.as_ref());
        self.end.advance(TAIL);
        Ok(written)
    }
}

impl<B: Body> ReceiveEnd for Copying<B> {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.end.wait_for_message();
        self.end.shared.read(self.end.offset(), self.message.as_mut());
        let seen = look(self.message.as_ref());
        self.end.advance(HEAD);
        Ok(seen)
    }
}

/// Writes and reads messages where they lie.
struct InPlace(End);

impl SendEnd for InPlace {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        self.0.wait_for_room();
        let (offset, len) = (self.0.offset(), self.0.bytes);
        let written = write(self.0.shared.slot(offset, len));
        self.0.advance(TAIL);
        Ok(written)
    }
}

impl ReceiveEnd for InPlace {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.0.wait_for_message();
        let (offset, len) = (self.0.offset(), self.0.bytes);
        let seen = look(self.0.shared.slot(offset, len));
        self.0.advance(HEAD);
        Ok(seen)
    }
}
