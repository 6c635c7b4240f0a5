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
//! one after it. A log that has become much longer than what it says is written anew.
//!
//! There are two files, which take turns: the one whose log is written, and an empty one, into which the next log
//! goes. So writing it anew takes no descriptor and no place in the store: those are what a daemon may have run out of.
//! If it cannot be written anew it goes on as it is, and that is tried again later. What cannot be written at all stays
//! owed, and whatever waits for it waits: nothing is given up for a lack that may pass.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use libipc::lane::layout::Traffic;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::regions::memfd;
use crate::registry::Registry;
use crate::registry::journal::{Changes, Record};
use crate::registry::tracked::Tracked;
use crate::store::{Kept, Store};

/// Name of the memory file.
pub const NAME: &str = "ipcd.state";

const MAGIC: u64 = u64::from_le_bytes(*b"ipcdSTAT");
/// Version of the records. A daemon of another version begins with nothing.
const VERSION: u32 = 3;
const ENDED_AT: u64 = 12;
const COMMITTED_AT: u64 = 24;
const LOG_AT: u64 = 64;

/// A log is written anew when it is longer than this, and than [`GROWTH`] times what it was when it was begun.
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
    /// All there is: what came before is void. Of what has gone since it says nothing.
    whole: bool,
    registry: Changes<'a>,
    connections: Vec<(u64, Option<&'a Connection>)>,
    last_session: u64,
    removed: &'a [(u64, Traffic)],
}

#[derive(Debug, Deserialize)]
struct ReadEntry {
    whole: bool,
    registry: Record,
    connections: Vec<(u64, Option<Connection>)>,
    last_session: u64,
    removed: Vec<(u64, Traffic)>,
}

/// One of the two files, and its place in the store.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    _kept: Rc<Kept>,
}

/// The state as it is written.
#[derive(Debug)]
pub struct State {
    store: Rc<Store>,
    /// The file that counts.
    file: LogFile,
    /// The empty one; none as long as it cannot be made.
    spare: Option<LogFile>,
    sequence: u64,
    /// Bytes of the log.
    written: u64,
    /// The log is written anew when it is so long.
    anew_at: u64,
    /// Something that has changed could not be written: the next record has everything.
    owes: bool,
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
    /// Its state file, how often that was begun anew, and how long its log is; none, where there was no predecessor.
    pub log: Option<(LogFile, u64, u64)>,
    /// Another file of its, of which nothing counts.
    pub spare: Option<LogFile>,
}

impl State {
    /// Goes on with what a predecessor has left, or begins with what a registry has.
    ///
    /// # Errors
    /// What the kernel said where there was nothing to go on with.
    pub fn begin(store: &Rc<Store>, registry: &mut Registry, left: Left) -> io::Result<Self> {
        let Left { connections, last_session, removed, log, spare } = left;
        let (file, spare, (sequence, written)) = match log {
            Some((file, sequence, written)) => (file, spare, (sequence, written)),
            None => (LogFile::make(store)?, None, (0, 0)),
        };
        let is_new = sequence == 0;
        let mut state = Self {
            store: store.clone(),
            file,
            spare,
            sequence,
            written,
            anew_at: 0,
            owes: true,
            connections,
            last_session,
            buffer: Vec::new(),
        };
        match state.commit(registry, &removed) {
            Err(error) if is_new => return Err(error),
            Err(error) => warn!(%error, "cannot write the state now"),
            Ok(()) => {}
        }
        Ok(state)
    }

    /// Whether something is to be written.
    #[must_use]
    pub fn has_changed(&self, registry: &Registry) -> bool {
        self.owes || registry.is_touched() || self.connections.is_touched()
    }

    /// Writes what has changed since the last time; all of it counts when this returns, or none: then it stays owed.
    ///
    /// # Errors
    /// What the kernel said. What was written before stands.
    pub fn commit(
        &mut self,
        registry: &mut Registry,
        removed: &[(u64, Traffic)],
    ) -> io::Result<()> {
        if !self.has_changed(registry) {
            return Ok(());
        }
        let (touched, sessions) = (registry.take_touched(), self.connections.take_touched());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let owed = std::mem::replace(&mut self.owes, true);
        let anew = owed || self.written >= self.anew_at;
        if anew {
            self.encode_everything(registry, removed, &mut buffer)?;
        } else {
            let connections = sessions.iter().map(|id| (*id, self.connections.get(id))).collect();
            let (registry, last_session) = (registry.changes(&touched), self.last_session);
            let whole = false;
            encode(&Entry { whole, registry, connections, last_session, removed }, &mut buffer)?;
        }
        // A record of everything may stand in the middle of a log.
        let written = if anew { self.begin_anew(&buffer) } else { self.append(&buffer) };
        if let Err(error) = written {
            if self.sequence == 0 {
                return Err(error);
            } else if anew {
                if !owed {
                    warn!(%error, "cannot write the state anew: it goes on in its old file");
                }
                self.anew_at = self.written + LOG_BYTES_MIN / 4;
                self.append(&buffer)?;
            } else {
                self.encode_everything(registry, removed, &mut buffer)?;
                self.begin_anew(&buffer)?;
            }
        }
        self.owes = false;
        if buffer.len() < LOG_BYTES_MIN as usize {
            self.buffer = buffer;
        }
        Ok(())
    }

    /// Adds a record to the log.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let file = &self.file.file;
        file.write_all_at(record, LOG_AT + self.written)?;
        let written = self.written + record.len() as u64;
        file.write_all_at(&written.to_le_bytes(), COMMITTED_AT)?;
        self.written = written;
        Ok(())
    }

    /// Begins the log anew with one record of everything, in the other file.
    fn begin_anew(&mut self, everything: &[u8]) -> io::Result<()> {
        // The very first log goes into the first file, and only then is there another.
        let begins = self.sequence == 0;
        if !begins && self.spare.is_none() {
            self.spare = Some(LogFile::make(&self.store)?);
        }
        let file = self.spare.as_mut().unwrap_or(&mut self.file);
        file.write_whole(self.sequence + 1, everything)?;
        if let Some(spare) = &mut self.spare {
            std::mem::swap(&mut self.file, spare);
            // From here on the other file counts, which has the higher number.
            spare.empty();
        }
        self.sequence += 1;
        self.written = everything.len() as u64;
        self.anew_at = LOG_BYTES_MIN.max(GROWTH * self.written);
        if begins {
            let spare = LogFile::make(&self.store);
            self.spare =
                spare.inspect_err(|error| warn!(%error, "no second file for the state")).ok();
        }
        Ok(())
    }

    /// Encodes a record of all there is.
    fn encode_everything(
        &self,
        registry: &Registry,
        removed: &[(u64, Traffic)],
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.clear();
        let connections = self.connections.iter().map(|(&id, it)| (id, Some(it))).collect();
        let registry = registry.changes(&registry.everything());
        let last_session = self.last_session;
        encode(&Entry { whole: true, registry, connections, last_session, removed }, buffer)
    }

    /// Notes that the daemon ends in order: a successor begins with nothing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn end(&self) -> io::Result<()> {
        self.file.file.write_all_at(&1u32.to_le_bytes(), ENDED_AT)
    }

    /// Notes that a client has its answer.
    pub fn answered(&mut self, session: u64) {
        // It need not be written: the next request has another number.
        if let Some(connection) = self.connections.get_unnoticed(&session) {
            connection.handled = None;
        }
    }
}

impl LogFile {
    /// One that was in the store.
    #[must_use]
    pub fn found(file: File, kept: Rc<Kept>) -> Self {
        Self { file, _kept: kept }
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// An empty one, in the store.
    fn make(store: &Rc<Store>) -> io::Result<Self> {
        let file = File::from(memfd(NAME)?);
        let kept = Rc::new(store.keep(&[file.as_fd()])?);
        Ok(Self { file, _kept: kept })
    }

    /// Writes a log of one record; it counts from the last step on.
    fn write_whole(&self, sequence: u64, everything: &[u8]) -> io::Result<()> {
        let mut header = Vec::with_capacity(LOG_AT as usize);
        for word in [MAGIC, u64::from(VERSION), sequence, everything.len() as u64] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        let written = self.file.set_len(0);
        let written = written.and_then(|()| self.file.write_all_at(everything, LOG_AT));
        let written = written.and_then(|()| self.file.write_all_at(&header, 0));
        written.inspect_err(|_| self.empty())
    }

    /// Has it say nothing.
    fn empty(&self) {
        if let Err(error) = self.file.set_len(0) {
            warn!(%error, "cannot empty a file of the state that counts no more");
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

/// What the beginning of a state file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of two such files the one with the higher number counts.
    pub sequence: u64,
    /// Its daemon has ended in order: nothing is left.
    pub ended: bool,
}

/// Reads the beginning of a state file.
///
/// # Errors
/// It is none, or one that is of no use.
pub fn header(file: &File) -> Result<Header, StateError> {
    let mut header = [0; 32];
    read_exact(file, &mut header, 0)?;
    if word(&header, 0) != MAGIC {
        return Err(StateError::Unfinished);
    }
    let version = word(&header, 8) as u32;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    Ok(Header { sequence: word(&header, 16), ended: word(&header, 8) >> 32 != 0 })
}

/// Has a registry follow all records of a state file; says what else was in it, and how long its log is.
///
/// # Errors
/// It is of no use; the registry may have followed some of it.
pub fn read(file: &File, registry: &mut Registry) -> Result<(Left, u64), StateError> {
    let mut left = Left::default();
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
        if entry.whole {
            registry.begin_anew();
            left.connections = Tracked::default();
        }
        registry.follow(entry.registry);
        left.connections.follow(entry.connections);
        left.last_session = entry.last_session;
        left.removed = entry.removed;
    }
    registry.complete();
    Ok((left, committed))
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

    fn names(file: &LogFile) -> Result<usize, StateError> {
        let mut registry = empty();
        header(&file.file)?;
        read(&file.file, &mut registry)?;
        Ok(registry.mailbox_count())
    }

    /// Has every write beyond a file's end fail, as it does where no memory is left.
    fn fill_up(file: &LogFile) {
        let seal = nix::fcntl::SealFlag::F_SEAL_GROW;
        nix::fcntl::fcntl(&file.file, nix::fcntl::FcntlArg::F_ADD_SEALS(seal)).unwrap();
    }

    /// Makes a log so long that the next record has it written anew.
    fn lengthen(state: &mut State, registry: &mut Registry) {
        let name = MailboxName::new("m999").unwrap();
        while state.written < state.anew_at {
            match registry.find(&name).map(|mailbox| mailbox.id) {
                Ok(id) => drop(registry.remove(id)),
                Err(_) => create(registry, 999),
            }
            state.commit(registry, &[]).unwrap();
        }
        if let Ok(id) = registry.find(&name).map(|mailbox| mailbox.id) {
            registry.remove(id);
        }
    }

    /// Ends as a daemon does that is killed; a successor goes on with its files.
    fn succeed(state: State, store: &Rc<Store>) -> (State, Registry) {
        let mut registry = empty();
        let (file, spare) = (state.file, state.spare);
        let sequence = header(&file.file).unwrap().sequence;
        let (left, written) = read(&file.file, &mut registry).unwrap();
        let left = Left { log: Some((file, sequence, written)), spare, ..left };
        let state = State::begin(store, &mut registry, left).unwrap();
        (state, registry)
    }

    #[test]
    fn what_is_committed_is_read_and_what_is_only_written_is_not() {
        let (mut state, mut registry) = begun(&store());
        create(&mut registry, 0);
        state.commit(&mut registry, &[(7, Traffic::OwnerGone)]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        let (left, written) = read(&state.file.file, &mut empty()).unwrap();
        assert_eq!(left.removed, [(7, Traffic::OwnerGone)]);
        assert_eq!((left.last_session, state.sequence, written), (1, 1, state.written));
        let before = state.written;
        create(&mut registry, 1);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 2);
        // A death before the last step: the bytes are there and do not count, however many of them.
        let file = &state.file.file;
        file.write_all_at(&before.to_le_bytes(), COMMITTED_AT).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        file.write_all_at(&[0xff; 100], LOG_AT + before).unwrap();
        assert_eq!(names(&state.file).unwrap(), 1);
        file.write_all_at(&(before + 100).to_le_bytes(), COMMITTED_AT).unwrap();
        assert!(matches!(names(&state.file), Err(StateError::Record { .. })));
    }

    #[test]
    fn a_long_log_is_written_anew_and_the_newer_file_counts() {
        let (mut state, mut registry) = begun(&store());
        create(&mut registry, 0);
        lengthen(&mut state, &mut registry);
        assert!(state.written > LOG_BYTES_MIN && state.sequence == 1, "{} bytes", state.written);
        for sequence in 2..5 {
            state.anew_at = 0;
            create(&mut registry, sequence as u32);
            state.commit(&mut registry, &[]).unwrap();
            assert_eq!(
                (state.sequence, names(&state.file).unwrap()),
                (sequence, sequence as usize)
            );
            assert!(state.written < 4096);
            // The other one is there for the next time, and says nothing.
            let spare = state.spare.as_ref().unwrap();
            assert!(matches!(names(spare), Err(StateError::Unfinished)));
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_anew_goes_on_and_is_written_anew_later() {
        let (mut state, mut registry) = begun(&store());
        fill_up(state.spare.as_ref().unwrap());
        lengthen(&mut state, &mut registry);
        let long = state.written;
        create(&mut registry, 0);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!((state.sequence, names(&state.file).unwrap()), (1, 1));
        assert!(state.written > long && state.anew_at > state.written, "not at each request");
        let mut state = succeed(state, &store()).0;
        assert_eq!((state.sequence, names(&state.file).unwrap()), (1, 1));
        // There is memory again.
        state.spare = None;
        lengthen(&mut state, &mut registry);
        create(&mut registry, 1);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!((state.sequence, names(&state.file).unwrap()), (2, 2));
        assert!(state.written < 4096);
    }

    #[test]
    fn what_goes_while_the_log_cannot_be_written_anew_is_not_there_again() {
        let (mut state, mut registry) = begun(&store());
        for number in 0..2 {
            create(&mut registry, number);
        }
        let connection = Connection { stored: "a".into(), barrier: None, handled: None };
        state.connections.insert(1, connection);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!(names(&state.file).unwrap(), 2);
        fill_up(state.spare.as_ref().unwrap());
        state.anew_at = 0;
        let first = registry.find(&MailboxName::new("m0").unwrap()).unwrap().id;
        registry.remove(first).unwrap();
        state.connections.remove(&1);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!((state.sequence, names(&state.file).unwrap()), (1, 1));
        let (left, _) = read(&state.file.file, &mut empty()).unwrap();
        assert!(left.connections.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_written_stays_owed() {
        let (mut state, mut registry) = begun(&store());
        create(&mut registry, 0);
        state.commit(&mut registry, &[]).unwrap();
        // One file is full: the other is taken.
        fill_up(&state.file);
        create(&mut registry, 1);
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!((state.sequence, names(&state.file).unwrap()), (2, 2));
        // Both are: what was written stands, and what has changed since is not forgotten.
        fill_up(&state.file);
        for number in 2..5 {
            create(&mut registry, number);
            state.commit(&mut registry, &[]).unwrap_err();
            assert_eq!(names(&state.file).unwrap(), 2);
        }
        assert!(state.has_changed(&registry));
        state.spare = None;
        state.commit(&mut registry, &[]).unwrap();
        assert_eq!((state.sequence, names(&state.file).unwrap()), (3, 5));
        assert!(!state.has_changed(&registry));
    }

    #[test]
    fn a_successor_goes_on_with_both_files_and_needs_no_other() {
        let store = store();
        let (mut state, mut registry) = begun(&store);
        store.fill_up();
        for number in 0..3 {
            create(&mut registry, number);
            state.commit(&mut registry, &[]).unwrap();
            // Not written to its end by the one before.
            let spare = &state.spare.as_ref().unwrap().file;
            spare.write_all_at(&[7; 500], 0).unwrap();
            (state, registry) = succeed(state, &store);
            assert_eq!(names(&state.file).unwrap(), number as usize + 1);
            assert_eq!(state.sequence, u64::from(number) + 2);
        }
    }

    #[test]
    fn a_state_that_has_ended_or_is_of_another_version_is_of_no_use() {
        let (state, _registry) = begun(&store());
        state.end().unwrap();
        assert!(header(&state.file.file).unwrap().ended);
        state.file.file.write_all_at(&(VERSION + 1).to_le_bytes(), 8).unwrap();
        assert!(matches!(header(&state.file.file), Err(StateError::Version(_))));
        let unfinished = File::from(memfd(NAME).unwrap());
        assert!(matches!(header(&unfinished), Err(StateError::Unfinished)));
    }
}
