//! ipc-channel: Servo's channels, over Unix sockets.
//!
//! A channel is handed from process to process: each sender has a one-shot server, whose name lies in a file; the
//! receiver makes the channel and, when it first receives, gives every sender its end of it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};
use measure::ends::{Ends, Polled, ReceiveEnd, SendEnd, TryReceive};
use measure::job::{Channel, Job, Role};
use measure::load::{Load, Wait};
use measure::stage::Stage;
use measure::system::System;

use super::is_copied;

/// ipc-channel.
#[derive(Debug)]
pub(crate) struct IpcChannel;

impl System for IpcChannel {
    fn key(&self) -> &str {
        "ipc-channel"
    }

    fn suits(&self, load: &Load) -> bool {
        is_copied(load) && load.receivers == 1
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let number = if let Role::Send(number) = job.role { number } else { 0 };
        let senders = if job.load.goes_back() { 1 } else { job.load.senders };
        let sender = job
            .channel_out
            .as_ref()
            .map(|channel| SendingEnd::new(name_file(job, channel, number), job.load.bytes));
        let receiver = job.channel_in.as_ref().map(|channel| {
            ReceivingEnd::new((0..senders).map(|number| name_file(job, channel, number)))
        });
        let ends = Ends { sender: sender.transpose()?, receiver: receiver.transpose()? };
        if job.load.wait == Wait::Polling {
            return stage.run(job, ends.map(|end| end, Polled));
        }
        stage.run(job, ends)
    }
}

/// Where a sender's one-shot server tells its name.
fn name_file(job: &Job, channel: &Channel, sender: u8) -> PathBuf {
    job.folder.join(format!("{}-sender-{sender}", channel.name))
}

struct SendingEnd {
    /// Until the receiver has handed over the channel.
    server: Option<IpcOneShotServer<IpcBytesSender>>,
    channel: Option<IpcBytesSender>,
    message: Vec<u8>,
}

impl SendingEnd {
    fn new(file: PathBuf, bytes: usize) -> Result<Self> {
        let (server, name) = IpcOneShotServer::new()?;
        // Written aside and renamed: who finds it finds all of it.
        fs::write(file.with_extension("new"), name)?;
        fs::rename(file.with_extension("new"), file)?;
        Ok(Self { server: Some(server), channel: None, message: vec![0; bytes] })
    }
}

impl SendEnd for SendingEnd {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.message);
        if let Some(server) = self.server.take() {
            self.channel = Some(server.accept()?.1);
        }
        self.channel.as_ref().context("there is no channel")?.send(&self.message)?;
        Ok(written)
    }
}

struct ReceivingEnd {
    channel: IpcBytesReceiver,
    /// What each sender gets, as soon as its server is there.
    to_hand_over: Vec<(PathBuf, IpcBytesSender)>,
}

impl ReceivingEnd {
    fn new(files: impl Iterator<Item = PathBuf>) -> Result<Self> {
        let (sender, channel) = bytes_channel()?;
        let to_hand_over = files.map(|file| (file, sender.clone())).collect();
        Ok(Self { channel, to_hand_over })
    }

    #[inline]
    fn hand_over(&mut self) -> Result<()> {
        if self.to_hand_over.is_empty() { Ok(()) } else { self.hand_over_all() }
    }

    #[cold]
    fn hand_over_all(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        for (file, sender) in self.to_hand_over.drain(..) {
            let name = loop {
                if let Ok(name) = fs::read_to_string(&file) {
                    break name;
                }
                ensure!(Instant::now() < deadline, "a sender did not tell its name");
                thread::sleep(Duration::from_millis(1));
            };
            IpcSender::connect(name)?.send(sender)?;
        }
        Ok(())
    }
}

impl ReceiveEnd for ReceivingEnd {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.hand_over()?;
        Ok(look(&self.channel.recv()?))
    }
}

impl TryReceive for ReceivingEnd {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        self.hand_over()?;
        match self.channel.try_recv() {
            Ok(message) => Ok(Some(look(&message))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
