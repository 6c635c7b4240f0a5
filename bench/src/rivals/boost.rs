//! Boost.Interprocess's message_queue: a heap of messages in shared memory, behind a mutex and condition variables.

use std::ffi::CString;

use anyhow::{Result, bail};
use measure::ends::{Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use measure::job::{Channel, Job};
use measure::load::{Load, Wait};
use measure::stage::Stage;
use measure::system::System;

use super::is_copied;
use crate::calls::boost::{self, Queue};

/// Boost.Interprocess's message_queue.
#[derive(Debug)]
pub(crate) struct BoostQueue;

impl System for BoostQueue {
    fn key(&self) -> &str {
        "boost"
    }

    fn name(&self) -> &str {
        "Boost message_queue"
    }

    fn suits(&self, load: &Load) -> bool {
        is_copied(load)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let open = |channel: &Channel| -> Result<End> {
            let name = CString::new(channel.name.as_str())?;
            let queue = match job.first {
                true => Queue::create(&name, job.load.buffered_messages(), job.load.bytes)?,
                false => Queue::open(&name)?,
            };
            Ok(End { queue, buffer: vec![0; job.load.bytes] })
        };
        let sender = job.channel_out.as_ref().map(open).transpose()?;
        let receiver = job.channel_in.as_ref().map(open).transpose()?;
        let ends = Ends { sender, receiver };
        if job.load.wait == Wait::Polling {
            return stage.run(job, ends.polled(job.load.bytes));
        }
        stage.run(job, ends.copied(job.load.bytes))
    }

    fn clean_up(&self, name: &str) {
        if let Ok(name) = CString::new(name) {
            boost::remove(&name);
        }
    }
}

struct End {
    queue: Queue,
    buffer: Vec<u8>,
}

impl SendBytes for End {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        self.queue.send(message, true).map(drop)
    }
}

impl TrySendBytes for End {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        self.queue.send(message, false)
    }
}

impl ReceiveEnd for End {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        match self.queue.receive(&mut self.buffer, true)? {
            Some(len) => Ok(look(&self.buffer[..len])),
            None => bail!("the queue did not wait"),
        }
    }
}

impl TryReceive for End {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        let len = self.queue.receive(&mut self.buffer, false)?;
        Ok(len.map(|len| look(&self.buffer[..len])))
    }
}
