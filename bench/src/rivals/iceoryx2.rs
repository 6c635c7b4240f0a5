//! iceoryx2: samples in shared memory, publishers and subscribers; who waits, waits for its events.

use std::fs;

use anyhow::{Result, anyhow};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    BackpressureStrategy, Config, FileName, LogLevel, Node, NodeBuilder, Path, SemanticString as _,
    SignalHandlingMode, ipc, set_log_level,
};
use measure::ends::{Ends, Polled, ReceiveEnd, SendBytes, SendEnd, TryReceive};
use measure::job::{Channel, Job};
use measure::load::{Kind, Load, Wait};
use measure::stage::Stage;
use measure::system::System;

use super::{copied_out, is_copied};
use crate::calls::iceoryx2::as_it_is;

/// iceoryx2's publish and subscribe.
#[derive(Debug)]
pub(crate) struct Iceoryx2 {
    /// Streams never sleep either, and tell nobody of their samples.
    polls: bool,
}

/// Samples that a subscriber may have waiting: iceoryx2 has its memory for all of them, and lists of them.
const BUFFERED_MAX: usize = 4096;

impl Iceoryx2 {
    /// It waits for events.
    pub(crate) fn waiting() -> Self {
        Self { polls: false }
    }

    /// It never sleeps.
    pub(crate) fn polling() -> Self {
        Self { polls: true }
    }
}

impl System for Iceoryx2 {
    fn key(&self) -> &str {
        if self.polls { "iceoryx2-polling" } else { "iceoryx2" }
    }

    fn name(&self) -> &str {
        if self.polls { "iceoryx2, polling" } else { "iceoryx2" }
    }

    fn suits(&self, load: &Load) -> bool {
        // Each subscriber gets every sample: nobody competes.
        let is_carried = (is_copied(load) || load.kind == Kind::InPlace) && load.receivers == 1;
        let is_stream = matches!(load.kind, Kind::Stream | Kind::InPlace);
        // For calls it has its own means.
        is_carried && load.kind != Kind::Call && (is_stream || !self.polls)
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let polls = self.polls || job.load.wait == Wait::Polling;
        let node = node(job)?;
        let bytes = job.load.bytes;
        let copies = job.load.kind != Kind::InPlace;
        let events = |channel| Events::open(&node, channel);
        let event_out = job.channel_out.as_ref().filter(|_| !polls).map(events).transpose()?;
        let event_in = job.channel_in.as_ref().filter(|_| !polls).map(events).transpose()?;
        let out = job.channel_out.as_ref().map(|channel| publisher(&node, job, channel));
        let in_ = job.channel_in.as_ref().map(|channel| subscriber(&node, job, channel));
        let notifier = event_out.as_ref().map(Events::notifier).transpose()?;
        let listener = event_in.as_ref().map(Events::listener).transpose()?;
        let ends = Ends { sender: out.transpose()?, receiver: in_.transpose()? };
        let ends = ends.map(
            |publisher| Publishing { publisher, notifier, bytes },
            |subscriber| Subscribing { subscriber, listener, message: vec![0; bytes], copies },
        );
        match (job.load.kind, polls) {
            (Kind::InPlace, true) => stage.run(job, ends.map(|end| end, Polled)),
            (Kind::InPlace, false) => stage.run(job, ends),
            (_, true) => stage.run(job, ends.map(|end| end, Polled).copied(bytes)),
            (_, false) => stage.run(job, ends.copied(bytes)),
        }
    }

    fn clean_up(&self, name: &str) {
        clean_up(name);
    }
}

/// What all samples of one measurement share: a prefix for all names.
fn prefix(name: &str) -> String {
    let measurement = name.rsplit_once('-').map_or(name, |(measurement, _)| measurement);
    format!("{measurement}_")
}

/// Takes away what killed processes leave in shared memory; the rest lies in the measurement's folder.
pub(super) fn clean_up(name: &str) {
    let prefix = prefix(name);
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // It may be gone meanwhile: then it is as it shall be.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A node that shares nothing with anybody outside of this measurement.
pub(super) fn node(job: &Job) -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Error);
    let name = job.channels().next().map_or("", |channel| &channel.name);
    let named = |error| anyhow!("not a name: {error:?}");
    let mut config = Config::default();
    config.global.prefix = FileName::new(prefix(name).as_bytes()).map_err(named)?;
    let folder = job.folder.to_string_lossy();
    config.global.set_root_path(&Path::new(folder.as_bytes()).map_err(named)?);
    // It would otherwise watch for deaths of others, and take the signals that are ours.
    let node =
        NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled);
    Ok(node.create::<ipc::Service>()?)
}

fn publisher(
    node: &Node<ipc::Service>,
    job: &Job,
    channel: &Channel,
) -> Result<Publisher<ipc::Service, [u8], ()>> {
    let service = service(node, job, channel)?;
    Ok(service
        .publisher_builder()
        .initial_max_slice_len(job.load.bytes)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?)
}

fn subscriber(
    node: &Node<ipc::Service>,
    job: &Job,
    channel: &Channel,
) -> Result<Subscriber<ipc::Service, [u8], ()>> {
    Ok(service(node, job, channel)?.subscriber_builder().create()?)
}

fn service(
    node: &Node<ipc::Service>,
    job: &Job,
    channel: &Channel,
) -> Result<iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u8], ()>>
{
    let buffered = job.load.buffered_messages().min(BUFFERED_MAX);
    Ok(node
        .service_builder(&channel.name.as_str().try_into()?)
        .publish_subscribe::<[u8]>()
        .max_publishers(usize::from(job.load.senders))
        .max_subscribers(1)
        .max_nodes(8)
        .subscriber_max_buffer_size(buffered)
        .enable_safe_overflow(false)
        .history_size(0)
        .open_or_create()?)
}

/// The events of one channel.
pub(super) struct Events(iceoryx2::service::port_factory::event::PortFactory<ipc::Service>);

impl Events {
    pub(super) fn open(node: &Node<ipc::Service>, channel: &Channel) -> Result<Self> {
        let name = format!("{}-event", channel.name);
        Ok(Self(node.service_builder(&name.as_str().try_into()?).event().open_or_create()?))
    }

    pub(super) fn notifier(&self) -> Result<Notifier<ipc::Service>> {
        Ok(self.0.notifier_builder().create()?)
    }

    pub(super) fn listener(&self) -> Result<Listener<ipc::Service>> {
        Ok(self.0.listener_builder().create()?)
    }
}

struct Publishing {
    publisher: Publisher<ipc::Service, [u8], ()>,
    notifier: Option<Notifier<ipc::Service>>,
    bytes: usize,
}

impl Publishing {
    #[inline]
    fn notify(&self) -> Result<()> {
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(())
    }
}

impl SendEnd for Publishing {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        loop {
            let mut sample = as_it_is(self.publisher.loan_slice_uninit(self.bytes)?);
            let written = write(sample.payload_mut());
            if sample.send()? > 0 {
                self.notify()?;
                return Ok(written);
            }
            // Nobody got it: a subscriber is there, and has not connected to this publisher yet.
            std::hint::spin_loop();
        }
    }
}

impl SendBytes for Publishing {
    #[inline]
    fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        loop {
            let sample = self.publisher.loan_slice_uninit(message.len())?;
            if sample.write_from_slice(message).send()? > 0 {
                return self.notify();
            }
            std::hint::spin_loop();
        }
    }
}

struct Subscribing {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    listener: Option<Listener<ipc::Service>>,
    message: Vec<u8>,
    copies: bool,
}

impl ReceiveEnd for Subscribing {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            if let Some(seen) = self.try_receive(&mut look)? {
                return Ok(seen);
            }
            if let Some(listener) = &self.listener {
                listener
                    .blocking_wait(|_| ())
                    .map_err(|error| anyhow!("cannot wait: {error:?}"))?;
            }
        }
    }
}

impl TryReceive for Subscribing {
    #[inline]
    fn try_receive<T>(&mut self, look: &mut impl FnMut(&[u8]) -> T) -> Result<Option<T>> {
        let Some(sample) = self.subscriber.receive()? else { return Ok(None) };
        Ok(Some(look(copied_out(sample.payload(), &mut self.message, self.copies))))
    }
}
