//! ipmpsc: a ring in a file that both map, behind a robust mutex and a condition variable.

use std::time::Duration;

use anyhow::Result;
use ipmpsc::{Receiver, Sender, SharedRingBuffer};
use measure::ends::{Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use measure::job::{Channel, Job};
use measure::load::{Load, Wait};
use measure::stage::Stage;
use measure::system::System;
use serde_bytes::Bytes;

use super::{copied_out, is_copied};

/// ipmpsc.
#[derive(Debug)]
pub(crate) struct Ipmpsc;

impl System for Ipmpsc {
    fn key(&self) -> &str {
        "ipmpsc"
    }

    fn suits(&self, load: &Load) -> bool {
        is_copied(load) && load.receivers == 1
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let ring = |channel: &Channel| -> Result<SharedRingBuffer> {
            let path = job.folder.join(&channel.name);
            let path = path.to_string_lossy();
            Ok(match job.first {
                // Each message has two lengths in front: the ring's, and the serializer's.
                true => SharedRingBuffer::create(&path, (job.load.buffer_bytes + 4096) as u32)?,
                false => SharedRingBuffer::open(&path)?,
            })
        };
        let sender = job.channel_out.as_ref().map(ring).transpose()?.map(Sender::new);
        let receiver = job.channel_in.as_ref().map(ring).transpose()?.map(Receiver::new);
        let message = vec![0; job.load.bytes];
        let ends = Ends { sender, receiver }.map(SendRing, |ring| ReceiveRing { ring, message });
        if job.load.wait == Wait::Polling {
            return stage.run(job, ends.polled(job.load.bytes));
        }
        stage.run(job, ends.copied(job.load.bytes))
    }
}

struct SendRing(Sender);

struct ReceiveRing {
    ring: Receiver,
    message: Vec<u8>,
}

impl SendBytes for SendRing {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        Ok(self.0.send(&Bytes::new(message))?)
    }
}

impl TrySendBytes for SendRing {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        Ok(self.0.send_timeout(&Bytes::new(message), Duration::ZERO)?)
    }
}

impl ReceiveEnd for ReceiveRing {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        // Its quickest way: the message is copied from where it lies in the ring.
        let mut context = self.ring.zero_copy_context();
        let message: &Bytes = context.recv()?;
        Ok(look(copied_out(message, &mut self.message, true)))
    }
}

impl TryReceive for ReceiveRing {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        let mut context = self.ring.zero_copy_context();
        let message: Option<&Bytes> = context.try_recv()?;
        Ok(message.map(|message| look(copied_out(message, &mut self.message, true))))
    }
}
