//! ZeroMQ, over ipc://: PUSH and PULL, and REQ and REP for calls.

use anyhow::{Result, ensure};
use measure::ends::{AnswerEnd, AskEnd, Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use measure::job::{Channel, Job, Role};
use measure::load::{Kind, Load, Wait};
use measure::loops;
use measure::stage::Stage;
use measure::system::System;
use zmq::{Context, DONTWAIT, Error, Message, Socket, SocketType};

use super::{Meeting, is_copied, meetings};

/// ZeroMQ.
#[derive(Debug)]
pub(crate) struct ZeroMq;

impl System for ZeroMq {
    fn key(&self) -> &str {
        "zeromq"
    }

    fn name(&self) -> &str {
        "ZeroMQ"
    }

    fn suits(&self, load: &Load) -> bool {
        is_copied(load)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let context = Context::new();
        if job.load.kind == Kind::Call {
            return call(&context, job, stage);
        }
        let open = |channel: &Channel, kind: SocketType| open(&context, job, channel, kind);
        let out = job.channel_out.as_ref().map(|channel| open(channel, SocketType::PUSH));
        let in_ = job.channel_in.as_ref().map(|channel| open(channel, SocketType::PULL));
        let bytes = job.load.bytes;
        let receiving = |socket| Receiving { socket, message: Message::with_size(bytes) };
        let ends = Ends { sender: out.transpose()?, receiver: in_.transpose()? };
        let ends = ends.map(Sending, receiving);
        if job.load.wait == Wait::Polling {
            return stage.run(job, ends.polled(bytes));
        }
        stage.run(job, ends.copied(bytes))
    }
}

fn open(context: &Context, job: &Job, channel: &Channel, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    // Each side has a queue of its own: together they hold what the others hold.
    let messages = (job.load.buffered_messages() / 2).clamp(1, i32::MAX as usize) as i32;
    socket.set_sndhwm(messages)?;
    socket.set_rcvhwm(messages)?;
    socket.set_reconnect_ivl(1)?;
    for Meeting { address, is_ours } in meetings(job, channel) {
        match is_ours {
            true => socket.bind(&address)?,
            false => socket.connect(&address)?,
        }
    }
    Ok(socket)
}

fn call(context: &Context, job: &Job, stage: &mut Stage) -> Result<()> {
    // One socket is both ways.
    let asks = job.role == Role::Ping;
    let channel = if asks { &job.channel_out } else { &job.channel_in };
    let kind = if asks { SocketType::REQ } else { SocketType::REP };
    let channel = channel.clone().unwrap_or_default();
    let socket = open(context, job, &channel, kind)?;
    let buffer = vec![0; job.load.bytes];
    let mut end = Calling { socket, question: buffer.clone(), answer: buffer };
    match asks {
        true => stage.perform(job, || loops::ask(job, &mut end)),
        false => stage.perform(job, || loops::answer(job, &mut end)),
    }
}

struct Sending(Socket);

impl SendBytes for Sending {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        Ok(self.0.send(message, 0)?)
    }
}

impl TrySendBytes for Sending {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        match self.0.send(message, DONTWAIT) {
            Ok(()) => Ok(true),
            Err(Error::EAGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

struct Receiving {
    socket: Socket,
    message: Message,
}

impl ReceiveEnd for Receiving {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.socket.recv(&mut self.message, 0)?;
        Ok(look(&self.message))
    }
}

impl TryReceive for Receiving {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        match self.socket.recv(&mut self.message, DONTWAIT) {
            Ok(()) => Ok(Some(look(&self.message))),
            Err(Error::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Calling {
    socket: Socket,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl AskEnd for Calling {
    fn ask<T>(
        &mut self,
        mut write: impl FnMut(&mut [u8]),
        mut look: impl FnMut(&[u8]) -> T,
    ) -> Result<T> {
        write(&mut self.question);
        self.socket.send(&self.question, 0)?;
        let len = self.socket.recv_into(&mut self.answer, 0)?;
        ensure!(len <= self.answer.len(), "an answer of {len} bytes came");
        Ok(look(&self.answer[..len]))
    }
}

impl AnswerEnd for Calling {
    fn answer<T>(
        &mut self,
        mut look: impl FnMut(&[u8]) -> T,
        mut write: impl FnMut(&mut [u8]),
    ) -> Result<T> {
        let len = self.socket.recv_into(&mut self.question, 0)?;
        ensure!(len <= self.question.len(), "a question of {len} bytes came");
        let seen = look(&self.question[..len]);
        write(&mut self.answer);
        self.socket.send(&self.answer, 0)?;
        Ok(seen)
    }
}
