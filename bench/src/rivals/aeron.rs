//! Aeron's IPC: logs in shared memory, and a media driver that tells publishers how far they may go. The driver is a
//! thread of the first process, on whichever core is free. Nobody sleeps: Aeron's clients poll.

use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use measure::check::Seen;
use measure::ends::{Ends, ReceiveEnd, SendEnd};
use measure::job::{Channel, Job, Role};
use measure::load::{Kind, Load, Wait};
use measure::loops::receive_all;
use measure::stage::{Stage, pin};
use measure::system::{Prepared, System};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rusteron_client::{Aeron as Client, AeronExclusivePublication, AeronSubscription, Handlers};
use rusteron_media_driver::bindings::aeron_threading_mode_t::AERON_THREADING_MODE_SHARED;
use rusteron_media_driver::testing::EmbeddedDriver;

use super::{copied_out, is_copied};

/// Aeron's IPC.
#[derive(Debug)]
pub(crate) struct Aeron;

/// The longest packet: longer messages go in several.
const PACKET_BYTES: usize = 65_504;
/// Bytes of a message that goes in one: a header of 32 stands in front of each.
const PACKET_BYTES_MAX: usize = PACKET_BYTES - 32;
/// Packets taken in one look at a stream.
const FRAGMENTS_MAX: usize = 256;
/// Its default. A publisher may be ahead by half of it; with as little as the others buffer it would mostly wait for the
/// driver, which only now and then looks how far it may go.
const TERM_BYTES: usize = 64 << 20;
/// How long the driver may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);

impl System for Aeron {
    fn key(&self) -> &str {
        "aeron"
    }

    fn name(&self) -> &str {
        "Aeron IPC"
    }

    fn suits(&self, load: &Load) -> bool {
        let is_carried = match load.kind {
            Kind::InPlace => load.bytes <= PACKET_BYTES_MAX,
            Kind::Stream | Kind::Call => true,
            Kind::PingPong => load.wait == Wait::Polling,
            _ => false,
        };
        is_carried && (is_copied(load) || load.kind == Kind::InPlace) && load.receivers == 1
    }

    fn prepare(&self, _load: &Load, _name: &str) -> Result<Prepared> {
        let note = "Aeron buffered more than the others, its default log of 64 MiB: with less it mostly waits for its driver.";
        Ok(Prepared { note: Some(note.to_owned()), ..Prepared::default() })
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        // The threads that the driver and the client start shall not stay on our core.
        unpin()?;
        let folder = CString::new(job.folder.join("aeron").to_string_lossy().as_bytes())?;
        let driver = job.first.then(|| driver(&folder)).transpose()?;
        let client = Client::connect_dir(&folder.to_string_lossy())?;
        pin(job.core)?;
        // Who receives is there first: a publication is connected once its subscription is.
        let receiver = job.channel_in.as_ref().map(|channel| subscribe(&client, job, channel));
        let mut receiver = receiver.transpose()?;
        let sender = job.channel_out.as_ref().map(|channel| publish(&client, job, channel));
        let sender = sender.transpose()?;
        let is_stream = matches!(job.load.kind, Kind::Stream | Kind::InPlace);
        let result = match (&mut receiver, job.role, is_stream) {
            (Some(receiver), Role::Receive(_), true) => stage.perform(job, || {
                receive_all(job, |checker, senders| {
                    receiver.take(|message| {
                        if checker.check(message) == Seen::End {
                            *senders -= 1;
                        }
                    })
                })
            }),
            _ if job.load.kind == Kind::InPlace => {
                stage.run(job, Ends { sender: sender.map(InPlace), receiver })
            }
            _ => {
                let sender = sender.map(|end| Copied { end, message: vec![0; job.load.bytes] });
                stage.run(job, Ends { sender, receiver })
            }
        };
        drop(driver);
        result
    }
}

fn unpin() -> Result<()> {
    let mut cores = CpuSet::new();
    for core in 0..CpuSet::count() {
        // Those that are not there the kernel leaves out.
        cores.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &cores).context("cannot use all cores")
}

fn driver(folder: &CStr) -> Result<EmbeddedDriver> {
    Ok(EmbeddedDriver::launch_with(|context| {
        context.set_dir(folder)?;
        context.set_threading_mode(AERON_THREADING_MODE_SHARED)?;
        Ok(())
    })?)
}

/// A stream of its own for each channel.
fn address(channel: &Channel) -> Result<(CString, i32)> {
    let stream = if channel.name.ends_with("-0") { 1000 } else { 1001 };
    Ok((CString::new(format!("aeron:ipc?term-length={TERM_BYTES}|mtu={PACKET_BYTES}"))?, stream))
}

fn publish(client: &Client, job: &Job, channel: &Channel) -> Result<Publication> {
    let (address, stream) = address(channel)?;
    let publication = client.async_add_exclusive_publication(&address, stream)?;
    Ok(Publication { publication: publication.poll_blocking(PATIENCE)?, bytes: job.load.bytes })
}

fn subscribe(client: &Client, job: &Job, channel: &Channel) -> Result<Subscription> {
    let (address, stream) = address(channel)?;
    let subscription =
        client.async_add_subscription(&address, stream, Handlers::NONE, Handlers::NONE)?;
    let subscription = subscription.poll_blocking(PATIENCE)?;
    let (bytes, copies) = (job.load.bytes, job.load.kind != Kind::InPlace);
    let message = if bytes > PACKET_BYTES_MAX { Vec::new() } else { vec![0; bytes] };
    Ok(Subscription { subscription, bytes, message, copies })
}

struct Publication {
    publication: AeronExclusivePublication,
    bytes: usize,
}

impl Publication {
    /// Tries until it works or cannot any more.
    #[inline]
    fn insist<T>(
        &self,
        mut attempt: impl FnMut(
            &AeronExclusivePublication,
        ) -> Result<T, rusteron_client::AeronOfferError>,
    ) -> Result<T> {
        let mut deadline = None;
        loop {
            match attempt(&self.publication) {
                Ok(done) => return Ok(done),
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error.into()),
            }
            std::hint::spin_loop();
            // Of the clock a waiting publisher may see as much as it likes.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            ensure!(Instant::now() < deadline, "nobody receives");
        }
    }
}

struct Copied {
    end: Publication,
    message: Vec<u8>,
}

impl SendEnd for Copied {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let written = write(&mut self.message);
        self.end.insist(|publication| publication.offer(&self.message))?;
        Ok(written)
    }
}

struct InPlace(Publication);

impl SendEnd for InPlace {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let bytes = self.0.bytes;
        let mut claim = self.0.insist(|publication| publication.try_claim_owned(bytes))?;
        let written = write(claim.data());
        claim.commit()?;
        Ok(written)
    }
}

struct Subscription {
    subscription: AeronSubscription,
    bytes: usize,
    /// What has come of a message that is longer than a packet; else a copy of one.
    message: Vec<u8>,
    copies: bool,
}

impl Subscription {
    /// Looks at up to `FRAGMENTS_MAX` packets, and has each whole message seen.
    #[inline]
    fn take(&mut self, mut look: impl FnMut(&[u8])) -> Result<()> {
        self.poll(FRAGMENTS_MAX, &mut look)
    }

    #[inline]
    fn poll(&mut self, fragments: usize, look: &mut impl FnMut(&[u8])) -> Result<()> {
        let Self { subscription, bytes, message, copies } = self;
        if *bytes <= PACKET_BYTES_MAX {
            subscription
                .poll_fn(|packet, _header| look(copied_out(packet, message, *copies)), fragments)?;
            return Ok(());
        }
        // All messages are of one length, and of one sender: their packets need no more than to be joined.
        subscription.poll_fn(
            |packet, _header| {
                message.extend_from_slice(packet);
                if message.len() >= *bytes {
                    look(message);
                    message.clear();
                }
            },
            fragments,
        )?;
        Ok(())
    }
}

impl ReceiveEnd for Subscription {
    #[inline]
    fn receive<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        let mut seen = None;
        loop {
            self.poll(1, &mut |message| seen = Some(look(message)))?;
            if let Some(seen) = seen {
                return Ok(seen);
            }
            std::hint::spin_loop();
        }
    }
}
