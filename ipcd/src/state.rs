//! What the daemon knows, in a memory file that outlives it: a log of records, each of which says what one request
//! has changed.
//!
//! ```text
//! 0    magic u64 "ipcdSTAT"   version u32   ended u32 (1: the daemon has ended in order)
//! 16   sequence u64           of two such files the one with the higher number counts
//! 24   committed u64          bytes of the log that count
//! 64   log                    postcard records, one behind the other
//! ```
//!
//! The daemon alone writes it, and its successor reads it. Bytes of a record are written first, and count from the moment at
//! which `committed` goes beyond them, so a death at any instruction leaves the state before the request or the
//! one after it. A log that has become much longer than what it says is written anew, into another file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use libipc::lane::layout::Traffic;
use serde::{Deserialize, Serialize};

use crate::regions::memfd;
use crate::registry::Registry;
use crate::registry::journal::{Changes, Record};
use crate::registry::tracked::Tracked;
use crate::store::{Kept, Store};

/// Name of the memory file.
pub const NAME: &str = "ipcd.state";

const MAGIC: u64 = u64::from_le_bytes(*b"ipcdSTAT");
/// Version of the records. A daemon of another version begins with nothing.
const VERSION: u32 = 2;
const ENDED_AT: u64 = 12;
const COMMITTED_AT: u64 = 24;
const LOG_AT: u64 = 64;

/// A log is written anew when it is longer than this, and than [`GROWTH`] times what it was when it was written.
const LOG_BYTES_MIN: u64 = 1 << 20;
const GROWTH: u64 = 8;

/// A session's socket, and how far the talk on it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The name of its descriptors in the store.
    pub stored: String,
    /// It has said hello; whether its process may call the barrier.
    pub barrier: Option<bool>,
    /// The request that was done last, and whose answer the client may not have yet.
    pub handled: Option<Handled>,
}

/// A request that was done, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The request's number.
    pub request: u64,
    /// The answer as it is sent.
    pub answer: Vec<u8>,
    /// The regions whose descriptors go with it, and whether only to be read.
    pub regions: Vec<(String, bool)>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    registry: Changes<'a>,
    connections: Vec<(u64, Option<&'a Connection>)>,
    last_session: u64,
    removed: &'a [(u64, Traffic)],
}

#[derive(Debug, Deserialize)]
struct ReadEntry {
    registry: Record,
    connections: Vec<(u64, Option<Connection>)>,
    last_session: u64,
    removed: Vec<(u64, Traffic)>,
}

/// The state file that is written now.
#[derive(Debug)]
pub struct State {
    file: File,
    kept: Kept,
    sequence: u64,
    /// Bytes of the log.
    written: u64,
    /// Bytes that it had when it was begun.
    begun_with: u64,
    /// Sessions that are to be found again, by their numbers.
    pub connections: Tracked<u64, Connection>,
    /// The last session's number.
    pub last_session: u64,
    buffer: Vec<u8>,
}

/// What a predecessor has left.
#[derive(Debug, Default)]
pub struct Left {
    /// Its sessions.
    pub connections: Tracked<u64, Connection>,
    /// The last session's number.
    pub last_session: u64,
    /// Mailboxes that went with its last step, whose members may not have been told.
    pub removed: Vec<(u64, Traffic)>,
    /// Of its state file.
    pub sequence: u64,
}

impl State {
    /// Writes all that a registry has into a new file, and puts that into the store.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn begin(store: &Rc<Store>, registry: &mut Registry, left: Left) -> io::Result<Self> {
        let Left { mut connections, last_session, removed, sequence } = left;
        registry.take_touched();
        connections.take_touched();
        let mut buffer = Vec::new();
        encode_everything(registry, &connections, last_session, &removed, &mut buffer)?;
        let sequence = sequence + 1;
        let (file, kept) = new_file(store, sequence, &buffer)?;
        let written = buffer.len() as u64;
        Ok(Self {
            file,
            kept,
            sequence,
            written,
            begun_with: written,
            connections,
            last_session,
            buffer,
        })
    }

    /// Whether something is to be written.
    #[must_use]
    pub fn has_changed(&self, registry: &Registry) -> bool {
        registry.is_touched() || self.connections.is_touched()
    }

    /// Writes what has changed since the last time; all of it counts when this returns, or none.
    ///
    /// # Errors
    /// What the kernel said. What was written before stands.
    pub fn commit(
        &mut self,
        store: &Rc<Store>,
        registry: &mut Registry,
        removed: &[(u64, Traffic)],
    ) -> io::Result<()> {
        if !self.has_changed(registry) {
            return Ok(());
        }
        let (touched, sessions) = (registry.take_touched(), self.connections.take_touched());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if self.written > LOG_BYTES_MIN.max(GROWTH * self.begun_with) {
            let (connections, last_session) = (&self.connections, self.last_session);
            encode_everything(registry, connections, last_session, removed, &mut buffer)?;
            // Only when the new file is whole and kept is the old one let go of.
            let (file, kept) = new_file(store, self.sequence + 1, &buffer)?;
            (self.file, self.kept) = (file, kept);
            self.sequence += 1;
            self.written = buffer.len() as u64;
            self.begun_with = self.written;
            buffer = Vec::new();
        } else {
            let connections = sessions.iter().map(|id| (*id, self.connections.get(id))).collect();
            let registry = registry.changes(&touched);
            let last_session = self.last_session;
            encode(&Entry { registry, connections, last_session, removed }, &mut buffer)?;
            self.file.write_all_at(&buffer, LOG_AT + self.written)?;
            self.written += buffer.len() as u64;
            self.file.write_all_at(&self.written.to_le_bytes(), COMMITTED_AT)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Notes that the daemon ends in order: a successor begins with nothing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn end(&self) -> io::Result<()> {
        self.file.write_all_at(&1u32.to_le_bytes(), ENDED_AT)
    }

    /// Notes that a client has its answer.
    pub fn answered(&mut self, session: u64) {
        // It need not be written: the next request has another number.
        if let Some(connection) = self.connections.get_unnoticed(&session) {
            connection.handled = None;
        }
    }
}

/// Why a state file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It was never finished, or is none.
    #[error("it is no finished state file")]
    Unfinished,
    /// Another version of this program wrote it.
    #[error("its records have version {0}, this ipcd reads version {VERSION}")]
    Version(u32),
    /// Its daemon ended in order: nothing is left.
    #[error("its daemon has ended in order")]
    Ended,
    /// A record cannot be read.
    #[error("a record at byte {at} of {committed} cannot be read")]
    Record {
        /// Where it begins.
        at: u64,
        /// Bytes of the log.
        committed: u64,
    },
    /// The kernel said no.
    #[error("cannot read it: {0}")]
    Kernel(#[from] io::Error),
}

/// The number that tells which of two state files counts.
///
/// # Errors
/// It is none, or one that is of no use.
pub fn sequence(file: &File) -> Result<u64, StateError> {
    let mut header = [0; 32];
    read_exact(file, &mut header, 0)?;
    if word(&header, 0) != MAGIC {
        return Err(StateError::Unfinished);
    }
    let version = word(&header, 8) as u32;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    if word(&header, 8) >> 32 != 0 {
        return Err(StateError::Ended);
    }
    Ok(word(&header, 16))
}

/// Has a registry follow all records of a state file.
///
/// # Errors
/// It is of no use; the registry may have followed some of it.
pub fn read(file: &File, registry: &mut Registry) -> Result<Left, StateError> {
    let mut left = Left { sequence: sequence(file)?, ..Left::default() };
    let mut committed = [0; 8];
    read_exact(file, &mut committed, COMMITTED_AT)?;
    let committed = u64::from_le_bytes(committed);
    let mut log = vec![0; usize::try_from(committed).map_err(|_| StateError::Unfinished)?];
    read_exact(file, &mut log, LOG_AT)?;
    let mut rest = log.as_slice();
    while !rest.is_empty() {
        let at = committed - rest.len() as u64;
        let (entry, behind) = postcard::take_from_bytes::<ReadEntry>(rest)
            .map_err(|_| StateError::Record { at, committed })?;
        rest = behind;
        registry.follow(entry.registry);
        left.connections.follow(entry.connections);
        left.last_session = entry.last_session;
        left.removed = entry.removed;
    }
    registry.complete();
    Ok(left)
}

/// Encodes a record of all there is.
fn encode_everything(
    registry: &Registry,
    connections: &Tracked<u64, Connection>,
    last_session: u64,
    removed: &[(u64, Traffic)],
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let connections = connections.iter().map(|(&id, it)| (id, Some(it))).collect();
    let registry = registry.changes(&registry.everything());
    encode(&Entry { registry, connections, last_session, removed }, buffer)
}

/// A new file whose log is one record of everything, in the store.
fn new_file(store: &Rc<Store>, sequence: u64, everything: &[u8]) -> io::Result<(File, Kept)> {
    let file = File::from(memfd(NAME)?);
    file.write_all_at(everything, LOG_AT)?;
    let mut header = Vec::with_capacity(LOG_AT as usize);
    for word in [MAGIC, u64::from(VERSION), sequence, everything.len() as u64] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    file.write_all_at(&header, 0)?;
    let kept = store.keep(&[file.as_fd()])?;
    Ok((file, kept))
}

fn encode(entry: &Entry<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
    let encoded = postcard::to_extend(entry, std::mem::take(buffer));
    *buffer = encoded.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|it| <[u8; 8]>::try_from(it).ok());
    word.map_or(0, u64::from_le_bytes)
}

fn read_exact(file: &File, bytes: &mut [u8], at: u64) -> Result<(), StateError> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StateError::Unfinished,
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use libipc::protocol::{Identity, MailboxAttributes, MailboxName};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use crate::registry::link::SessionId;
    use crate::registry::permission::Caller;
    use crate::registry::quota::{DEFAULT_LIMITS, Quotas};

    const US: Identity = Identity { pid: 1, uid: 0, gid: 0 };

    fn empty() -> Registry {
        Registry::new(Quotas::new(DEFAULT_LIMITS, HashMap::new()), 0)
    }

    /// A store whose other end somebody reads.
    fn store() -> Rc<Store> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            let heard = |buffer: &mut [u8]| libipc::sys::socket::receive(theirs.as_fd(), buffer);
            while heard(&mut buffer).is_ok_and(|received| received.len > 0) {}
        });
        Store::keeper(ours)
    }

    fn create(registry: &mut Registry, number: u32) {
        let name = MailboxName::new(&format!("m{number}")).unwrap();
        let caller = Caller { identity: US, groups: &[] };
        let attributes = MailboxAttributes::default();
        registry.create(SessionId(1), &caller, &name, &attributes, &[]).unwrap();
    }

    fn begun(store: &Rc<Store>) -> (State, Registry) {
        let mut registry = empty();
        registry.begin_session(SessionId(1), US).unwrap();
        let left = Left { last_session: 1, ..Left::default() };
        let state = State::begin(store, &mut registry, left).unwrap();
        (state, registry)
    }

    fn names(file: &File) -> Result<usize, StateError> {
        let mut registry = empty();
        read(file, &mut registry)?;
        Ok(registry.mailbox_count())
    }

    #[test]
    fn what_is_committed_is_read_and_what_is_only_written_is_not() {
        let store = store();
        let (mut state, mut registry) = begun(&store);
        create(&mut registry, 0);
        state.commit(&store, &mut registry, &[(7, Traffic::OwnerGone)]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        let left = read(&state.file, &mut empty()).unwrap();
        assert_eq!(left.removed, [(7, Traffic::OwnerGone)]);
        assert_eq!((left.last_session, left.sequence), (1, 1));
        let before = state.written;
        create(&mut registry, 1);
        state.commit(&store, &mut registry, &[]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 2);
        // A death before the last step: the bytes are there and do not count, however many of them.
        state.file.write_all_at(&before.to_le_bytes(), COMMITTED_AT).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        state.file.write_all_at(&[0xff; 100], LOG_AT + before).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        state.file.write_all_at(&(before + 100).to_le_bytes(), COMMITTED_AT).unwrap();
        assert!(matches!(names(&state.file), Err(StateError::Record { .. })));
    }

    #[test]
    fn a_long_log_is_written_anew_and_the_newer_file_counts() {
        let store = store();
        let (mut state, mut registry) = begun(&store);
        let first = state.file.try_clone().unwrap();
        let mut number = 0;
        let mut longest = 0;
        while state.sequence == 1 {
            create(&mut registry, number);
            registry.remove(u64::from(number) + 1);
            number += 1;
            state.commit(&store, &mut registry, &[]).unwrap();
            longest = longest.max(state.written);
        }
        assert!(longest > LOG_BYTES_MIN && state.written < 4096, "{} bytes", state.written);
        assert!(sequence(&first).unwrap() < sequence(&state.file).unwrap());
        create(&mut registry, number);
        state.commit(&store, &mut registry, &[]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        assert_eq!(names(&first).unwrap(), 0);
    }

    #[test]
    fn a_state_that_has_ended_or_is_of_another_version_is_of_no_use() {
        let store = store();
        let (state, _registry) = begun(&store);
        state.end().unwrap();
        assert!(matches!(sequence(&state.file), Err(StateError::Ended)));
        state.file.write_all_at(&(VERSION + 1).to_le_bytes(), 8).unwrap();
        assert!(matches!(sequence(&state.file), Err(StateError::Version(_))));
        let unfinished = File::from(memfd(NAME).unwrap());
        assert!(matches!(sequence(&unfinished), Err(StateError::Unfinished)));
    }
}
