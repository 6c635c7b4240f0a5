//! What people use instead, beyond what the kernel offers; each behind a feature of its name.

#[cfg(feature = "aeron")]
pub(crate) mod aeron;
#[cfg(feature = "boost")]
mod boost;
#[cfg(feature = "iceoryx2")]
mod iceoryx2;
#[cfg(feature = "iceoryx2")]
mod iceoryx2_calls;
#[cfg(feature = "ipc-channel")]
mod ipc_channel;
#[cfg(feature = "ipmpsc")]
mod ipmpsc;
#[cfg(feature = "nng")]
mod nng;
#[cfg(feature = "shmem-ipc")]
mod shmem_ipc;
#[cfg(feature = "zeromq")]
mod zeromq;

#[cfg(feature = "rival")]
use measure::load::{Kind, Load};
use measure::system::System;

/// All of them that were built.
pub(crate) fn all() -> Vec<Box<dyn System>> {
    vec![
        #[cfg(feature = "iceoryx2")]
        Box::new(iceoryx2::Iceoryx2::waiting()),
        #[cfg(feature = "iceoryx2")]
        Box::new(iceoryx2::Iceoryx2::polling()),
        #[cfg(feature = "iceoryx2")]
        Box::new(iceoryx2_calls::Iceoryx2Calls::waiting()),
        #[cfg(feature = "iceoryx2")]
        Box::new(iceoryx2_calls::Iceoryx2Calls::polling()),
        #[cfg(feature = "shmem-ipc")]
        Box::new(shmem_ipc::ShmemIpc),
        #[cfg(feature = "ipc-channel")]
        Box::new(ipc_channel::IpcChannel),
        #[cfg(feature = "ipmpsc")]
        Box::new(ipmpsc::Ipmpsc),
        #[cfg(feature = "zeromq")]
        Box::new(zeromq::ZeroMq),
        #[cfg(feature = "nng")]
        Box::new(nng::Nng),
        #[cfg(feature = "boost")]
        Box::new(boost::BoostQueue),
        #[cfg(feature = "aeron")]
        Box::new(aeron::Aeron),
    ]
}

/// Whether messages are copied in and out one at a time: what every rival can do.
#[cfg(feature = "rival")]
fn is_copied(load: &Load) -> bool {
    !matches!(load.kind, Kind::InPlace | Kind::Batches | Kind::Setup)
}

/// A message in memory of the receiver's own, where it `copies`; where it lies, where not. A rival whose receivers look at
/// shared memory is measured both ways, as we are: a message that was copied out is what nobody can change any more.
#[cfg(any(feature = "aeron", feature = "iceoryx2", feature = "ipmpsc"))]
#[inline]
fn copied_out<'a>(message: &'a [u8], own: &'a mut [u8], copies: bool) -> &'a [u8] {
    match own.get_mut(..message.len()) {
        Some(own) if copies => {
            own.copy_from_slice(message);
            own
        }
        _ => message,
    }
}

/// Where two sockets meet.
#[cfg(any(feature = "nng", feature = "zeromq"))]
struct Meeting {
    address: String,
    /// This process has it; others come.
    is_ours: bool,
}

/// The addresses of a channel, for systems of sockets: who is started first has one, who comes later goes to all.
#[cfg(any(feature = "nng", feature = "zeromq"))]
fn meetings(job: &measure::job::Job, channel: &measure::job::Channel) -> Vec<Meeting> {
    use measure::job::Role;

    let meeting = |number: u8, is_ours| {
        let file = job.folder.join(format!("{}-{number}", channel.name));
        Meeting { address: format!("ipc://{}", file.display()), is_ours }
    };
    match job.role {
        Role::Receive(number) => vec![meeting(number, true)],
        Role::Pong => vec![meeting(0, true)],
        _ => (0..job.load.receivers).map(|number| meeting(number, false)).collect(),
    }
}
