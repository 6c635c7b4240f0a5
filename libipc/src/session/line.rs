//! Who has asked what, and who waits for which answer.
//!
//! Nothing here waits: [`super::Session`] has this behind a lock, which nobody holds for long.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;

use super::Answered;
use crate::error::{Fault, RequestError};
use crate::protocol::{
    Answer, FrameError, MESSAGE_BYTES_MAX, Refusal, Request, decode, decode_alone, encode,
};
use crate::sys::socket::{self, Received};

/// The requests that are under way.
#[derive(Debug)]
pub(super) struct Line {
    last_request: u64,
    /// The last request whose answer has been read.
    last_answered: u64,
    /// Requests whose answers do not go unheeded. A daemon that has died answers one again, rather than not at all: the second
    /// answer finds nothing here.
    under_way: BTreeMap<u64, Expected>,
    /// What datagrams are read into; somebody has it who reads.
    buffer: Option<Vec<u8>>,
    /// Links that are to be closed, as soon as the kernel takes so many requests.
    closing: VecDeque<u32>,
}

/// What becomes of an answer.
#[derive(Debug)]
enum Expected {
    /// Somebody waits for it, or will.
    Wanted,
    /// It is here.
    Here(Box<Answered>),
    /// Nobody will ever look at it; what was made for it is to be closed.
    Abandoned,
}

impl Default for Line {
    fn default() -> Self {
        let (under_way, closing) = (BTreeMap::new(), VecDeque::new());
        let buffer = Some(vec![0; MESSAGE_BYTES_MAX]);
        Self { last_request: 0, last_answered: 0, under_way, buffer, closing }
    }
}

impl Line {
    /// Sends a request whose answer is wanted; says its number. `None`: the kernel does not take it now.
    pub(super) fn ask(
        &mut self,
        socket: BorrowedFd<'_>,
        request: &Request,
    ) -> Result<Option<u64>, RequestError> {
        if !self.settle(socket)? || !self.send(socket, request)? {
            return Ok(None);
        }
        self.under_way.insert(self.last_request, Expected::Wanted);
        Ok(Some(self.last_request))
    }

    /// Sends a request whose answer nobody waits for, if the kernel takes it now.
    pub(super) fn post(
        &mut self,
        socket: BorrowedFd<'_>,
        request: &Request,
    ) -> Result<(), RequestError> {
        if self.settle(socket)? {
            self.send(socket, request)?;
        }
        Ok(())
    }

    /// Closes a link, now or later.
    pub(super) fn close_link(
        &mut self,
        socket: BorrowedFd<'_>,
        link: u32,
    ) -> Result<(), RequestError> {
        self.closing.push_back(link);
        self.settle(socket).map(drop)
    }

    /// The answer to a request is wanted no more.
    pub(super) fn abandon(
        &mut self,
        socket: BorrowedFd<'_>,
        number: u64,
    ) -> Result<(), RequestError> {
        match self.under_way.remove(&number) {
            Some(Expected::Here(answer)) => self.undo(*answer),
            Some(_) => drop(self.under_way.insert(number, Expected::Abandoned)),
            None => {}
        }
        self.settle(socket).map(drop)
    }

    /// The answer to a request, if it is here.
    pub(super) fn take(&mut self, number: u64) -> Option<Answered> {
        let here = matches!(self.under_way.get(&number), Some(Expected::Here(_)));
        match here.then(|| self.under_way.remove(&number)).flatten() {
            Some(Expected::Here(answer)) => Some(*answer),
            _ => None,
        }
    }

    /// The buffer, for whoever is to read from now on. `None`: somebody else reads.
    pub(super) fn begin_reading(&mut self) -> Option<Vec<u8>> {
        self.buffer.take()
    }

    /// Who was to read does so no more.
    pub(super) fn end_reading(&mut self, buffer: Vec<u8>) {
        self.buffer = Some(buffer);
    }

    /// Whether somebody reads.
    pub(super) fn is_read(&self) -> bool {
        self.buffer.is_none()
    }

    /// Sorts what was received.
    pub(super) fn note(
        &mut self,
        buffer: &[u8],
        received: Option<Received>,
    ) -> Result<(), RequestError> {
        let Some(received) = received else { return Ok(()) };
        let (number, answer) = understand(buffer, received)?;
        if number > self.last_request {
            return Err(Fault::new("read ipcd's answer", "it answers what was not asked").into());
        }
        self.last_answered = self.last_answered.max(number);
        match self.under_way.get_mut(&number) {
            Some(expected @ Expected::Wanted) => *expected = Expected::Here(Box::new(answer)),
            Some(Expected::Abandoned) => {
                self.under_way.remove(&number);
                self.undo(answer);
            }
            // The answer to something that was only posted, or one that has been read already.
            Some(Expected::Here(_)) | None => {}
        }
        Ok(())
    }

    /// Gives back what was made for somebody who is gone.
    fn undo(&mut self, (answer, _): Answered) {
        // A lane goes with its link, which its sender closes.
        if let Answer::Opened(opened) = answer {
            self.closing.push_back(opened.link);
        }
    }

    /// Takes off the line what has been answered, or the daemon would stop reading, and closes what is to be closed. Whether
    /// the kernel may take more.
    fn settle(&mut self, socket: BorrowedFd<'_>) -> Result<bool, RequestError> {
        if let Some(mut buffer) = self.buffer.take() {
            let read = self.read_all(socket, &mut buffer);
            self.buffer = Some(buffer);
            read?;
        }
        while let Some(&link) = self.closing.front() {
            if !self.send(socket, &Request::CloseLink { link })? {
                return Ok(false);
            }
            self.closing.pop_front();
        }
        Ok(true)
    }

    fn read_all(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(), RequestError> {
        while self.last_answered < self.last_request {
            match try_receive(socket, buffer)? {
                None => break,
                received => self.note(buffer, received)?,
            }
        }
        Ok(())
    }

    fn send(&mut self, socket: BorrowedFd<'_>, request: &Request) -> Result<bool, RequestError> {
        // Nothing has been said, so nothing is wrong with what is on the line.
        let too_long = |error: FrameError| Refusal::Protocol { reason: error.to_string() };
        let bytes = encode(self.last_request + 1, 0, request).map_err(too_long)?;
        let sent = retry(|| unless_it_would_block(socket::try_send(socket, &bytes)))?.is_some();
        self.last_request += u64::from(sent);
        Ok(sent)
    }
}

/// The next datagram, if one is there.
pub(super) fn try_receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<Received>, RequestError> {
    retry(|| unless_it_would_block(socket::try_receive(socket, buffer)))
}

fn understand(buffer: &[u8], received: Received) -> Result<(u64, Answered), RequestError> {
    if received.len == 0 {
        return Err(RequestError::DaemonAway);
    }
    let (bytes, descriptors) = (&buffer[..received.len], received.descriptors);
    let decoded = if received.truncated {
        // This process has no descriptor left for what came with it: whoever asked misses them, and nobody else.
        decode_alone::<Answer>(bytes).map(|(frame, answer)| (frame, (answer, Vec::new())))
    } else {
        decode::<Answer>(bytes, descriptors.len()).map(|(frame, it)| (frame, (it, descriptors)))
    };
    let (frame, answered) = decoded.map_err(|error| Fault::new("read ipcd's answer", error))?;
    Ok((frame.request, answered))
}

fn unless_it_would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> Result<T, RequestError> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => {
                    return Err(RequestError::DaemonAway);
                }
                _ => return Err(Fault::new("talk to ipcd", error).into()),
            },
        }
    }
}
