//! Our mailboxes, as the benchmark uses them: the public API, blocking calls, as it ships.

use anyhow::{Context as _, Result};
use libipc::{Client, ClientOptions, MailboxOptions, Receiver, Sender};

use super::measure::{Ends, ReceiveEnd, SendEnd};
use super::plan::{Job, Load, System};

/// Creates the mailbox for a load.
pub(super) fn create(client: &Client, name: &str, system: System, load: &Load) -> Result<()> {
    let mut options = MailboxOptions::new().capacity_bytes(load.buffer_bytes() as u64);
    if system == System::OursSingle {
        options = options.receivers_max(1);
    }
    client.create(name, &options).context("cannot create a mailbox")
}

/// Opens the ends that a job needs. The client comes along: the session must live as long as they do.
pub(super) fn open(job: &Job) -> Result<(Client, Ends<Sender, Receiver>)> {
    let client = ClientOptions::new().socket(job.socket.clone()).connect()?;
    let sender = job.channel_out.as_deref().map(|name| client.sender(name)).transpose()?;
    let receiver = job.channel_in.as_deref().map(|name| client.receiver(name)).transpose()?;
    Ok((client, Ends { sender, receiver }))
}

impl SendEnd for Sender {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        Ok(Sender::send(self, message)?)
    }
}

impl ReceiveEnd for Receiver {
    #[inline]
    fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let delivery = Receiver::receive(self)?;
        let seen = look(delivery.bytes());
        delivery.acknowledge();
        Ok(seen)
    }
}

/// Create, open both ends, one message, delete.
pub(super) fn set_up(client: &Client, name: &str, system: System, load: &Load) -> Result<()> {
    create(client, name, system, load)?;
    let mut sender = client.sender(name)?;
    let mut receiver = client.receiver(name)?;
    let message = vec![1; load.bytes];
    Sender::send(&mut sender, &message)?;
    ReceiveEnd::receive(&mut receiver, |bytes| assert_eq!(bytes.len(), load.bytes))?;
    drop(sender);
    drop(receiver);
    client.delete(name)?;
    Ok(())
}
