//! What programs notice of an upgrade of the daemon: one sends and one receives without end, a third opens and closes all
//! the time, and meanwhile the daemon is started anew, again and again. Printed are the longest gaps that each has
//! seen, first without an upgrade, for comparison.
//!
//! ```text
//! ipcd --socket /tmp/s & IPCD_SOCKET=/tmp/s cargo run --release -p libipc --example upgrade -- 20
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, ReceiveError};

const NAME: &str = "upgrade.traffic";
const BETWEEN: Duration = Duration::from_millis(200);

/// What was seen in one run.
struct Seen {
    sent: u64,
    sender_gap: Duration,
    opened: u64,
    opener_gap: Duration,
    upgrades: Vec<Duration>,
}

/// Counts calls and their longest time until told to stop.
fn repeat(stop: &AtomicBool, mut call: impl FnMut()) -> (u64, Duration) {
    let (mut count, mut longest, mut before) = (0, Duration::ZERO, Instant::now());
    // Relaxed: nothing else hangs on it.
    while !stop.load(Ordering::Relaxed) {
        call();
        let now = Instant::now();
        longest = longest.max(now - before);
        before = now;
        count += 1;
    }
    (count, longest)
}

fn run(client: &Client, upgrades: usize) -> Seen {
    client.create(NAME, &MailboxOptions::new()).expect("a new name");
    let (stop, mut receiver) =
        (AtomicBool::new(false), client.receiver(NAME).expect("ours to receive from"));
    let mut sender = client.sender(NAME).expect("ours to send to");
    let seen = std::thread::scope(|scope| {
        let receives = scope.spawn(move || {
            let mut received = 0u64;
            loop {
                match receiver.receive() {
                    Ok(delivery) => {
                        assert_eq!(delivery.bytes(), received.to_le_bytes(), "in order, each once");
                        delivery.acknowledge();
                        received += 1;
                    }
                    Err(ReceiveError::Closed) => return received,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let stop = &stop;
        let sends = scope.spawn(move || {
            let mut number = 0u64;
            repeat(stop, || {
                sender.send(&number.to_le_bytes()).expect("sent");
                number += 1;
            })
        });
        let opens = scope.spawn(move || {
            let own = Client::connect().expect("a session");
            repeat(stop, || drop(own.sender(NAME).expect("ours to open")))
        });
        let mut gaps = Vec::new();
        for _ in 0..upgrades.max(5) {
            std::thread::sleep(BETWEEN);
            if upgrades > 0 {
                let start = Instant::now();
                client.restart_daemon().expect("root's, or the daemon's own uid's");
                client.status().expect("the new daemon answers");
                gaps.push(start.elapsed());
            }
        }
        std::thread::sleep(BETWEEN);
        stop.store(true, Ordering::Relaxed);
        let (sent, sender_gap) = sends.join().expect("the sender ends");
        let (opened, opener_gap) = opens.join().expect("the opener ends");
        client.close(NAME).expect("ours to close");
        assert_eq!(receives.join().expect("the receiver ends"), sent, "nothing is lost");
        Seen { sent, sender_gap, opened, opener_gap, upgrades: gaps }
    });
    client.delete(NAME).expect("ours to delete");
    seen
}

fn print(what: &str, seen: &mut Seen) {
    println!("{what}");
    println!("  sender: {} messages, longest gap {:.1?}", seen.sent, seen.sender_gap);
    println!("  opener: {} links, longest gap {:.1?}", seen.opened, seen.opener_gap);
    seen.upgrades.sort();
    if let (Some(median), Some(longest)) =
        (seen.upgrades.get(seen.upgrades.len() / 2), seen.upgrades.last())
    {
        println!("  until the new daemon answers: median {median:.1?}, longest {longest:.1?}");
    }
}

fn main() {
    let upgrades = std::env::args().nth(1).map_or(10, |count| count.parse().expect("a number"));
    let client = Client::connect().expect("a daemon");
    print("no upgrade", &mut run(&client, 0));
    print(&format!("{upgrades} upgrades"), &mut run(&client, upgrades));
}
