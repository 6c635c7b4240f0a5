//! shmem-ipc: a ring with one writer and one reader, and eventfds to wake them. It is a ring of items of one type: ours
//! are arrays, a type for each length of a message.

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail};
use measure::ends::{Ends, ReceiveEnd, SendBytes, SendEnd, TryReceive, TrySendBytes};
use measure::inherited;
use measure::job::{Channel, Job};
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::{Prepared, System};
use shmem_ipc::sharedring::{Receiver, Sender};

use super::is_copied;
use crate::calls::shmem_ipc::{try_receive, try_send};

/// shmem-ipc.
#[derive(Debug)]
pub(crate) struct ShmemIpc;

/// Calls a function whose parameter is the length of a message.
macro_rules! with_bytes {
    ($bytes:expr, $function:ident($($argument:expr),*)) => {
        match $bytes {
            8 => $function::<8>($($argument),*),
            64 => $function::<64>($($argument),*),
            1024 => $function::<1024>($($argument),*),
            16_384 => $function::<16_384>($($argument),*),
            65_536 => $function::<65_536>($($argument),*),
            1_048_576 => $function::<1_048_576>($($argument),*),
            bytes => bail!("there is no type of {bytes} bytes"),
        }
    };
}

impl System for ShmemIpc {
    fn key(&self) -> &str {
        "shmem-ipc"
    }

    fn suits(&self, load: &Load) -> bool {
        (is_copied(load) || load.kind == Kind::InPlace) && load.is_one_to_one()
    }

    fn prepare(&self, load: &Load, _name: &str) -> Result<Prepared> {
        with_bytes!(load.bytes, prepare(load))
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        with_bytes!(job.load.bytes, work(job, stage))
    }
}

fn prepare<const BYTES: usize>(load: &Load) -> Result<Prepared> {
    let ring = Sender::<[u8; BYTES]>::new(load.buffered_messages())?;
    let files = [ring.memfd().as_file(), ring.empty_signal(), ring.full_signal()];
    let descriptors = files.map(|file| Ok(OwnedFd::from(file.try_clone()?)));
    let descriptors = descriptors.into_iter().collect::<Result<_>>()?;
    Ok(Prepared { descriptors, ..Prepared::default() })
}

fn work<const BYTES: usize>(job: &Job, stage: &mut Stage) -> Result<()> {
    let files = |channel: &Channel| -> Result<[File; 3]> {
        let descriptors: [OwnedFd; 3] = inherited::descriptors(channel)?;
        Ok(descriptors.map(File::from))
    };
    let messages = job.load.buffered_messages();
    let out = job.channel_out.as_ref().map(|channel| -> Result<_> {
        let [memory, empty, full] = files(channel)?;
        Ok(Sending(Sender::<[u8; BYTES]>::open(messages, memory, empty, full)?))
    });
    let in_ = job.channel_in.as_ref().map(|channel| -> Result<_> {
        let [memory, empty, full] = files(channel)?;
        let ring = Receiver::<[u8; BYTES]>::open(messages, memory, empty, full)?;
        let copies = job.load.kind != Kind::InPlace;
        Ok(Receiving { ring, message: vec![0; BYTES], copies })
    });
    let ends = Ends { sender: out.transpose()?, receiver: in_.transpose()? };
    match (job.load.kind, job.load.wait) {
        (Kind::InPlace, _) => stage.run(job, ends),
        (_, Wait::Polling) => stage.run(job, ends.polled(BYTES)),
        _ => stage.run(job, ends.copied(BYTES)),
    }
}

struct Sending<const BYTES: usize>(Sender<[u8; BYTES]>);

impl<const BYTES: usize> SendEnd for Sending<BYTES> {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        loop {
            if let Some(written) = try_send(&mut self.0, &mut write)? {
                return Ok(written);
            }
            self.0.block_until_writable()?;
        }
    }
}

impl<const BYTES: usize> SendBytes for Sending<BYTES> {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        self.send(|bytes| bytes.copy_from_slice(message))
    }
}

impl<const BYTES: usize> TrySendBytes for Sending<BYTES> {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        let sent = try_send(&mut self.0, &mut |bytes| bytes.copy_from_slice(message))?;
        Ok(sent.is_some())
    }
}

struct Receiving<const BYTES: usize> {
    ring: Receiver<[u8; BYTES]>,
    message: Vec<u8>,
    copies: bool,
}

impl<const BYTES: usize> ReceiveEnd for Receiving<BYTES> {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            if let Some(seen) = self.try_receive(&mut look)? {
                return Ok(seen);
            }
            self.ring.block_until_readable()?;
        }
    }
}

impl<const BYTES: usize> TryReceive for Receiving<BYTES> {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        if !self.copies {
            return try_receive(&mut self.ring, look);
        }
        let message = &mut self.message;
        let there = try_receive(&mut self.ring, &mut |bytes| message.copy_from_slice(bytes))?;
        Ok(there.map(|()| look(message)))
    }
}
