//! The two ends of a channel, as the loops of a measurement see them.
//!
//! What carries messages implements [`SendEnd`] and [`ReceiveEnd`]: directly where a message can be written and
//! read where it lies, else through [`SendBytes`] and [`Copied`]. Where it can be asked without waiting
//! ([`TrySendBytes`], [`TryReceive`]), [`Polled`] never sleeps. All of it is resolved when the loop is compiled.

use std::hint::spin_loop;

use anyhow::{Context as _, Result};

/// An end to send on.
pub trait SendEnd {
    /// Has a message written, and sends it; waits for room. It may be written again before it is sent.
    fn send<T>(&mut self, write: impl FnMut(&mut [u8]) -> T) -> Result<T>;
}

/// An end to receive from.
pub trait ReceiveEnd {
    /// Waits for a message, and looks at it.
    fn receive<T>(&mut self, look: impl FnMut(&[u8]) -> T) -> Result<T>;
}

/// Sends messages that lie elsewhere.
pub trait SendBytes {
    /// Sends a message; waits for room.
    fn send_bytes(&mut self, message: &[u8]) -> Result<()>;
}

/// Sends messages that lie elsewhere, and never waits.
pub trait TrySendBytes {
    /// Sends a message; false if there is no room.
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool>;
}

/// Receives, and never waits.
pub trait TryReceive {
    /// Looks at a message, if there is one.
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>>;
}

/// Asks, and waits for the answer.
pub trait AskEnd {
    /// Has a question written, sends it, waits for the answer and looks at it.
    fn ask<T>(&mut self, write: impl FnMut(&mut [u8]), look: impl FnMut(&[u8]) -> T) -> Result<T>;
}

/// Answers what others ask.
pub trait AnswerEnd {
    /// Waits for a question, looks at it, and has the answer written.
    fn answer<T>(
        &mut self,
        look: impl FnMut(&[u8]) -> T,
        write: impl FnMut(&mut [u8]),
    ) -> Result<T>;
}

/// The ends that a process has open.
#[derive(Debug)]
pub struct Ends<S, R> {
    /// To send on.
    pub sender: Option<S>,
    /// To receive from.
    pub receiver: Option<R>,
}

impl<S, R> Ends<S, R> {
    /// The end to send on.
    ///
    /// # Errors
    /// If this job has none.
    pub fn sender(&mut self) -> Result<&mut S> {
        self.sender.as_mut().context("this job has nothing to send on")
    }

    /// The end to receive from.
    ///
    /// # Errors
    /// If this job has none.
    pub fn receiver(&mut self) -> Result<&mut R> {
        self.receiver.as_mut().context("this job has nothing to receive from")
    }

    /// The same ends, with what `send` and `receive` make of them.
    pub fn map<S2, R2>(
        self,
        send: impl FnOnce(S) -> S2,
        receive: impl FnOnce(R) -> R2,
    ) -> Ends<S2, R2> {
        Ends { sender: self.sender.map(send), receiver: self.receiver.map(receive) }
    }
}

impl<S: SendBytes, R> Ends<S, R> {
    /// The same ends; messages are written into a buffer of the process's own, and sent from there.
    pub fn copied(self, bytes: usize) -> Ends<Copied<S>, R> {
        self.map(|end| Copied { end, message: vec![0; bytes] }, |end| end)
    }
}

impl<S: TrySendBytes, R: TryReceive> Ends<S, R> {
    /// The same ends, which never sleep.
    pub fn polled(self, bytes: usize) -> Ends<Copied<Polled<S>>, Polled<R>> {
        self.map(Polled, Polled).copied(bytes)
    }
}

/// An end to send on, with a buffer in which messages are written first.
#[derive(Debug)]
pub struct Copied<E> {
    end: E,
    message: Vec<u8>,
}

impl<E: SendBytes> SendEnd for Copied<E> {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.message);
        self.end.send_bytes(&self.message)?;
        Ok(written)
    }
}

/// An end that looks again and again instead of sleeping.
#[derive(Debug)]
pub struct Polled<E>(pub E);

impl<E: TrySendBytes> SendBytes for Polled<E> {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        while !self.0.try_send_bytes(message)? {
            spin_loop();
        }
        Ok(())
    }
}

impl<E: TryReceive> ReceiveEnd for Polled<E> {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            if let Some(seen) = self.0.try_receive(&mut look)? {
                return Ok(seen);
            }
            spin_loop();
        }
    }
}
