//! Direct naming: processes that reach each other by name or by process id. The link is made by the first
//! message, and there is one between two processes.
//!
//! A process that can be reached so has an inbox: a mailbox that it owns, and that goes when it goes.
//! Everything that works on mailboxes works on an inbox; [`Receiver::receive_from`] is the symmetric way, in
//! which the receiver names its sender as well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::client::Client;
use crate::error::{RequestError, SendError, SendToError};
use crate::options::MailboxOptions;
use crate::protocol::{Answer, DirectAddress, Identity, Request};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::session::{Answered, Errand, Session, Wait, opened, unexpected};
use crate::timed_mutex::TimedMutex;

/// The links that a client has made to other processes: who is reached by which address, and the one link to
/// each process.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Nobody waits for anything while this is locked.
    known: Mutex<Known>,
    /// Who has this asks the daemon.
    asking: TimedMutex<Asking>,
}

#[derive(Debug, Default)]
struct Known {
    pids: HashMap<DirectAddress, u32>,
    links: HashMap<u32, Link>,
}

type Link = Arc<TimedMutex<Sender>>;

/// What the daemon was asked, and has not answered, for whoever sends to that process next.
#[derive(Debug, Default)]
struct Asking {
    owed: Vec<(Request, Errand)>,
}

impl Client {
    /// Makes this process reachable by a name and by its process id, and returns the inbox to receive from.
    /// Without a name it is reached by its process id alone. `options` are the inbox's attributes; its owner
    /// is this process whatever they say, and its mode decides who may send.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: the name is taken or is none, this process has an inbox, a quota.
    pub fn register(
        &self,
        name: Option<&str>,
        options: &MailboxOptions,
    ) -> Result<Receiver, RequestError> {
        let attributes = options.attributes();
        let request = Request::Register { name: name.map(str::to_owned), attributes };
        match self.session().request(&request)?.0 {
            Answer::Registered { name } => self.receiver(name.as_str()),
            other => Err(unexpected(&other)),
        }
    }

    /// Who has registered under a name, or with a process id.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: nobody.
    pub fn find(&self, process: impl Into<DirectAddress>) -> Result<Identity, RequestError> {
        match self.session().request(&Request::Find { of: process.into() })?.0 {
            Answer::Found { identity } => Ok(identity),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a message to a process by its name or process id; waits for room in its inbox if there is none.
    /// The first message makes the link, and all clones of this client use the same.
    ///
    /// # Errors
    /// [`SendToError`]; the message is still the caller's.
    pub fn send_to(
        &self,
        process: impl Into<DirectAddress>,
        message: &[u8],
    ) -> Result<(), SendToError> {
        self.with_link(process.into(), None, |sender| sender.send(message))
    }

    /// Sends a message to a process as [`Self::send_to`] does, and waits for room, for the link, and for other threads that send
    /// there, until the deadline.
    ///
    /// # Errors
    /// [`SendToError`]; the message is still the caller's. The deadline passed: [`SendError::TimedOut`] in it.
    pub fn send_to_deadline(
        &self,
        process: impl Into<DirectAddress>,
        message: &[u8],
        deadline: Instant,
    ) -> Result<(), SendToError> {
        let send = |sender: &mut Sender| sender.send_deadline(message, deadline);
        self.with_link(process.into(), Some(deadline), send)
    }

    fn with_link(
        &self,
        to: DirectAddress,
        deadline: Option<Instant>,
        send: impl Fn(&mut Sender) -> Result<(), SendError>,
    ) -> Result<(), SendToError> {
        // Twice: a process that went and came back under its name is another one.
        for last in [false, true] {
            let Some((pid, link)) = self.links().to(self.session(), &to, deadline)? else {
                return Err(SendToError::Send(SendError::TimedOut));
            };
            let sent = link.with(deadline, &send).unwrap_or(Err(SendError::TimedOut));
            match sent {
                Err(SendError::OwnerGone | SendError::Deleted) if !last => {
                    self.links().forget(pid);
                }
                result => return result.map_err(SendToError::Send),
            }
        }
        unreachable!("the second time returns")
    }
}

impl Links {
    /// The process behind an address and the link to it, made if there is none. `None`: not by the deadline.
    fn to(
        &self,
        session: &Arc<Session>,
        to: &DirectAddress,
        deadline: Option<Instant>,
    ) -> Result<Option<(u32, Link)>, RequestError> {
        if let Some(known) = self.known().link(to) {
            return Ok(Some(known));
        }
        let made = self.asking.with(deadline, |asking| {
            // Somebody else may just have made it.
            if let Some(known) = self.known().link(to) {
                return Ok(Some(known));
            }
            self.make(asking, session, to, Wait::until(deadline))
        });
        made.unwrap_or(Ok(None))
    }

    fn make(
        &self,
        asking: &mut Asking,
        session: &Arc<Session>,
        to: &DirectAddress,
        wait: Wait,
    ) -> Result<Option<(u32, Link)>, RequestError> {
        let known = self.known().pids.get(to).copied();
        let pid = match known {
            Some(pid) => pid,
            None => {
                let find = Request::Find { of: to.clone() };
                // The answer to what was asked earlier may be true no more.
                if asking.owes(&find) && matches!(asking.ask(session, find.clone(), wait), Ok(None))
                {
                    return Ok(None);
                }
                match asking.ask(session, find, wait)? {
                    Some((Answer::Found { identity }, _)) => identity.pid,
                    Some((other, _)) => return Err(unexpected(&other)),
                    None => return Ok(None),
                }
            }
        };
        let link = self.known().links.get(&pid).cloned();
        let link = match link {
            Some(link) => link,
            None => {
                let request = Request::OpenDirect { to: DirectAddress::Pid(pid) };
                let Some(answered) = asking.ask(session, request, wait)? else { return Ok(None) };
                let (opened, descriptors) = opened(answered)?;
                let sender = Sender::new(session.clone(), opened, descriptors)?;
                Arc::new(TimedMutex::new(sender))
            }
        };
        let mut known = self.known();
        known.pids.insert(to.clone(), pid);
        known.links.insert(pid, link.clone());
        Ok(Some((pid, link)))
    }

    fn forget(&self, gone: u32) {
        let mut known = self.known();
        known.links.remove(&gone);
        known.pids.retain(|_, &mut pid| pid != gone);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn link(&self, to: &DirectAddress) -> Option<(u32, Link)> {
        let pid = *self.pids.get(to)?;
        Some((pid, self.links.get(&pid)?.clone()))
    }
}

impl Asking {
    fn owes(&self, request: &Request) -> bool {
        self.owed.iter().any(|(owed, _)| owed == request)
    }

    /// Asks, or takes up what was asked earlier. `None`: no answer by then.
    fn ask(
        &mut self,
        session: &Arc<Session>,
        request: Request,
        wait: Wait,
    ) -> Result<Option<Answered>, RequestError> {
        let owed = self.owed.iter().position(|(owed, _)| *owed == request);
        let mut errand = owed.map(|at| self.owed.swap_remove(at).1).unwrap_or_default();
        let answered = errand.run(session, &request, wait);
        if errand.is_under_way() {
            self.owed.push((request, errand));
        }
        answered
    }
}

impl From<&str> for DirectAddress {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for DirectAddress {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for DirectAddress {
    fn from(pid: u32) -> Self {
        Self::Pid(pid)
    }
}
