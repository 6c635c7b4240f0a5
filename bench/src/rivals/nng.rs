//! nng, over ipc://: push and pull, and req and rep for calls.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use measure::check::is_end;
use measure::ends::{AnswerEnd, AskEnd, Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use measure::job::{Channel, Job, Role};
use measure::load::{Kind, Load, Wait};
use measure::loops;
use measure::stage::Stage;
use measure::system::System;
use nng::options::{Options as _, RecvBufferSize, SendBufferSize};
use nng::{Error, Message, Protocol, Socket};

use super::{Meeting, is_copied, meetings};

/// nng.
#[derive(Debug)]
pub(crate) struct Nng;

/// Most messages that nng lets a socket buffer.
const BUFFERED_MAX: usize = 8192;

impl System for Nng {
    fn key(&self) -> &str {
        "nng"
    }

    fn suits(&self, load: &Load) -> bool {
        is_copied(load)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        if job.load.kind == Kind::Call {
            return call(job, stage);
        }
        let open = |channel: &Channel, protocol: Protocol| open(job, channel, protocol);
        let out = job.channel_out.as_ref().map(|channel| open(channel, Protocol::Push0));
        let in_ = job.channel_in.as_ref().map(|channel| open(channel, Protocol::Pull0));
        let ends = Ends { sender: out.transpose()?, receiver: in_.transpose()? };
        let naps = job.load.receivers > 1;
        let ends = ends.map(|socket| Sending { socket, naps }, Receiving);
        if job.load.wait == Wait::Polling {
            return stage.run(job, ends.polled(job.load.bytes));
        }
        stage.run(job, ends.copied(job.load.bytes))
    }
}

fn open(job: &Job, channel: &Channel, protocol: Protocol) -> Result<Socket> {
    let socket = Socket::new(protocol)?;
    // Each side has a queue of its own: together they hold what the others hold. Not every protocol has both.
    let messages = (job.load.buffered_messages() / 2).clamp(1, BUFFERED_MAX) as i32;
    let _ = socket.set_opt::<SendBufferSize>(messages);
    let _ = socket.set_opt::<RecvBufferSize>(messages);
    for Meeting { address, is_ours } in meetings(job, channel) {
        match is_ours {
            true => socket.listen(&address)?,
            false => socket.dial(&address)?,
        }
    }
    Ok(socket)
}

fn call(job: &Job, stage: &mut Stage) -> Result<()> {
    // One socket is both ways.
    let asks = job.role == Role::Ping;
    let channel = if asks { &job.channel_out } else { &job.channel_in };
    let protocol = if asks { Protocol::Req0 } else { Protocol::Rep0 };
    let socket = open(job, &channel.clone().unwrap_or_default(), protocol)?;
    let mut end = Calling { socket, message: vec![0; job.load.bytes] };
    match asks {
        true => stage.perform(job, || loops::ask(job, &mut end)),
        false => stage.perform(job, || loops::answer(job, &mut end)),
    }
}

struct Sending {
    socket: Socket,
    /// Several receive, and each shall get one last message: the next must find the others waiting.
    naps: bool,
}

/// Until all that was sent has come.
const NAP: Duration = Duration::from_millis(50);

impl SendBytes for Sending {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        if self.naps && is_end(message) {
            thread::sleep(NAP);
        }
        self.socket.send(message).map_err(|(_, error)| anyhow!(error))
    }
}

impl TrySendBytes for Sending {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        match self.socket.try_send(message) {
            Ok(()) => Ok(true),
            Err((_, Error::TryAgain)) => Ok(false),
            Err((_, error)) => Err(error.into()),
        }
    }
}

struct Receiving(Socket);

impl ReceiveEnd for Receiving {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        Ok(look(&self.0.recv()?))
    }
}

impl TryReceive for Receiving {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        match self.0.try_recv() {
            Ok(message) => Ok(Some(look(&message))),
            Err(Error::TryAgain) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Calling {
    socket: Socket,
    message: Vec<u8>,
}

impl AskEnd for Calling {
    fn ask<T>(
        &mut self,
        mut write: impl FnMut(&mut [u8]),
        mut look: impl FnMut(&[u8]) -> T,
    ) -> Result<T> {
        write(&mut self.message);
        self.socket.send(self.message.as_slice()).map_err(|(_, error)| anyhow!(error))?;
        Ok(look(&self.socket.recv()?))
    }
}

impl AnswerEnd for Calling {
    fn answer<T>(
        &mut self,
        mut look: impl FnMut(&[u8]) -> T,
        mut write: impl FnMut(&mut [u8]),
    ) -> Result<T> {
        let mut question: Message = self.socket.recv()?;
        let seen = look(&question);
        write(&mut question);
        self.socket.send(question).map_err(|(_, error)| anyhow!(error))?;
        Ok(seen)
    }
}
