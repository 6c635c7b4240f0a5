//! POSIX message queues.

use std::fs;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::mqueue::{
    MQ_OFlag, MqAttr, MqdT, mq_attr_member_t, mq_close, mq_open, mq_receive, mq_send, mq_unlink,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;

use crate::ends::{Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use crate::job::{Channel, Job, Role};
use crate::load::{Kind, Load, Wait};
use crate::loops;
use crate::stage::Stage;
use crate::system::{Prepared, System};

/// POSIX message queues.
#[derive(Clone, Copy, Debug)]
pub struct PosixQueue;

impl System for PosixQueue {
    fn key(&self) -> &str {
        "mq"
    }

    fn name(&self) -> &str {
        "POSIX mq"
    }

    fn suits(&self, load: &Load) -> bool {
        !matches!(load.kind, Kind::InPlace | Kind::Batches)
    }

    fn prepare(&self, load: &Load, name: &str) -> Result<Prepared> {
        let name = queue_name(name);
        let depth = create(&name, load)?;
        let note = (depth < wanted_depth(load)).then(|| {
            "POSIX mq held fewer messages than the others: the limits fs.mqueue.msg_max and RLIMIT_MSGQUEUE \
             allow no more."
                .to_owned()
        });
        Ok(Prepared { name: Some(name), note, ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        if job.role == Role::Cycle {
            let name = job.channels().next().map_or("", |channel| &channel.name);
            return stage.perform(job, || {
                loops::cycle(job, |count| set_up(&format!("{name}-{count}"), &job.load))
            });
        }
        let polls = job.load.wait == Wait::Polling;
        let open = |channel: &Option<Channel>| {
            let channel = channel.as_ref();
            channel.map(|channel| Queue::open(&channel.name, job.load.bytes, polls)).transpose()
        };
        let ends = Ends { sender: open(&job.channel_out)?, receiver: open(&job.channel_in)? };
        if polls {
            return stage.run(job, ends.polled(job.load.bytes));
        }
        stage.run(job, ends.copied(job.load.bytes))
    }

    fn clean_up(&self, name: &str) {
        // It may be gone: then it is as it shall be.
        let _ = mq_unlink(queue_name(name).as_str());
    }
}

/// POSIX wants a slash in front of a queue's name.
fn queue_name(name: &str) -> String {
    format!("/{name}")
}

fn wanted_depth(load: &Load) -> usize {
    load.buffered_messages().clamp(10, 4096)
}

/// Creates a queue that buffers as much as the others do, or as near to it as this process may.
/// Returns how many messages it holds.
fn create(name: &str, load: &Load) -> Result<usize> {
    // Who may raises the limit on the bytes of its queues; others keep theirs.
    let limit = 64 << 20;
    let _ = setrlimit(Resource::RLIMIT_MSGQUEUE, limit, limit);
    let wanted = wanted_depth(load);
    let allowed = fs::read_to_string("/proc/sys/fs/mqueue/msg_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(10);
    for depth in [wanted, 1024, 256, 64, allowed, 10].map(|depth| depth.min(wanted)) {
        match open_new(name, depth, load.bytes) {
            Ok(queue) => {
                mq_close(queue)?;
                return Ok(depth);
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

fn open_new(name: &str, depth: usize, bytes: usize) -> nix::Result<MqdT> {
    let attributes = MqAttr::new(0, depth as mq_attr_member_t, bytes as mq_attr_member_t, 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
    mq_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR, Some(&attributes))
}

/// An end of a queue.
struct Queue {
    descriptor: Option<MqdT>,
    buffer: Vec<u8>,
}

impl Queue {
    fn open(name: &str, bytes: usize, polls: bool) -> Result<Self> {
        let flags = if polls { MQ_OFlag::O_NONBLOCK } else { MQ_OFlag::empty() };
        let descriptor = mq_open(name, MQ_OFlag::O_RDWR | flags, Mode::empty(), None)?;
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

impl SendBytes for Queue {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        Ok(mq_send(self.descriptor()?, message, 0)?)
    }
}

impl TrySendBytes for Queue {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        match mq_send(self.descriptor()?, message, 0) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl ReceiveEnd for Queue {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        let Some(descriptor) = &self.descriptor else { bail!("the queue is closed") };
        let mut priority = 0;
        let len = mq_receive(descriptor, &mut self.buffer, &mut priority)?;
        Ok(look(&self.buffer[..len]))
    }
}

impl TryReceive for Queue {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        let Some(descriptor) = &self.descriptor else { bail!("the queue is closed") };
        let mut priority = 0;
        match mq_receive(descriptor, &mut self.buffer, &mut priority) {
            Ok(len) => Ok(Some(look(&self.buffer[..len]))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Create, open both ends, one message, delete.
fn set_up(name: &str, load: &Load) -> Result<()> {
    create(name, load)?;
    let mut sender = Queue::open(name, load.bytes, false)?;
    let mut receiver = Queue::open(name, load.bytes, false)?;
    sender.send_bytes(&vec![1; load.bytes])?;
    receiver.receive(|_| ())?;
    mq_unlink(name)?;
    Ok(())
}
