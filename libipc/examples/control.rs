//! What the daemon's own work costs: create and delete, open and close, with several daemons in turns, so that what is
//! compared was measured side by side.
//!
//! ```text
//! ipcd --no-keeper --socket /tmp/one & ipcd --socket /tmp/two &
//! cargo run --release -p libipc --example control -- 21 /tmp/one /tmp/two
//! ```

use std::time::Instant;

use libipc::{Client, ClientOptions, MailboxOptions};

const PAIRS_A_ROUND: u32 = 200;

/// Microseconds of each round's pair, for one daemon.
#[derive(Default)]
struct Taken {
    create: Vec<f64>,
    open: Vec<f64>,
}

fn timed(mut pair: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..PAIRS_A_ROUND).for_each(|_| pair());
    start.elapsed().as_secs_f64() * 1e6 / f64::from(PAIRS_A_ROUND)
}

fn round(client: &Client, taken: &mut Taken) {
    let options = MailboxOptions::new();
    taken.create.push(timed(|| {
        client.create("control.made", &options).expect("a new name");
        client.delete("control.made").expect("ours to delete");
    }));
    client.create("control.there", &options).expect("a new name");
    taken.open.push(timed(|| drop(client.sender("control.there").expect("ours to open"))));
    client.delete("control.there").expect("ours to delete");
}

/// Lowest, median and highest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 2];
    format!("{:.1} us ({:.1} to {:.1})", at(1), at(0), at(2))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (rounds, sockets) = match arguments.split_first() {
        Some((rounds, sockets)) if !sockets.is_empty() => (rounds, sockets),
        _ => return eprintln!("usage: control ROUNDS SOCKET..."),
    };
    let rounds: usize = rounds.parse().expect("a number of rounds");
    let connect = |socket: &String| ClientOptions::new().socket(socket).connect();
    let clients: Vec<_> =
        sockets.iter().map(connect).collect::<Result<_, _>>().expect("daemons that listen");
    let mut all: Vec<Taken> = clients.iter().map(|_| Taken::default()).collect();
    for _ in 0..rounds {
        for (client, taken) in clients.iter().zip(&mut all) {
            round(client, taken);
        }
    }
    for (socket, taken) in sockets.iter().zip(all) {
        println!("{socket}");
        println!("  create and delete  {}", spread(taken.create));
        println!("  open and close     {}", spread(taken.open));
    }
}
