//! What the kernel offers: POSIX message queues, pipes, Unix seqpacket sockets.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mqueue::{
    MQ_OFlag, MqAttr, MqdT, mq_attr_member_t, mq_close, mq_open, mq_receive, mq_send, mq_unlink,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::RcvBuf, sockopt::SndBuf,
};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read, write};

use super::measure::{Ends, ReceiveEnd, SendEnd};
use super::plan::{Job, Load, System};

/// Creates a queue that buffers as much as the others do, or as near to it as this process may.
/// Returns how many messages it holds, if that is less than it should be.
pub(super) fn create_queue(name: &str, load: &Load) -> Result<Option<usize>> {
    // Who may raises the limit on the bytes of its queues; others keep theirs.
    let bytes = 64 << 20;
    let _ = setrlimit(Resource::RLIMIT_MSGQUEUE, bytes, bytes);
    let wanted = (load.buffer_bytes() / load.bytes).clamp(10, 4096);
    let allowed = fs::read_to_string("/proc/sys/fs/mqueue/msg_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(10);
    for depth in [wanted, 1024, 256, 64, allowed, 10].map(|depth| depth.min(wanted)) {
        match open_new_queue(name, depth, load.bytes) {
            Ok(queue) => {
                mq_close(queue)?;
                return Ok((depth < wanted).then_some(depth));
            }
            Err(Errno::EINVAL | Errno::EMFILE | Errno::ENOMEM) => {}
            Err(error) => bail!("cannot create a POSIX message queue: {error}"),
        }
    }
    let bytes = load.bytes;
    bail!(
        "no POSIX message queue may hold messages of {bytes} bytes here (sysctl fs.mqueue.msgsize_max={bytes} would let it)"
    )
}

fn open_new_queue(name: &str, depth: usize, bytes: usize) -> nix::Result<MqdT> {
    let attributes = MqAttr::new(0, depth as mq_attr_member_t, bytes as mq_attr_member_t, 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
    mq_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR, Some(&attributes))
}

/// Takes a queue's name away.
pub(super) fn delete_queue(name: &str) {
    // It may be gone: then it is as it shall be.
    let _ = mq_unlink(name);
}

/// The two ends of a pipe or of a socket pair: to receive from, to send to.
pub(super) fn create_descriptors(system: System, load: &Load) -> Result<(OwnedFd, OwnedFd)> {
    let bytes = load.buffer_bytes();
    if system == System::Pipe {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC)?;
        // Best effort: an unprivileged process may have less.
        let _ = fcntl(&write_end, FcntlArg::F_SETPIPE_SZ(bytes as i32));
        return Ok((read_end, write_end));
    }
    let family = AddressFamily::Unix;
    let (one, other) = socketpair(family, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // Best effort, as above.
    let _ = setsockopt(&other, SndBuf, &bytes);
    let _ = setsockopt(&one, RcvBuf, &bytes);
    Ok((one, other))
}

/// An end of a POSIX message queue.
pub(super) struct Queue {
    descriptor: Option<MqdT>,
    buffer: Vec<u8>,
}

impl Queue {
    fn open(name: &str, bytes: usize) -> Result<Self> {
        let descriptor = mq_open(name, MQ_OFlag::O_RDWR, Mode::empty(), None)?;
        Ok(Self { descriptor: Some(descriptor), buffer: vec![0; bytes] })
    }

    fn descriptor(&self) -> nix::Result<&MqdT> {
        self.descriptor.as_ref().ok_or(Errno::EBADF)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(descriptor) = self.descriptor.take() {
            // Nothing is left to do about a descriptor that cannot be closed.
            let _ = mq_close(descriptor);
        }
    }
}

impl SendEnd for Queue {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        Ok(mq_send(self.descriptor()?, message, 0)?)
    }
}

impl ReceiveEnd for Queue {
    #[inline]
    fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let Some(descriptor) = &self.descriptor else { bail!("the queue is closed") };
        let mut priority = 0;
        let len = mq_receive(descriptor, &mut self.buffer, &mut priority)?;
        Ok(look(&self.buffer[..len]))
    }
}

/// Opens the queues that a job needs.
pub(super) fn open_queues(job: &Job) -> Result<Ends<Queue, Queue>> {
    let open = |name: &Option<String>| {
        name.as_deref().map(|name| Queue::open(name, job.bytes)).transpose()
    };
    Ok(Ends { sender: open(&job.channel_out)?, receiver: open(&job.channel_in)? })
}

/// An end of a pipe or of a seqpacket socket.
pub(super) struct Descriptor {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl SendEnd for Descriptor {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < message.len() {
            sent += write(&self.fd, &message[sent..])?;
        }
        Ok(())
    }
}

impl ReceiveEnd for Descriptor {
    #[inline]
    fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let mut received = 0;
        while received < self.buffer.len() {
            match read(&self.fd, &mut self.buffer[received..])? {
                0 => bail!("the other end is gone"),
                len => received += len,
            }
        }
        Ok(look(&self.buffer))
    }
}

/// A peer's own ends: it sends to its stdout and receives from its stdin.
pub(super) fn own_descriptors(job: &Job) -> Result<Ends<Descriptor, Descriptor>> {
    let end = |fd: io::Result<OwnedFd>| -> Result<Descriptor> {
        let fd = fd.context("cannot take over a descriptor")?;
        Ok(Descriptor { fd, buffer: vec![0; job.bytes] })
    };
    Ok(Ends {
        sender: Some(end(io::stdout().as_fd().try_clone_to_owned())?),
        receiver: Some(end(io::stdin().as_fd().try_clone_to_owned())?),
    })
}

/// Create, open both ends, one message, delete.
pub(super) fn set_up(name: &str, system: System, load: &Load) -> Result<()> {
    let message = vec![1; load.bytes];
    let look = |bytes: &[u8]| assert_eq!(bytes.len(), load.bytes);
    if system == System::Mq {
        create_queue(name, load)?;
        let mut sender = Queue::open(name, load.bytes)?;
        let mut receiver = Queue::open(name, load.bytes)?;
        sender.send(&message)?;
        receiver.receive(look)?;
        delete_queue(name);
        return Ok(());
    }
    let (read_end, write_end) = create_descriptors(system, load)?;
    Descriptor { fd: write_end, buffer: Vec::new() }.send(&message)?;
    Descriptor { fd: read_end, buffer: vec![0; load.bytes] }.receive(look)
}
