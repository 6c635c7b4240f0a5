//! What a rendezvous costs between two threads that are both awake: until the message is received, and until its
//! sender knows that it is acknowledged; beside it the time of a bare cache line, in interleaved rounds.
//!
//! `cargo run --release -p libipc --example meeting`

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libipc::{Buffering, Client, MailboxOptions, ReceiveError, Receiver, Sender};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 21;
const MEETINGS: usize = 20_000;
const NAME: &str = "example/meeting";

/// Keeps a word apart from others, neighbour prefetch included.
#[repr(align(128))]
struct Apart(AtomicU64);

/// One way of a cache line between two threads, in nanoseconds.
fn bounce() -> f64 {
    const TRIPS: u64 = 50_000;
    let word = Apart(AtomicU64::new(0));
    let trip = |turn: u64| {
        for round in 0..TRIPS {
            // Relaxed: nothing but the word itself is passed.
            while word.0.load(Ordering::Relaxed) != round * 2 + turn {
                spin_loop();
            }
            word.0.store(round * 2 + turn + 1, Ordering::Relaxed);
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| trip(1));
        trip(0);
    });
    start.elapsed().as_nanos() as f64 / TRIPS as f64 / 2.0
}

/// Median nanoseconds from a send to the receive, and from a send to its return.
fn meet(sender: &mut Sender, receiver: &mut Receiver, zero: Instant) -> Result<[f64; 2], Failure> {
    std::thread::scope(|scope| {
        let taking = scope.spawn(move || -> Result<Vec<Duration>, ReceiveError> {
            let mut ways = Vec::with_capacity(MEETINGS);
            while ways.len() < MEETINGS {
                let delivery = receiver.receive()?;
                let mut sent = [0; 8];
                sent.copy_from_slice(&delivery.bytes()[..8]);
                ways.push(zero.elapsed() - Duration::from_nanos(u64::from_le_bytes(sent)));
                delivery.acknowledge();
            }
            Ok(ways)
        });
        let mut whole = Vec::with_capacity(MEETINGS);
        let mut message = [0; 64];
        for _ in 0..MEETINGS {
            let start = zero.elapsed();
            message[..8].copy_from_slice(&(start.as_nanos() as u64).to_le_bytes());
            sender.send(&message)?;
            whole.push(zero.elapsed() - start);
        }
        let ways = taking.join().map_err(|_| "the receiver has panicked")??;
        Ok([median(ways), median(whole)])
    })
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64
}

fn main() -> Result<(), Failure> {
    let client = Client::connect()?;
    let options = MailboxOptions::new().buffering(Buffering::Rendezvous);
    client.create(NAME, &options)?;
    let (mut sender, mut receiver) = (client.sender(NAME)?, client.receiver(NAME)?);
    let zero = Instant::now();
    let mut rounds: Vec<[f64; 3]> = Vec::new();
    for _ in 0..ROUNDS {
        let bare = bounce();
        let [way, whole] = meet(&mut sender, &mut receiver, zero)?;
        rounds.push([bare, way, whole]);
    }
    client.delete(NAME)?;
    for (index, what) in
        ["a bare cache line", "to the receive", "to the return of the send"].into_iter().enumerate()
    {
        let mut times: Vec<_> = rounds.iter().map(|round| round[index]).collect();
        times.sort_by(f64::total_cmp);
        let (least, most) = (times[0], times[ROUNDS - 1]);
        println!("{what}: {:.0} ns ({least:.0} to {most:.0})", times[ROUNDS / 2]);
    }
    Ok(())
}
