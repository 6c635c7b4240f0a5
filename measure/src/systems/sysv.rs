//! System V message queues.

use std::sync::Mutex;

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use super::sysv_calls::{self, Message};
use crate::ends::{Ends, ReceiveEnd, SendEnd};
use crate::job::{Channel, Job, Role};
use crate::load::{Kind, Load, Wait};
use crate::loops;
use crate::stage::Stage;
use crate::system::{Prepared, System};

/// System V message queues.
#[derive(Clone, Copy, Debug)]
pub struct SysVQueue;

/// The queues that this process has made and not removed: our names for them, and the kernel's.
static QUEUES: Mutex<Vec<(String, i32)>> = Mutex::new(Vec::new());

impl System for SysVQueue {
    fn key(&self) -> &str {
        "sysv"
    }

    fn name(&self) -> &str {
        "SysV mq"
    }

    fn suits(&self, load: &Load) -> bool {
        !matches!(load.kind, Kind::InPlace | Kind::Batches)
    }

    fn prepare(&self, load: &Load, name: &str) -> Result<Prepared> {
        let queue = sysv_calls::create().context("cannot create a System V message queue")?;
        if let Ok(mut queues) = QUEUES.lock() {
            queues.push((name.to_owned(), queue));
        }
        let capacity = sysv_calls::set_capacity(queue, load.buffer_bytes)?;
        let note = (capacity < load.buffer_bytes).then(|| {
            "SysV mq held fewer bytes than the others: the limit kernel.msgmnb allows no more."
                .to_owned()
        });
        Ok(Prepared { name: Some(queue.to_string()), note, ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        if job.role == Role::Cycle {
            return stage.perform(job, || loops::cycle(job, |_| set_up(&job.load)));
        }
        let flags = if job.load.wait == Wait::Polling { libc::IPC_NOWAIT } else { 0 };
        let open = |channel: &Option<Channel>| -> Result<Option<Queue>> {
            let Some(channel) = channel else { return Ok(None) };
            let queue = channel.name.parse().context("not a queue's number")?;
            Ok(Some(Queue { queue, flags, message: Message::new(job.load.bytes) }))
        };
        let ends = Ends { sender: open(&job.channel_out)?, receiver: open(&job.channel_in)? };
        stage.run(job, ends)
    }

    fn clean_up(&self, name: &str) {
        let Ok(mut queues) = QUEUES.lock() else { return };
        queues.retain(|(theirs, queue)| {
            if theirs == name {
                // It may be gone: then it is as it shall be.
                let _ = sysv_calls::remove(*queue);
            }
            theirs != name
        });
    }
}

/// An end of a queue.
struct Queue {
    queue: i32,
    flags: i32,
    message: Message,
}

impl SendEnd for Queue {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(self.message.bytes_mut());
        while let Err(error) = self.message.send(self.queue, self.flags) {
            wait_unless_it_lasts(error)?;
        }
        Ok(written)
    }
}

impl ReceiveEnd for Queue {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            match self.message.receive(self.queue, self.flags) {
                Ok(len) => return Ok(look(&self.message.bytes()[..len])),
                Err(error) => wait_unless_it_lasts(error)?,
            }
        }
    }
}

/// Full and empty pass, where one polls.
fn wait_unless_it_lasts(error: Errno) -> Result<()> {
    match error {
        Errno::EAGAIN | Errno::ENOMSG | Errno::EINTR => {
            std::hint::spin_loop();
            Ok(())
        }
        error => Err(error.into()),
    }
}

/// Create, open both ends, one message, delete.
fn set_up(load: &Load) -> Result<()> {
    let queue = sysv_calls::create()?;
    let mut end = Queue { queue, flags: 0, message: Message::new(load.bytes) };
    let passed = end.send(|_| ()).and_then(|()| end.receive(|_| ()));
    sysv_calls::remove(queue)?;
    passed
}
