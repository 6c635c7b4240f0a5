//! A ring with one writer and one reader, between two threads, and nothing around it: what the machine gives at best
//! to who passes messages between two cores. Safe code; records are framed as ours are.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::ends::{ReceiveEnd, SendEnd};
use crate::job::Job;
use crate::load::{Kind, Load};
use crate::stage::Stage;
use crate::system::{Standing, System};
use crate::threads;

/// A bare ring between two threads.
#[derive(Clone, Copy, Debug)]
pub struct BareRing;

impl System for BareRing {
    fn key(&self) -> &str {
        "bare-ring"
    }

    fn name(&self) -> &str {
        "bare ring"
    }

    fn standing(&self) -> Standing {
        Standing::Floor
    }

    fn suits(&self, load: &Load) -> bool {
        load.kind == Kind::Stream && load.is_one_to_one() && load.bytes <= 64 && !load.one_core
    }

    fn is_in_one_process(&self) -> bool {
        true
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        threads::run(job, stage, || ring(job.load.bytes, job.load.buffer_bytes))
    }
}

/// Words in front of each record, as a lane's record has them.
const HEADER_WORDS: usize = 2;

/// Keeps words of different writers apart, neighbour prefetch included.
#[repr(align(128))]
#[derive(Default)]
struct Apart<T>(T);

struct Ring {
    slots: Box<[AtomicU64]>,
    /// Words written, ever. Written by the sender.
    tail: Apart<AtomicU64>,
    /// Words read, ever. Written by the receiver.
    head: Apart<AtomicU64>,
}

impl Ring {
    #[inline]
    fn slot(&self, position: u64) -> &AtomicU64 {
        // Their number is a power of two.
        &self.slots[position as usize & (self.slots.len() - 1)]
    }
}

/// An end of the ring, with its own position and a remembered view of the other's.
struct End {
    ring: Arc<Ring>,
    position: u64,
    limit: u64,
    message: Vec<u8>,
    /// Words of a record.
    record: u64,
}

/// To send on.
struct Sender(End);

/// To receive from.
struct Receiver(End);

fn ring(bytes: usize, capacity_bytes: usize) -> (Sender, Receiver) {
    let words = (capacity_bytes / 8).next_power_of_two();
    let ring = Arc::new(Ring {
        slots: (0..words).map(|_| AtomicU64::new(0)).collect(),
        tail: Apart::default(),
        head: Apart::default(),
    });
    let end = |limit| End {
        ring: Arc::clone(&ring),
        position: 0,
        limit,
        message: vec![0; bytes],
        // Records are whole granules of 16 bytes.
        record: (HEADER_WORDS + bytes.div_ceil(8).next_multiple_of(2)) as u64,
    };
    (Sender(end(words as u64)), Receiver(end(0)))
}

impl SendEnd for Sender {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let End { ring, position, limit, message, record } = &mut self.0;
        let written = write(message);
        while *position + *record > *limit {
            // Acquire: the receiver is done with the slots; pairs with its Release of `head`.
            *limit = ring.head.0.load(Ordering::Acquire) + ring.slots.len() as u64;
            if *position + *record > *limit {
                // Looking all the time would take the line away from the receiver.
                (0..100).for_each(|_| spin_loop());
            }
        }
        // Relaxed, here and below: the Release of the tail publishes them.
        ring.slot(*position).store(message.len() as u64, Ordering::Relaxed);
        let body = *position + HEADER_WORDS as u64;
        for (word, bytes) in (body..).zip(message.as_chunks().0) {
            ring.slot(word).store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        *position += *record;
        // Release: makes the record visible; pairs with the Acquire in `receive`.
        ring.tail.0.store(*position, Ordering::Release);
        Ok(written)
    }
}

impl ReceiveEnd for Receiver {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        let End { ring, position, limit, message, record } = &mut self.0;
        while *position == *limit {
            // Acquire: pairs with the Release of `tail`.
            *limit = ring.tail.0.load(Ordering::Acquire);
            if *position == *limit {
                (0..10).for_each(|_| spin_loop());
            }
        }
        let len = ring.slot(*position).load(Ordering::Relaxed) as usize;
        let body = *position + HEADER_WORDS as u64;
        for (word, bytes) in (body..).zip(message.as_chunks_mut().0) {
            *bytes = ring.slot(word).load(Ordering::Relaxed).to_le_bytes();
        }
        let seen = look(&message[..len.min(message.len())]);
        *position += *record;
        // Release: the slots are free; pairs with the Acquire in `send`.
        ring.head.0.store(*position, Ordering::Release);
        Ok(seen)
    }
}
