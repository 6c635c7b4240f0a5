//! Direct naming: processes that reach each other by name or by process id. The link is made by the first
//! message, and there is one between two processes.
//!
//! A process that can be reached so has an inbox: a mailbox that it owns, and that goes when it goes.
//! Everything that works on mailboxes works on an inbox; [`Receiver::receive_from`] is the symmetric way, in
//! which the receiver names its sender as well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::client::Client;
use crate::error::{RequestError, SendError, SendToError};
use crate::options::MailboxOptions;
use crate::protocol::{Answer, DirectAddress, Identity, Request};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::session::unexpected;

/// The links that a client has made to other processes: who is reached by which address, and the one link to
/// each process.
#[derive(Debug, Default)]
pub(crate) struct Links {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    pids: HashMap<DirectAddress, u32>,
    links: HashMap<u32, Arc<Mutex<Sender>>>,
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
        self.with_link(process.into(), |sender| sender.send(message))
    }

    /// Sends a message to a process as [`Self::send_to`] does, and waits for room until the deadline.
    ///
    /// # Errors
    /// [`SendToError`]; the message is still the caller's.
    pub fn send_to_deadline(
        &self,
        process: impl Into<DirectAddress>,
        message: &[u8],
        deadline: Instant,
    ) -> Result<(), SendToError> {
        self.with_link(process.into(), |sender| sender.send_deadline(message, deadline))
    }

    fn with_link(
        &self,
        to: DirectAddress,
        send: impl Fn(&mut Sender) -> Result<(), SendError>,
    ) -> Result<(), SendToError> {
        // Twice: a process that went and came back under its name is another one.
        for last in [false, true] {
            let (pid, link) = self.links().to(self, &to)?;
            let sent = send(&mut link.lock().unwrap_or_else(PoisonError::into_inner));
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
    /// The process behind an address and the link to it, made if there is none.
    fn to(
        &self,
        client: &Client,
        to: &DirectAddress,
    ) -> Result<(u32, Arc<Mutex<Sender>>), RequestError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = match known.pids.get(to) {
            Some(&pid) => pid,
            None => client.find(to.clone())?.pid,
        };
        if let Some(link) = known.links.get(&pid) {
            let link = link.clone();
            known.pids.insert(to.clone(), pid);
            return Ok((pid, link));
        }
        let (opened, descriptors) =
            client.session().open(&Request::OpenDirect { to: DirectAddress::Pid(pid) })?;
        let sender = Sender::new(client.session().clone(), opened, descriptors)?;
        let link = Arc::new(Mutex::new(sender));
        known.pids.insert(to.clone(), pid);
        known.links.insert(pid, link.clone());
        Ok((pid, link))
    }

    fn forget(&self, gone: u32) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.links.remove(&gone);
        known.pids.retain(|_, &mut pid| pid != gone);
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
