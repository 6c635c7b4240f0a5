//! Many sessions, or many connections, of one process.

use std::path::Path;
use std::time::Instant;

use libipc::{ClientOptions, Sender};
use tests::RawClient;

use crate::{Outcome, next_line, number, said};

/// Opens so many sessions, each of which sends one message to each of the mailboxes, and keeps them: `SESSIONS NAME...`.
pub(crate) fn gather<'a>(
    socket: &Path,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<Vec<(libipc::Client, Vec<Sender>)>, String> {
    let sessions: usize = number(words.next())?;
    let names: Vec<_> = words.collect();
    let session = || {
        let client = ClientOptions::new().socket(socket).connect().map_err(said)?;
        let senders = names.iter().map(|name| {
            let mut sender = client.sender(name).map_err(said)?;
            sender.send(name.as_bytes()).map_err(said)?;
            Ok(sender)
        });
        let senders = senders.collect::<Result<Vec<_>, String>>()?;
        Ok((client, senders))
    };
    (0..sessions).map(|_| session()).collect()
}

/// Connects as fast as it can, with a greeting or without, until it is told anything; says how often.
pub(crate) fn flood(socket: &Path) -> Outcome {
    let until_told = std::thread::spawn(next_line);
    let mut connections = 0u64;
    let mut silent = Vec::new();
    while !until_told.is_finished() {
        // One that greets and asks, and one that says nothing; some of those stay.
        if let Ok(raw) = std::panic::catch_unwind(|| RawClient::connect(socket)) {
            silent.push(raw);
        }
        let _ = ClientOptions::new().socket(socket).connect();
        connections += 2;
        if silent.len() > 100 {
            silent.clear();
        }
    }
    Ok(connections.to_string())
}

/// Connects so often, one after the other; says how many microseconds the middle one and the longest took.
pub(crate) fn time<'a>(socket: &Path, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
    let count: usize = number(words.next())?;
    let mut micros = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let client = ClientOptions::new().socket(socket).connect().map_err(said)?;
        client.status().map_err(said)?;
        micros.push(begin.elapsed().as_micros());
    }
    micros.sort_unstable();
    let (middle, longest) = (micros.get(count / 2), micros.last());
    Ok(format!("{} {}", middle.unwrap_or(&0), longest.unwrap_or(&0)))
}
