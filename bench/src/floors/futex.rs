//! A raw futex: a word that is set, a waker, a sleeper. What it costs to be woken by another process.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use anyhow::Result;
use measure::ends::{Ends, ReceiveEnd, SendEnd};
use measure::inherited;
use measure::job::{Channel, Job};
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::{Prepared, Standing, System};

use crate::calls::futex;
use crate::calls::shared::{self, Shared};

/// A raw futex between two processes.
#[derive(Debug)]
pub(crate) struct Futex;

/// The receiver's count of messages that it took.
const TAKEN: usize = 128;
/// Where the message lies, away from the words that tell of it.
const MESSAGE: usize = 256;

impl System for Futex {
    fn key(&self) -> &str {
        "futex"
    }

    fn name(&self) -> &str {
        "raw futex"
    }

    fn standing(&self) -> Standing {
        Standing::Floor
    }

    fn suits(&self, load: &Load) -> bool {
        let sleeps = load.wait == Wait::Asleep || load.one_core;
        load.kind == Kind::WakeUp || (load.kind == Kind::PingPong && sleeps)
    }

    fn prepare(&self, _load: &Load, _name: &str) -> Result<Prepared> {
        Ok(Prepared { descriptors: vec![shared::create(4096)?], ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let end = |channel: &Channel| -> Result<End> {
            let [memory] = inherited::descriptors(channel)?;
            Ok(End { shared: Shared::map(&memory)?, message: vec![0; job.load.bytes], count: 0 })
        };
        let sender = job.channel_out.as_ref().map(end).transpose()?;
        let receiver = job.channel_in.as_ref().map(end).transpose()?;
        stage.run(job, Ends { sender, receiver })
    }
}

struct End {
    shared: Shared,
    message: Vec<u8>,
    /// Messages so far; the word counts them too.
    count: u32,
}

impl SendEnd for End {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.message);
        // There is room for one: who answers has taken it long before the next.
        while self.shared.half_word(TAKEN).load(Ordering::Acquire) != self.count {
            spin_loop();
        }
        self.shared.write(MESSAGE, &self.message);
        self.count = self.count.wrapping_add(1);
        // Release: makes the message visible; pairs with the Acquire in `receive`.
        self.shared.half_word(0).store(self.count, Ordering::Release);
        futex::wake(self.shared.half_word(0));
        Ok(written)
    }
}

impl ReceiveEnd for End {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        // Acquire: pairs with the Release in `send`.
        while self.shared.half_word(0).load(Ordering::Acquire) == self.count {
            futex::wait(self.shared.half_word(0), self.count);
        }
        self.count = self.count.wrapping_add(1);
        self.shared.read(MESSAGE, &mut self.message);
        // Release: the message was read; pairs with the Acquire in `send`.
        self.shared.half_word(TAKEN).store(self.count, Ordering::Release);
        Ok(look(&self.message))
    }
}
