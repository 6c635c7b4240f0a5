//! Members that do harm without end, until they are told anything: `menace HOW ...`.
//!
//! ```text
//! menace scribble ROLE NAME SEED   writes at random into all that it may write, as one member after the other
//! menace requests NAME SEED        asks for one thing after the other and reads no answer
//! menace halves SEED               sends pieces of requests, and waits
//! menace descriptors SEED          sends requests with descriptors that nobody wants
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use libipc::protocol::{Refresh, Request, encode};
use libipc::{MailboxName, MailboxOptions, Role};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::{Dice, RawClient};

use crate::{Outcome, said};

/// Connections that one who never reads keeps at a time.
const CONNECTIONS: usize = 100;

/// The most descriptors that the kernel takes with one message.
const DESCRIPTORS_MAX: u64 = 253;

/// The most that a message's header can announce.
const DESCRIPTORS_ANNOUNCED_MAX: usize = 250;

/// Does harm round by round; once it is told anything it answers with the rounds, and what was done in them.
pub(crate) fn obey<'a>(socket: &Path, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
    let how = words.next().unwrap_or_default();
    match how {
        "scribble" => {
            let role = match words.next() {
                Some("send") => Role::Send,
                Some("receive") => Role::Receive,
                other => return Err(format!("usage: no role {other:?}")),
            };
            let name = words.next().unwrap_or_default();
            let mut dice = Dice::new(crate::number(words.next())?);
            until_told(|| scribble(socket, name, role, &mut dice))
        }
        "requests" => {
            let name = MailboxName::new(words.next().unwrap_or_default()).map_err(said)?;
            let mut dice = Dice::new(crate::number(words.next())?);
            flood(socket, |client| ask_until_full(client, &name, &mut dice))
        }
        "halves" => {
            let mut dice = Dice::new(crate::number(words.next())?);
            flood(socket, |client| send_a_piece(client, &mut dice))
        }
        "descriptors" => {
            let mut dice = Dice::new(crate::number(words.next())?);
            let gift = File::open("/dev/null").map_err(said)?;
            flood(socket, |client| give_away(client, gift.as_fd(), &mut dice))
        }
        _ => Err(format!("usage: no menace {how}")),
    }
}

/// Says that it has begun, and goes on until the next command, whatever that is; see [`obey`].
pub(crate) fn until_told(mut act: impl FnMut() -> Result<u64, String>) -> Outcome {
    crate::answer("ok at it");
    let stdin = io::stdin();
    let (mut rounds, mut done) = (0u64, 0);
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).map_err(said)? > 0 {
            break;
        }
        done += act()?;
        rounds += 1;
    }
    crate::next_line();
    Ok(format!("{rounds} {done}"))
}

/// One member after the other, so that each finds a lane or a place that is as it should be.
fn scribble(socket: &Path, name: &str, role: Role, dice: &mut Dice) -> Result<u64, String> {
    let mut client = RawClient::greet(socket);
    // The daemon has not seen to the one before yet: it does not matter which of them writes.
    let Ok((_, descriptors)) = client.open(name, role) else { return Ok(0) };
    let files = descriptors.into_iter().filter(is_writable).map(File::from);
    let files: Vec<(File, u64)> = files
        .map(|file| file.metadata().map(|about| (file, about.len())))
        .collect::<Result<_, _>>()
        .map_err(said)?;
    let writes = 1 + dice.below(300);
    for _ in 0..writes {
        let (file, len) = &files[dice.below(files.len() as u64) as usize];
        // Most of what is of consequence is at the beginning.
        let area = if dice.below(2) == 0 { 512.min(*len) } else { *len };
        let offset = dice.below(area / 8) * 8;
        let word = a_word(file, offset, *len, dice).map_err(said)?;
        let bytes = &word.to_le_bytes()[..if dice.below(4) == 0 { 4 } else { 8 }];
        file.write_all_at(bytes, offset).map_err(said)?;
    }
    Ok(writes)
}

fn is_writable(descriptor: &OwnedFd) -> bool {
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Nonsense, or what could almost be true.
fn a_word(file: &File, offset: u64, len: u64, dice: &mut Dice) -> io::Result<u64> {
    let at = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).map(|()| u64::from_le_bytes(bytes))
    };
    Ok(match dice.below(6) {
        0 => dice.below(u64::MAX),
        1 => [0, u64::MAX][dice.below(2) as usize],
        2 => dice.below(5000),
        3 => at(dice.below(len / 8) * 8)?,
        4 => at(offset)?.wrapping_add(dice.below(600)),
        _ => at(offset)?.wrapping_sub(dice.below(600)),
    })
}

/// Connects as often as it is let; each connection is used, and some are kept.
fn flood(socket: &Path, mut act: impl FnMut(&mut RawClient) -> Result<u64, String>) -> Outcome {
    let mut kept = Vec::new();
    until_told(|| {
        let mut client = RawClient::connect(socket);
        let flags = OFlag::O_NONBLOCK;
        fcntl(client.as_fd(), FcntlArg::F_SETFL(flags)).map_err(said)?;
        let done = act(&mut client)?;
        kept.push(client);
        if kept.len() > CONNECTIONS {
            kept.clear();
        }
        Ok(done)
    })
}

/// Asks, until nothing more is taken.
fn ask_until_full(
    client: &mut RawClient,
    name: &MailboxName,
    dice: &mut Dice,
) -> Result<u64, String> {
    let mut asked = 0;
    let mut post = |request: &Request| client.post(request).is_ok();
    if !post(&tests::hello()) {
        return Ok(0);
    }
    loop {
        let own = MailboxName::new(&format!("flood{}", dice.below(4))).map_err(said)?;
        let request = match dice.below(7) {
            0 => Request::Status,
            1 => Request::List { after: None },
            2 => Request::Show { name: name.clone(), skip: 0 },
            3 => Request::Open { name: name.clone(), role: Role::Send, group: None },
            4 => {
                let attributes = MailboxOptions::new().capacity_bytes(4096).attributes();
                Request::Create { name: own, attributes, groups: Vec::new() }
            }
            5 => Request::Delete { name: own, queued: libipc::Queued::Discard },
            _ => Request::Fetch(Refresh { link: dice.below(3) as u32, after: 0 }),
        };
        if !post(&request) {
            return Ok(asked);
        }
        asked += 1;
    }
}

fn send_a_piece(client: &mut RawClient, dice: &mut Dice) -> Result<u64, String> {
    let whole = encode(1, 0, &tests::hello()).map_err(said)?;
    let piece = &whole[..dice.below(whole.len() as u64) as usize];
    // It may be that the daemon has no room for a connection, and has hung up.
    Ok(u64::from(client.send(piece, &[]).is_ok()))
}

fn give_away(client: &mut RawClient, gift: BorrowedFd<'_>, dice: &mut Dice) -> Result<u64, String> {
    let mut given = 0;
    let greeting = encode(1, 0, &tests::hello()).map_err(said)?;
    if client.send(&greeting, &[]).is_err() {
        return Ok(0);
    }
    for _ in 0..dice.below(8) {
        let gifts = vec![gift; (1 + dice.below(DESCRIPTORS_MAX)) as usize];
        let announced = [0, 1, gifts.len().min(DESCRIPTORS_ANNOUNCED_MAX)][dice.below(3) as usize];
        let bytes = encode(2, announced, &Request::Status).map_err(said)?;
        // Where the kernel lets none through that is told.
        let sent = client.send(&bytes, &gifts);
        if sent.is_ok() || sent.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
            given += gifts.len() as u64;
        }
    }
    Ok(given)
}
