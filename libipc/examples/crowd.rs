//! What a receive costs with one sender, and with one active sender among many: medians of interleaved rounds.
//!
//! `cargo run --release -p libipc --example crowd [SENDERS]`

use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, Receiver, Sender};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 30;
const MESSAGES: u32 = 20_000;

struct Crowd {
    receiver: Receiver,
    active: Sender,
    _idle: Vec<Sender>,
}

fn crowd(client: &Client, name: &str, senders: usize, queued: bool) -> Result<Crowd, Failure> {
    let options = MailboxOptions::new().capacity_bytes(64 << 10).lanes_max(2048);
    client.create(name, &options)?;
    let mut idle: Vec<_> = (1..senders).map(|_| client.sender(name)).collect::<Result<_, _>>()?;
    if queued {
        for sender in &mut idle {
            sender.send(b"waits")?;
        }
    }
    // Another process: its messages can be asked for by its process id.
    let active = client.sender(name)?;
    let receiver = client.receiver(name)?;
    Ok(Crowd { receiver, active, _idle: idle })
}

impl Crowd {
    /// Nanoseconds a message that is sent and received at once, in one thread.
    fn at_once(&mut self) -> Result<f64, Failure> {
        let start = Instant::now();
        for _ in 0..MESSAGES {
            self.active.send(b"12345678")?;
            self.receiver.receive()?.acknowledge();
        }
        Ok(per_message(start))
    }

    /// Nanoseconds a message where 100 are sent and then received.
    fn in_bursts(&mut self) -> Result<f64, Failure> {
        let start = Instant::now();
        for _ in 0..MESSAGES / 100 {
            (0..100).try_for_each(|_| self.active.send(b"12345678"))?;
            for _ in 0..100 {
                self.receiver.receive()?.acknowledge();
            }
        }
        Ok(per_message(start))
    }

    /// Nanoseconds from a send to the end of its receive, where the receiver has gone to sleep before each.
    fn asleep(&mut self) -> Result<f64, Failure> {
        let (active, receiver) = (&mut self.active, &mut self.receiver);
        receiver.set_spin_max(Duration::ZERO);
        let rounds = 50;
        let taken = std::thread::scope(|scope| -> Result<Duration, libipc::ReceiveError> {
            let (sent, times) = std::sync::mpsc::channel();
            scope.spawn(move || {
                for _ in 0..rounds {
                    std::thread::sleep(Duration::from_millis(1));
                    if sent.send(Instant::now()).is_err() || active.send(b"12345678").is_err() {
                        return;
                    }
                }
            });
            let mut sum = Vec::new();
            for _ in 0..rounds {
                receiver.receive()?.acknowledge();
                let end = Instant::now();
                sum.extend(times.recv().ok().map(|start| end - start));
            }
            sum.sort();
            Ok(sum[sum.len() / 2])
        })?;
        receiver.set_spin_max(Duration::from_micros(50));
        Ok(taken.as_nanos() as f64)
    }
}

fn per_message(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    let many = std::env::args().nth(1).map_or(Ok(1000), |word| word.parse())?;
    let client = Client::connect()?;
    let mut one = crowd(&client, "one", 1, false)?;
    let mut among = crowd(&client, "many", many, false)?;
    for (what, measure) in [
        ("sent and received at once", Crowd::at_once as fn(&mut Crowd) -> Result<f64, Failure>),
        ("in bursts of 100", Crowd::in_bursts),
        ("woken for each", Crowd::asleep),
    ] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(measure(&mut one)?);
            times[1].push(measure(&mut among)?);
        }
        let [one, among] = times.map(|mut times| median(&mut times));
        println!("{what}: {one:.1} ns alone, {among:.1} ns among {many}: {:.2}", among / one);
    }
    Ok(())
}
