//! One cache line, bounced between two processes that never sleep: its one word is the message's first eight bytes,
//! and says whose turn it is.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use measure::ends::{Ends, ReceiveEnd, SendEnd};
use measure::inherited;
use measure::job::{Job, Role};
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::{Prepared, Standing, System};

use crate::calls::shared::{self, Shared};

/// A bounced cache line.
#[derive(Debug)]
pub(crate) struct Line;

impl System for Line {
    fn key(&self) -> &str {
        "line"
    }

    fn name(&self) -> &str {
        "cache line"
    }

    fn standing(&self) -> Standing {
        Standing::Floor
    }

    fn suits(&self, load: &Load) -> bool {
        matches!(load.kind, Kind::PingPong | Kind::Call)
            && load.wait != Wait::Asleep
            && !load.one_core
    }

    fn prepare(&self, _load: &Load, _name: &str) -> Result<Prepared> {
        Ok(Prepared { descriptors: vec![shared::create(4096)?], ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        // Both ways go through the first channel's line: who starts sends on it, who answers receives from it.
        let (channel, side) = match job.role {
            Role::Ping => (&job.channel_out, Side::Starts),
            _ => (&job.channel_in, Side::Answers),
        };
        let channel = channel.as_ref().context("this job has no channel")?;
        let [memory] = inherited::descriptors(channel)?;
        let end = || -> Result<End> {
            Ok(End { shared: Shared::map(&memory)?, message: vec![0; job.load.bytes], side })
        };
        stage.run(job, Ends { sender: Some(end()?), receiver: Some(end()?) })
    }
}

/// Whose word it is: the lowest bit tells. Before the first message it is the answerer's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Answers,
    Starts,
}

struct End {
    shared: Shared,
    message: Vec<u8>,
    side: Side,
}

impl SendEnd for End {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.message);
        let first = self.message.first_chunk().copied().unwrap_or_default();
        // The highest bit, which the only sender's number does not need, makes room for the lowest.
        let word = u64::from_le_bytes(first) << 1 | self.side as u64;
        // Release, for form: nothing but the word itself is passed.
        self.shared.word(0).store(word, Ordering::Release);
        Ok(written)
    }
}

impl ReceiveEnd for End {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        let word = self.shared.word(0);
        let theirs = 1 - self.side as u64;
        let seen = loop {
            let seen = word.load(Ordering::Acquire);
            // All zeros is what nobody has written yet.
            if seen & 1 == theirs && (seen != 0 || self.side == Side::Starts) {
                break seen;
            }
            spin_loop();
        };
        // The rest of a message is what its first word says it is.
        measure::check::restore(&mut self.message, seen >> 1);
        Ok(look(&self.message))
    }
}
