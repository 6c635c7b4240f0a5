//! What a message costs beside lanes that carry none: in one thread, so that nothing but instructions counts.

use std::time::{Duration, Instant};

use anyhow::Result;
use libipc::{ClientOptions, MailboxOptions};

use super::task::Figures;

const MESSAGES: u32 = 100_000;
/// Messages of a burst.
const BURST: u32 = 50;
const BYTES: usize = 64;

/// Nanoseconds of a send and of a receive in bursts, and of both where each message is taken at once.
pub(crate) fn measure(options: &ClientOptions, idle: u32) -> Result<Figures> {
    let client = options.connect()?;
    let name = format!("lanes-{idle}");
    client.create(&name, &MailboxOptions::new().capacity_bytes(16 << 10).lanes_max(2048))?;
    let _idle: Vec<_> = (0..idle).map(|_| client.sender(&name)).collect::<Result<_, _>>()?;
    let mut sender = client.sender(&name)?;
    let mut receiver = client.receiver(&name)?;
    let message = [7; BYTES];
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..MESSAGES / BURST {
        let start = Instant::now();
        (0..BURST).try_for_each(|_| sender.send(&message))?;
        let sent = Instant::now();
        for _ in 0..BURST {
            receiver.receive()?.acknowledge();
        }
        sending += sent - start;
        receiving += sent.elapsed();
    }
    let start = Instant::now();
    for _ in 0..MESSAGES {
        sender.send(&message)?;
        receiver.receive()?.acknowledge();
    }
    let both = start.elapsed();
    drop((sender, receiver));
    client.delete(&name)?;
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(MESSAGES);
    Ok(vec![
        ("send".into(), each(sending)),
        ("receive".into(), each(receiving)),
        ("there and taken at once".into(), each(both)),
    ])
}
