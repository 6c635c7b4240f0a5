//! Our mailboxes, as the benchmark uses them: the public interface, as it ships.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use libipc::{
    Client, ClientOptions, MailboxOptions, Receiver, Sender, TryReceiveError, TrySendError,
};

use super::ours_bulk;
use crate::ends::{AnswerEnd, AskEnd, Ends, ReceiveEnd, SendBytes, TryReceive, TrySendBytes};
use crate::job::{Channel, Job, Role};
use crate::load::{Kind, Load, Wait};
use crate::loops;
use crate::stage::Stage;
use crate::system::{Standing, System};

/// Our mailboxes.
#[derive(Clone, Debug)]
pub struct Ours {
    key: String,
    name: String,
    /// The key by which the processes know it.
    peer_key: &'static str,
    /// Receivers that a mailbox admits, if that is said.
    receivers_max: Option<u16>,
    /// Streams never sleep either.
    polls: bool,
    socket: Option<PathBuf>,
    program: Option<PathBuf>,
}

impl Ours {
    /// Mailboxes that admit any number of receivers.
    #[must_use]
    pub fn any_receivers(socket: Option<PathBuf>) -> Self {
        let peer_key = "ours";
        let (key, name) = (peer_key.to_owned(), peer_key.to_owned());
        Self { key, name, peer_key, receivers_max: None, polls: false, socket, program: None }
    }

    /// Mailboxes that admit one receiver.
    #[must_use]
    pub fn one_receiver(socket: Option<PathBuf>) -> Self {
        let ours = Self { receivers_max: Some(1), ..Self::any_receivers(socket) };
        ours.called("ours-single", "ours, one receiver")
    }

    /// Mailboxes that admit any number of receivers, used without ever sleeping.
    #[must_use]
    pub fn polling(socket: Option<PathBuf>) -> Self {
        let ours = Self { polls: true, ..Self::any_receivers(socket) };
        ours.called("ours-polling", "ours, polling")
    }

    fn called(self, key: &'static str, name: &str) -> Self {
        Self { key: key.to_owned(), name: name.to_owned(), peer_key: key, ..self }
    }

    /// The same mailboxes as another build of ours has them, in its own processes; `build` tells it from this one.
    #[must_use]
    pub fn of_program(mut self, build: &str, program: PathBuf) -> Self {
        self.key = format!("{}@{build}", self.key);
        self.name = format!("{} @{build}", self.name);
        self.program = Some(program);
        self
    }

    fn connect(&self, job: &Job) -> Result<Client> {
        let mut options = ClientOptions::new();
        if let Some(socket) = job.socket.as_ref().or(self.socket.as_ref()) {
            options = options.socket(socket.clone());
        }
        Ok(options.connect()?)
    }

    fn create(&self, client: &Client, name: &str, load: &Load) -> Result<()> {
        let mut options = MailboxOptions::new().capacity_bytes(load.buffer_bytes as u64);
        if let Some(receivers) = self.receivers_max {
            options = options.receivers_max(receivers);
        }
        client.create(name, &options).context("cannot create a mailbox")
    }

    /// Create, open both ends, one message, delete.
    fn set_up(&self, client: &Client, name: &str, load: &Load) -> Result<()> {
        self.create(client, name, load)?;
        let mut sender = client.sender(name)?;
        let mut receiver = client.receiver(name)?;
        sender.send(&vec![1; load.bytes])?;
        receiver.receive()?.acknowledge();
        drop(sender);
        drop(receiver);
        client.delete(name)?;
        Ok(())
    }

    fn carry(&self, client: &Client, job: &Job, stage: &mut Stage) -> Result<()> {
        let mut ends = open(client, job)?;
        let wait = if self.polls { Wait::Polling } else { job.load.wait };
        if wait == Wait::Asleep {
            ends = ends.map(
                |mut sender| {
                    sender.set_spin_max(Duration::ZERO);
                    sender
                },
                |mut receiver| {
                    receiver.set_spin_max(Duration::ZERO);
                    receiver
                },
            );
        }
        match (job.load.kind, job.role) {
            (Kind::InPlace | Kind::Batches, _) => {
                stage.perform(job, || ours_bulk::run(job, &mut ends))
            }
            (Kind::Call, Role::Ping) => {
                let mut end = Asking { sender: ends.sender()?, message: vec![0; job.load.bytes] };
                stage.perform(job, || loops::ask(job, &mut end))
            }
            (Kind::Call, _) => {
                let message = vec![0; job.load.bytes];
                let mut end = Answering { receiver: ends.receiver()?, message };
                stage.perform(job, || loops::answer(job, &mut end))
            }
            _ if wait == Wait::Polling => stage.run(job, ends.polled(job.load.bytes)),
            _ => stage.run(job, ends.copied(job.load.bytes)),
        }
    }
}

impl System for Ours {
    fn key(&self) -> &str {
        &self.key
    }

    fn peer_key(&self) -> &str {
        self.peer_key
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn standing(&self) -> Standing {
        Standing::Ours
    }

    fn suits(&self, load: &Load) -> bool {
        let receivers = self.receivers_max.is_none_or(|max| u16::from(load.receivers) <= max);
        receivers && (!self.polls || load.kind == Kind::Stream)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        // The session must live as long as the ends do.
        let client = self.connect(job)?;
        if job.role == Role::Cycle {
            let name = job.channels().next().map_or("", |channel| &channel.name);
            let once = |count| self.set_up(&client, &format!("{name}-{count}"), &job.load);
            return stage.perform(job, || loops::cycle(job, once));
        }
        if job.first {
            for channel in job.channels() {
                self.create(&client, &channel.name, &job.load)?;
            }
        }
        let result = self.carry(&client, job, stage);
        if job.first {
            // What a failure leaves is taken away by the process that measures.
            for channel in job.channels() {
                client.delete(&channel.name)?;
            }
        }
        result
    }

    fn clean_up(&self, name: &str) {
        if self.program.is_some() {
            return;
        }
        let options = self
            .socket
            .iter()
            .fold(ClientOptions::new(), |options, socket| options.socket(socket.clone()));
        if let Ok(client) = options.connect() {
            // It is gone already, unless something went wrong.
            let _ = client.delete(name);
        }
    }

    fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    fn socket(&self) -> Option<PathBuf> {
        self.socket.clone()
    }
}

/// Opens the ends that a job needs; a call goes to one mailbox, and its answer comes by itself.
fn open(client: &Client, job: &Job) -> Result<Ends<Sender, Receiver>> {
    let is_needed =
        |channel: &&Channel| job.load.kind != Kind::Call || channel.name.ends_with("-0");
    let out = job.channel_out.as_ref().filter(is_needed);
    let in_ = job.channel_in.as_ref().filter(is_needed);
    Ok(Ends {
        sender: out.map(|channel| client.sender(&channel.name)).transpose()?,
        receiver: in_.map(|channel| client.receiver(&channel.name)).transpose()?,
    })
}

impl SendBytes for Sender {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        Ok(self.send(message)?)
    }
}

impl TrySendBytes for Sender {
    #[inline]
    fn try_send_bytes(&mut self, message: &[u8]) -> Result<bool> {
        match self.try_send(message) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl ReceiveEnd for Receiver {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        let delivery = Self::receive(self)?;
        let seen = look(delivery.bytes());
        delivery.acknowledge();
        Ok(seen)
    }
}

impl TryReceive for Receiver {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        match Self::try_receive(self) {
            Ok(delivery) => {
                let seen = look(delivery.bytes());
                delivery.acknowledge();
                Ok(Some(seen))
            }
            Err(TryReceiveError::Empty) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Asking<'a> {
    sender: &'a mut Sender,
    message: Vec<u8>,
}

impl AskEnd for Asking<'_> {
    fn ask<T>(
        &mut self,
        mut write: impl FnMut(&mut [u8]),
        mut look: impl FnMut(&[u8]) -> T,
    ) -> Result<T> {
        write(&mut self.message);
        Ok(look(self.sender.call(&self.message)?.bytes()))
    }
}

struct Answering<'a> {
    receiver: &'a mut Receiver,
    message: Vec<u8>,
}

impl AnswerEnd for Answering<'_> {
    fn answer<T>(
        &mut self,
        mut look: impl FnMut(&[u8]) -> T,
        mut write: impl FnMut(&mut [u8]),
    ) -> Result<T> {
        let question = self.receiver.receive()?;
        let seen = look(question.bytes());
        write(&mut self.message);
        question.reply(&self.message)?;
        Ok(seen)
    }
}
