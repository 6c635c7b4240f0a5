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
fn is_copied(load: &Load) -> bool {
    !matches!(load.kind, Kind::InPlace | Kind::Batches | Kind::Setup)
}
