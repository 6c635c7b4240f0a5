//! What a wait costs for many mailboxes at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use libipc::{ClientOptions, MailboxOptions, Receiver, Sender, WaitSet, Waitable};

use super::task::Figures;

/// Messages that are there when the wait begins.
const READY_MESSAGES: usize = 2000;
/// Messages that wake a wait.
const WAKING_MESSAGES: usize = 200;

/// Nanoseconds of a wait that need not sleep, and from the send to the end of one that does.
pub(crate) fn measure(options: &ClientOptions, count: u32) -> Result<Figures> {
    let client = options.connect()?;
    let names: Vec<_> = (0..count).map(|number| format!("waited-{number}")).collect();
    let create = MailboxOptions::new().capacity_bytes(4096);
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for name in &names {
        client.create(name, &create)?;
        senders.push(client.sender(name)?);
        receivers.push(client.receiver(name)?);
    }
    let mut set = WaitSet::new();
    set.set_spin_max(Duration::ZERO);
    let measured = ready(&mut set, &mut senders, &mut receivers)
        .and_then(|ready| Ok((ready, woken(&mut set, senders, &mut receivers)?)));
    drop(receivers);
    for name in &names {
        client.delete(name)?;
    }
    let (ready, woken) = measured?;
    Ok(vec![("one is ready".into(), ready), ("asleep, and woken".into(), woken)])
}

fn ready(set: &mut WaitSet, senders: &mut [Sender], receivers: &mut [Receiver]) -> Result<f64> {
    let mut elapsed = Duration::ZERO;
    for number in 0..READY_MESSAGES {
        // A prime, so that it is another mailbox each time.
        let chosen = number * 7919 % senders.len();
        senders[chosen].send(b"ready")?;
        let start = Instant::now();
        let found = wait(set, receivers)?;
        elapsed += start.elapsed();
        ensure!(found == chosen, "mailbox {found} was ready, not {chosen}");
        receivers[found].try_receive()?.acknowledge();
    }
    Ok(elapsed.as_nanos() as f64 / READY_MESSAGES as f64)
}

/// Waits; the sources are collected anew each time, as the borrow wants it, which is part of what it costs.
fn wait(set: &mut WaitSet, receivers: &mut [Receiver]) -> Result<usize> {
    let mut sources: Vec<&mut dyn Waitable> =
        receivers.iter_mut().map(|receiver| receiver as &mut dyn Waitable).collect();
    let ready = set.wait(&mut sources)?;
    ready.first().copied().ok_or_else(|| anyhow!("nobody was ready"))
}

fn woken(set: &mut WaitSet, mut senders: Vec<Sender>, receivers: &mut [Receiver]) -> Result<f64> {
    let epoch = Instant::now();
    let now_ns = || epoch.elapsed().as_nanos() as u64;
    let (round, sent_ns) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut times_ns = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            for number in 0..WAKING_MESSAGES {
                while round.load(Ordering::Acquire) <= number as u64 {
                    thread::sleep(Duration::from_micros(100));
                }
                // Long enough for it to fall asleep.
                thread::sleep(Duration::from_millis(1));
                let chosen = number * 7919 % senders.len();
                sent_ns.store(now_ns(), Ordering::Release);
                senders[chosen].send(b"wake up")?;
            }
            Ok(())
        });
        let received = (0..WAKING_MESSAGES).try_for_each(|_| -> Result<()> {
            round.fetch_add(1, Ordering::Release);
            let found = wait(set, receivers)?;
            times_ns.push((now_ns() - sent_ns.load(Ordering::Acquire)) as f64);
            receivers[found].try_receive()?.acknowledge();
            Ok(())
        });
        // If it failed, the sender's remaining messages find room, and it ends all the same.
        round.store(WAKING_MESSAGES as u64, Ordering::Release);
        let sent = sender.join().map_err(|_| anyhow!("the sender has panicked"))?;
        received.and(sent)
    })?;
    times_ns.sort_by(f64::total_cmp);
    Ok(times_ns[times_ns.len() / 2])
}
