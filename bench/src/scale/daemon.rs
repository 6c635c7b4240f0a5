//! What a daemon needs for many mailboxes and many sessions.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use libipc::{ClientOptions, MailboxOptions};

use super::task::Figures;

/// Mailboxes that are opened, of those that there are, one after the other.
const OPENED: u32 = 500;
/// Mailboxes that are in use at once: each takes three descriptors of the daemon, and many machines allow 20,000.
const IN_USE: u32 = 5000;

/// Time to create, open and delete a mailbox each, to list all; the daemon's memory and the shared memory of each, and of
/// each that is in use.
pub(crate) fn mailboxes(options: &ClientOptions, daemon: u32, count: u32) -> Result<Figures> {
    let client = options.connect()?;
    let create = MailboxOptions::new().capacity_bytes(64 << 10);
    let before = Memory::look(daemon)?;
    let start = Instant::now();
    for number in 0..count {
        client.create(&format!("box-{number}"), &create)?;
    }
    let created = start.elapsed();
    let after = Memory::look(daemon)?;
    let start = Instant::now();
    let listed = client.list()?.len();
    let list = start.elapsed();
    anyhow::ensure!(listed == count as usize, "{listed} mailboxes are listed");
    let opened = OPENED.min(count);
    let start = Instant::now();
    for number in 0..opened {
        // Spread over all of them.
        let name = format!("box-{}", u64::from(number) * u64::from(count) / u64::from(opened));
        drop(client.sender(&name)?);
    }
    let open = start.elapsed();
    let idle = Memory::look(daemon)?;
    let in_use = IN_USE.min(count);
    let observers = (0..in_use).map(|number| client.observer(&format!("box-{number}")));
    let observers: Vec<_> = observers.collect::<Result<_, _>>()?;
    let used = Memory::look(daemon)?;
    drop(observers);
    let start = Instant::now();
    for number in 0..count {
        client.delete(&format!("box-{number}"))?;
    }
    let deleted = start.elapsed();
    let each_us =
        |time: std::time::Duration, count: u32| time.as_secs_f64() * 1e6 / f64::from(count);
    Ok(vec![
        ("create".into(), each_us(created, count)),
        ("open to send, and close".into(), each_us(open, opened)),
        ("delete".into(), each_us(deleted, count)),
        ("list all".into(), list.as_secs_f64() * 1e3),
        ("a mailbox, the daemon's own".into(), after.own_kib_since(&before, count)),
        ("a mailbox, shared memory".into(), after.shared_kib_since(&before, count)),
        ("a mailbox in use, the daemon's own".into(), used.own_kib_since(&idle, in_use)),
        ("a mailbox in use, shared memory".into(), used.shared_kib_since(&idle, in_use)),
    ])
}

/// Time to connect, and the daemon's memory for each session.
pub(crate) fn sessions(options: &ClientOptions, daemon: u32, count: u32) -> Result<Figures> {
    let before = Memory::look(daemon)?;
    let start = Instant::now();
    let sessions: Vec<_> = (0..count).map(|_| options.connect()).collect::<Result<_, _>>()?;
    let connected = start.elapsed();
    let after = Memory::look(daemon)?;
    let mut asked_us = Vec::new();
    for session in sessions.iter().cycle().take(200) {
        let start = Instant::now();
        // The least that one can ask.
        session.show("nobody").err().context("there is no such mailbox")?;
        asked_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    asked_us.sort_by(f64::total_cmp);
    Ok(vec![
        ("connect".into(), connected.as_secs_f64() * 1e6 / f64::from(count)),
        ("a question".into(), asked_us[asked_us.len() / 2]),
        ("a session, the daemon's own".into(), after.own_kib_since(&before, count)),
    ])
}

/// Memory at a moment.
struct Memory {
    own_kib: f64,
    shared_kib: f64,
}

impl Memory {
    fn look(daemon: u32) -> Result<Self> {
        let kib = |path: &str, name: &str| -> Result<f64> {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
            number.with_context(|| format!("{path} does not tell {name}"))
        };
        Ok(Self {
            own_kib: kib(&format!("/proc/{daemon}/status"), "RssAnon")?,
            // Of the whole machine: pages of regions that nobody has mapped count too.
            shared_kib: kib("/proc/meminfo", "Shmem")?,
        })
    }

    fn own_kib_since(&self, before: &Self, count: u32) -> f64 {
        (self.own_kib - before.own_kib).max(0.0) / f64::from(count)
    }

    fn shared_kib_since(&self, before: &Self, count: u32) -> f64 {
        (self.shared_kib - before.shared_kib).max(0.0) / f64::from(count)
    }
}
