//! What a receive costs with one sender, and with one active sender among many: medians of interleaved rounds.
//! Last, what it costs to receive from a named sender while the messages of one other, or of many, wait.
//!
//! `cargo run --release -p libipc --example crowd [SENDERS]`

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
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

/// A mailbox in which the messages of other senders wait, and a process that is to be received from by name.
struct Named {
    receiver: Receiver,
    _others: Vec<Sender>,
    process: Child,
}

const NAMED_MESSAGES: u32 = 1000;

impl Named {
    fn new(client: &Client, name: &str, others: usize) -> Result<Self, Failure> {
        let crowd = crowd(client, name, others + 1, true)?;
        let process = Command::new(std::env::current_exe()?)
            .args(["feed", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { receiver: crowd.receiver, _others: crowd._idle, process })
    }

    /// Nanoseconds a message that is there when it is asked for.
    fn measure(&mut self) -> Result<f64, Failure> {
        let (Some(input), Some(output)) = (&mut self.process.stdin, &mut self.process.stdout)
        else {
            return Err("no pipe".into());
        };
        input.write_all(b"x")?;
        output.read_exact(&mut [0])?;
        let pid = self.process.id();
        let start = Instant::now();
        for _ in 0..NAMED_MESSAGES {
            self.receiver.receive_from(pid)?.acknowledge();
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(NAMED_MESSAGES))
    }
}

/// The named process: sends so many messages for each byte that it reads, and then says so.
fn feed(name: &str) -> Result<(), Failure> {
    let mut sender = Client::connect()?.sender(name)?;
    while std::io::stdin().read_exact(&mut [0]).is_ok() {
        (0..NAMED_MESSAGES).try_for_each(|_| sender.send(b"12345678"))?;
        std::io::stdout().write_all(b"x")?;
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn per_message(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).as_deref() == Some("feed") {
        return feed(&std::env::args().nth(2).ok_or("no mailbox")?);
    }
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
    let mut few = Named::new(&client, "few-others", 1)?;
    let mut many_others = Named::new(&client, "many-others", many)?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(few.measure()?);
        times[1].push(many_others.measure()?);
    }
    let [one, among] = times.map(|mut times| median(&mut times));
    println!(
        "from a named sender: {one:.1} ns beside 1, {among:.1} ns beside {many}: {:.2}",
        among / one
    );
    few.process.kill()?;
    many_others.process.kill()?;
    Ok(())
}
