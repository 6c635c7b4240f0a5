//! Pipes and Unix sockets.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::RcvBuf, sockopt::SndBuf,
};
use nix::unistd::{pipe2, read, write};

use crate::ends::{Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use crate::inherited;
use crate::job::{Channel, Job, Role};
use crate::load::{Kind, Load, Wait};
use crate::loops;
use crate::stage::Stage;
use crate::system::{Prepared, System};

/// Pipes.
#[derive(Clone, Copy, Debug)]
pub struct Pipe;

/// Unix sockets that keep message boundaries.
#[derive(Clone, Copy, Debug)]
pub struct Seqpacket;

/// Unix sockets that do not.
#[derive(Clone, Copy, Debug)]
pub struct UnixStream;

/// The two ends of one channel: to receive from, to send to.
type Pair = [OwnedFd; 2];

impl System for Pipe {
    fn key(&self) -> &str {
        "pipe"
    }

    fn suits(&self, load: &Load) -> bool {
        is_carried(load)
    }

    fn prepare(&self, load: &Load, _name: &str) -> Result<Prepared> {
        prepared(load, pipe)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        work(job, stage, pipe)
    }
}

impl System for Seqpacket {
    fn key(&self) -> &str {
        "seqpacket"
    }

    fn name(&self) -> &str {
        "Unix seqpacket"
    }

    fn suits(&self, load: &Load) -> bool {
        is_carried(load)
    }

    fn prepare(&self, load: &Load, _name: &str) -> Result<Prepared> {
        prepared(load, seqpacket)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        work(job, stage, seqpacket)
    }
}

impl System for UnixStream {
    fn key(&self) -> &str {
        "unix-stream"
    }

    fn name(&self) -> &str {
        "Unix stream"
    }

    fn suits(&self, load: &Load) -> bool {
        // Who competes for bytes gets parts of messages.
        is_carried(load) && load.is_one_to_one()
    }

    fn prepare(&self, load: &Load, _name: &str) -> Result<Prepared> {
        prepared(load, stream)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        work(job, stage, stream)
    }
}

fn is_carried(load: &Load) -> bool {
    !matches!(load.kind, Kind::InPlace | Kind::Batches)
}

fn prepared(load: &Load, pair: fn(&Load) -> Result<Pair>) -> Result<Prepared> {
    Ok(Prepared { descriptors: pair(load)?.into(), ..Prepared::default() })
}

fn pipe(load: &Load) -> Result<Pair> {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC)?;
    // Best effort: an unprivileged process may have less.
    let _ = fcntl(&write_end, FcntlArg::F_SETPIPE_SZ(load.buffer_bytes as i32));
    Ok([read_end, write_end])
}

fn seqpacket(load: &Load) -> Result<Pair> {
    socket_pair(load, SockType::SeqPacket)
}

fn stream(load: &Load) -> Result<Pair> {
    socket_pair(load, SockType::Stream)
}

fn socket_pair(load: &Load, kind: SockType) -> Result<Pair> {
    let (one, other) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    // Best effort, as above.
    let _ = setsockopt(&other, SndBuf, &load.buffer_bytes);
    let _ = setsockopt(&one, RcvBuf, &load.buffer_bytes);
    Ok([one, other])
}

fn work(job: &Job, stage: &mut Stage, pair: fn(&Load) -> Result<Pair>) -> Result<()> {
    if job.role == Role::Cycle {
        return stage.perform(job, || loops::cycle(job, |_| set_up(&job.load, pair)));
    }
    let end = |channel: &Option<Channel>, index: usize| -> Result<Option<Descriptor>> {
        let Some(channel) = channel else { return Ok(None) };
        let pair: Pair = inherited::descriptors(channel)?;
        let [read_end, write_end] = pair;
        let fd = if index == 0 { read_end } else { write_end };
        if job.load.wait == Wait::Polling {
            fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Some(Descriptor { fd, buffer: vec![0; job.load.bytes] }))
    };
    let ends = Ends { sender: end(&job.channel_out, 1)?, receiver: end(&job.channel_in, 0)? };
    if job.load.wait == Wait::Polling {
        return stage.run(job, ends.polled(job.load.bytes));
    }
    stage.run(job, ends.copied(job.load.bytes))
}

/// An end of a pipe or of a socket pair.
struct Descriptor {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl SendBytes for Descriptor {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < message.len() {
            sent += write(&self.fd, &message[sent..])?;
        }
        Ok(())
    }
}

impl TrySendBytes for Descriptor {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        let mut sent = 0;
        while sent < message.len() {
            match write(&self.fd, &message[sent..]) {
                Ok(len) => sent += len,
                Err(Errno::EAGAIN) if sent == 0 => return Ok(false),
                // What was begun is brought to its end.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl Descriptor {
    /// Reads a whole message; false if there is not even a beginning of one, and that may not be waited for.
    #[inline]
    fn read_message(&mut self) -> Result<bool> {
        let mut received = 0;
        while received < self.buffer.len() {
            match read(&self.fd, &mut self.buffer[received..]) {
                Ok(0) => bail!("the other end is gone"),
                Ok(len) => received += len,
                Err(Errno::EAGAIN) if received == 0 => return Ok(false),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl ReceiveEnd for Descriptor {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.read_message()?;
        Ok(look(&self.buffer))
    }
}

impl TryReceive for Descriptor {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.read_message()?.then(|| look(&self.buffer)))
    }
}

/// Create, open both ends, one message, delete.
fn set_up(load: &Load, pair: fn(&Load) -> Result<Pair>) -> Result<()> {
    let [read_end, write_end] = pair(load)?;
    Descriptor { fd: write_end, buffer: Vec::new() }.send_bytes(&vec![1; load.bytes])?;
    Descriptor { fd: read_end, buffer: vec![0; load.bytes] }.receive(|_| ())
}
