//! What the machine gives at best: the time of a bounced cache line, and a bare ring.
//!
//! Both run in two threads of this process, one on each core, in safe code. Nothing that passes
//! messages between two cores can beat them by much.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::peer::pin;

/// Keeps words of different writers apart, neighbour prefetch included.
#[repr(align(128))]
#[derive(Default)]
struct Apart<T>(T);

/// The one-way time of a cache line between two cores, in ns.
pub(super) fn bounce_ns(cores: (usize, usize)) -> Result<f64> {
    const TRIPS: u64 = 100_000;
    let word = Apart(AtomicU64::new(0));
    let trip = |core: usize, turn: u64| -> Result<Duration> {
        pin(core)?;
        let mut start = Instant::now();
        for round in 0..TRIPS {
            if round == TRIPS / 10 {
                start = Instant::now();
            }
            // Relaxed: nothing but the word itself is passed.
            while word.0.load(Ordering::Relaxed) != round * 2 + turn {
                spin_loop();
            }
            word.0.store(round * 2 + turn + 1, Ordering::Relaxed);
        }
        Ok(start.elapsed())
    };
    let elapsed = thread::scope(|scope| {
        let other = scope.spawn(|| trip(cores.1, 1));
        let this = scope.spawn(|| trip(cores.0, 0));
        join(other).and(join(this))
    })?;
    Ok(elapsed.as_nanos() as f64 / (TRIPS - TRIPS / 10) as f64 / 2.0)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the benchmark has panicked"))?
}

/// Words of the ring: as many bytes as a default lane has.
const WORDS: usize = (256 << 10) / 8;
/// Words in front of each record, as a lane's record has them.
const HEADER_WORDS: usize = 2;

/// A ring with one writer and one reader, each with a cached view of the other's index.
struct Ring {
    slots: Box<[AtomicU64]>,
    /// Words written, ever. Written by the sender.
    tail: Apart<AtomicU64>,
    /// Words read, ever. Written by the receiver.
    head: Apart<AtomicU64>,
    /// The sender sends no more.
    ended: Apart<AtomicBool>,
}

/// Messages a second through a bare ring, for messages of so many bytes.
pub(super) fn ring_rate(cores: (usize, usize), bytes: usize, duration: Duration) -> Result<f64> {
    let ring = Ring {
        slots: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        tail: Apart::default(),
        head: Apart::default(),
        ended: Apart::default(),
    };
    // Records are whole granules of 16 bytes.
    let record = HEADER_WORDS + (bytes / 8).next_multiple_of(2);
    let (sent, (received, elapsed)) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| pin(cores.0).map(|()| ring.send(record, duration)));
        let receiver = scope.spawn(|| pin(cores.1).and_then(|()| ring.receive(record)));
        Ok((join(sender)?, join(receiver)?))
    })?;
    ensure!(sent == received, "the ring lost messages: {sent} sent, {received} received");
    Ok(received as f64 / elapsed.as_secs_f64())
}

impl Ring {
    #[inline]
    fn slot(&self, position: u64) -> &AtomicU64 {
        &self.slots[position as usize % WORDS]
    }

    fn send(&self, record: usize, duration: Duration) -> u64 {
        let (mut tail, mut limit, mut sent) = (0u64, WORDS as u64, 0u64);
        let end = Instant::now() + duration;
        loop {
            if sent.is_multiple_of(4096) && Instant::now() >= end {
                break;
            }
            while tail + record as u64 > limit {
                // Acquire: the receiver is done with the slots; pairs with its Release of `head`.
                limit = self.head.0.load(Ordering::Acquire) + WORDS as u64;
                if tail + record as u64 > limit {
                    // Looking all the time would take the line away from the receiver.
                    (0..100).for_each(|_| spin_loop());
                }
            }
            // Relaxed: the Release below publishes them.
            self.slot(tail).store(record as u64, Ordering::Relaxed);
            for word in 1..record as u64 {
                self.slot(tail + word).store(sent, Ordering::Relaxed);
            }
            tail += record as u64;
            // Release: makes the record visible; pairs with the Acquire in `receive`.
            self.tail.0.store(tail, Ordering::Release);
            sent += 1;
        }
        self.ended.0.store(true, Ordering::Release);
        sent
    }

    fn receive(&self, record: usize) -> Result<(u64, Duration)> {
        let (mut head, mut published, mut received) = (0u64, 0u64, 0u64);
        let start = Instant::now();
        loop {
            if head == published {
                let ended = self.ended.0.load(Ordering::Acquire);
                // Acquire: pairs with the Release of `tail`.
                published = self.tail.0.load(Ordering::Acquire);
                if head == published {
                    if ended {
                        break;
                    }
                    (0..10).for_each(|_| spin_loop());
                    continue;
                }
            }
            let len = self.slot(head).load(Ordering::Relaxed);
            let same = (1..record as u64)
                .all(|word| self.slot(head + word).load(Ordering::Relaxed) == received);
            ensure!(len == record as u64 && same, "the ring mixed up message {received}");
            head += record as u64;
            // Release: the slots are free; pairs with the Acquire in `send`.
            self.head.0.store(head, Ordering::Release);
            received += 1;
        }
        Ok((received, start.elapsed()))
    }
}
