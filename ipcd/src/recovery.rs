//! What this daemon begins with: what it was started with, and what a predecessor has left in the store.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use libipc::lane::layout::Traffic;
use libipc::sys::process;
use tracing::{error, info, warn};

use crate::client_socket::ClientSocket;
use crate::keeper::{self, HandedOver};
use crate::progress::{self, Progress};
use crate::regions::MailboxRegions;
use crate::regions::restore::Found;
use crate::regions::show::Backstage;
use crate::registry::Registry;
use crate::registry::link::SessionId;
use crate::registry::quota::Quotas;
use crate::service::Service;
use crate::service::settle::begin_state;
use crate::session::{Descriptors, Session};
use crate::state::{self, Left, LogFile, StateError};
use crate::store::{Kept, Store, Thing, what_is};

/// Descriptors that this process was started with.
#[derive(Debug)]
pub struct Inherited {
    /// The socket that listens.
    pub listener: Option<OwnedFd>,
    /// The lock of the socket's path, if a keeper has one.
    pub lock: Option<OwnedFd>,
    /// Whoever keeps what we have.
    pub store: Rc<Store>,
    /// The listener's place there, if a predecessor has put it there.
    pub listener_kept: Option<Kept>,
    /// What a predecessor has put there, by name.
    stored: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// From systemd, or from whoever else speaks as it does; nothing, if nobody does.
    ///
    /// # Errors
    /// What was announced is not there.
    pub fn from_systemd() -> anyhow::Result<Self> {
        let fds = sd_notify::listen_fds_with_names();
        let fds = fds.context("cannot read what the service manager passed")?;
        let mut named = Vec::new();
        for (number, name) in fds {
            let fd = process::inherited_fd(number).context(
                "the service manager's socket is not open: was it passed to this process?",
            )?;
            named.push((name, fd));
        }
        let store = match std::env::var_os("NOTIFY_SOCKET") {
            Some(address) => Store::systemd(PathBuf::from(address))
                .context("cannot reach the service manager at $NOTIFY_SOCKET")?,
            None => Store::none(),
        };
        Ok(Self::sorted(named, store))
    }

    /// From our keeper.
    ///
    /// # Errors
    /// It says nothing, or what it says is none of its words.
    pub fn from_keeper() -> anyhow::Result<Self> {
        let HandedOver { line, lock, named } = keeper::take_over()?;
        Ok(Self { lock, ..Self::sorted(named, Store::keeper(line)) })
    }

    fn sorted(named: Vec<(String, OwnedFd)>, store: Rc<Store>) -> Self {
        let (mut listener, mut listener_kept) = (None, None);
        let mut stored = Vec::new();
        for (name, fd) in named {
            if listener.is_none() && what_is(fd.as_fd()) == Thing::Listener {
                listener = Some(fd);
                listener_kept = store.take_back(&name, 1);
            } else {
                stored.push((name, fd));
            }
        }
        Self { listener, lock: None, store, listener_kept, stored }
    }
}

/// What a predecessor has left, sorted.
#[derive(Debug)]
pub struct Recovered {
    /// Registry and regions.
    pub service: Service,
    /// The last session's number.
    pub last_session: u64,
    /// Its sessions.
    pub sessions: Vec<Session>,
    /// Connections that it had not come to note.
    pub fresh: Vec<Descriptors>,
}

/// What was kept for a session.
#[derive(Default)]
struct SessionParts {
    socket: Option<ClientSocket>,
    pidfd: Option<OwnedFd>,
    kept: Option<Rc<Kept>>,
}

/// The store's contents by what they are.
#[derive(Default)]
struct Contents {
    regions: Found,
    sessions: HashMap<String, SessionParts>,
    states: Vec<LogFile>,
    progress: Option<(OwnedFd, Rc<Kept>)>,
}

impl Contents {
    fn sort(stored: Vec<(String, OwnedFd)>, store: &Rc<Store>) -> Self {
        let mut contents = Self::default();
        let mut by_name: HashMap<String, Vec<OwnedFd>> = HashMap::new();
        for (name, fd) in stored {
            by_name.entry(name).or_default().push(fd);
        }
        for (name, fds) in by_name {
            let Some(kept) = store.take_back(&name, fds.len()) else {
                warn!(name, "a descriptor of a name that is none of ours was passed; it is closed");
                continue;
            };
            contents.put(&name, fds, Rc::new(kept));
        }
        contents
    }

    /// Sorts what was kept under one name: a session's two, a mailbox's fixed regions, or one thing.
    fn put(&mut self, name: &str, fds: Vec<OwnedFd>, kept: Rc<Kept>) {
        for fd in fds {
            match what_is(fd.as_fd()) {
                Thing::Memory(file) if file == state::NAME => {
                    self.states.push(LogFile::found(fd.into(), kept.clone()));
                }
                Thing::Memory(file) if file == progress::NAME => {
                    self.progress = Some((fd, kept.clone()));
                }
                Thing::Memory(file) => self.regions.add(file, fd, kept.clone()),
                Thing::Socket => {
                    let session = self.sessions.entry(name.to_owned()).or_default();
                    let socket = Some(ClientSocket::found(fd));
                    (session.socket, session.kept) = (socket, Some(kept.clone()));
                }
                Thing::Process => {
                    self.sessions.entry(name.to_owned()).or_default().pidfd = Some(fd);
                }
                Thing::Listener | Thing::Other => {
                    warn!(name, "a descriptor in the store is unknown");
                }
            }
        }
    }

    fn session(&mut self, name: &str) -> Option<Descriptors> {
        let SessionParts { socket, pidfd, kept } = self.sessions.remove(name)?;
        Some(Descriptors { socket: socket?, pidfd, kept: kept? })
    }

    /// Reads the state that counts; `None` if there is none.
    fn read_state(&mut self, registry: &mut Registry) -> Option<Left> {
        let files = std::mem::take(&mut self.states).into_iter();
        let mut files: Vec<_> = files.map(|file| (state::header(file.file()), file)).collect();
        for error in files.iter().filter_map(|(header, _)| header.as_ref().err()) {
            // One of the two has yet to be written, or was just being.
            if !matches!(error, StateError::Unfinished) {
                error!(%error, "a predecessor's state is of no use");
            }
        }
        files.sort_by_key(|(header, _)| Reverse(header.as_ref().map_or(0, |it| it.sequence)));
        let mut files = files.into_iter();
        let (header, file) = files.next()?;
        let header = header.ok().filter(|header| !header.ended)?;
        match state::read(file.file(), registry) {
            Ok((left, written)) => {
                let spare = files.next().map(|(_, file)| file);
                Some(Left { log: Some((file, header.sequence, written)), spare, ..left })
            }
            Err(error) => {
                error!(%error, "a predecessor's state is of no use: its mailboxes and sessions end");
                None
            }
        }
    }
}

/// Takes over what a predecessor has left. Nothing, where there was none.
#[must_use]
pub fn recover(
    inherited: &mut Inherited,
    quotas: &Quotas,
    first_position: u64,
    barrier: bool,
) -> Recovered {
    let store = inherited.store.clone();
    let backstage = Backstage::new(store.clone());
    let mut contents = Contents::sort(std::mem::take(&mut inherited.stored), &store);
    let empty = || Registry::new(quotas.clone(), first_position);
    let mut registry = empty();
    let left = contents.read_state(&mut registry).unwrap_or_else(|| {
        registry = empty();
        Left::default()
    });
    let regions = restore_mailboxes(&mut registry, &contents.regions, &backstage);
    for roster in contents.regions.rosters() {
        let id = roster.mailbox_id;
        match registry.mailbox(id) {
            Some(mailbox) if mailbox.is_in_use() && mailbox.generation() == roster.nth => {}
            Some(mailbox) => {
                let traffic = mailbox.traffic;
                MailboxRegions::show_put_away(&roster, &contents.regions, &backstage, traffic);
            }
            None => {
                let why = left.removed.iter().find(|(removed, _)| *removed == id);
                let why = why.map_or(Traffic::Deleted, |&(_, why)| why);
                MailboxRegions::show_gone(&roster, &contents.regions, &backstage, why);
            }
        }
    }
    let progress = restore_progress(&mut contents, &store);
    let (mut sessions, mut lost) = restore_sessions(&registry, &left, &mut contents);
    if let Some(deadly) = progress.as_ref().and_then(Progress::note_death) {
        error!(
            session = deadly.0,
            "a session's request has killed one daemon after the other: it is ended"
        );
        // Dropped, it is hung up on.
        sessions.retain(|session| session.id != deadly);
        lost.push(deadly);
    }
    let noted = registry.session_ids().filter(|id| left.connections.get(&id.0).is_none());
    lost.extend(noted.collect::<Vec<_>>());
    let last_session = left.last_session;
    let went_on = left.log.is_some();
    // What nobody has noted is a new connection; without a state it is anything.
    let names: Vec<String> = contents.sessions.keys().cloned().collect();
    let fresh = names.iter().filter(|_| went_on).filter_map(|name| contents.session(name));
    let fresh: Vec<_> = fresh.collect();
    let state = begin_state(&store, &mut registry, left);
    for (id, regions) in &regions {
        if let Some(mailbox) = registry.mailbox(*id) {
            regions.show_all(mailbox, barrier);
        }
    }
    if went_on {
        info!(
            mailboxes = registry.mailbox_count(),
            sessions = sessions.len(),
            "goes on with what was in the store"
        );
    }
    let mut service = Service::resumed(registry, barrier, backstage, regions, (state, progress));
    service.find_more_to_do();
    for session in lost {
        service.end_session(session);
    }
    // What nobody needs any more goes: regions without a mailbox, old states.
    drop(contents);
    service.store().flush();
    Recovered { service, last_session, sessions, fresh }
}

/// Whose request was in hand, if there is a store to tell the next one.
fn restore_progress(contents: &mut Contents, store: &Rc<Store>) -> Option<Progress> {
    if !store.is_there() {
        return None;
    }
    let found = contents.progress.take().map(|(fd, kept)| Progress::resume(fd, kept));
    let progress = found.unwrap_or_else(|| Progress::begin(store));
    progress.inspect_err(|error| error!(%error, "cannot note whose request is in hand")).ok()
}

fn restore_mailboxes(
    registry: &mut Registry,
    found: &Found,
    backstage: &Rc<Backstage>,
) -> HashMap<u64, MailboxRegions> {
    let mut restored = HashMap::new();
    let ids: Vec<u64> = registry.mailbox_ids().collect();
    for id in ids {
        let in_use = registry.mailbox(id).filter(|mailbox| mailbox.is_in_use());
        let Some(mailbox) = in_use else { continue };
        match MailboxRegions::restore(mailbox, found, backstage) {
            Ok(regions) => drop(restored.insert(id, regions)),
            Err(error) => {
                error!(mailbox = %mailbox.name, id, %error, "a mailbox cannot be had back: it ends");
                registry.remove(id);
            }
        }
    }
    restored
}

/// The sessions that are still there, and those that are not.
fn restore_sessions(
    registry: &Registry,
    left: &Left,
    contents: &mut Contents,
) -> (Vec<Session>, Vec<SessionId>) {
    let (mut sessions, mut lost) = (Vec::new(), Vec::new());
    for (&number, connection) in &left.connections {
        let id = SessionId(number);
        let found = contents.session(&connection.stored);
        let Some((identity, found)) = registry.session_identity(id).zip(found) else {
            lost.push(id);
            continue;
        };
        let answer = connection.handled.as_ref().and_then(|handled| {
            let regions = handled.regions.iter();
            let descriptors =
                regions.map(|(name, read_only)| contents.regions.hand(name, *read_only));
            Some((handled.answer.clone(), descriptors.collect::<Option<Vec<_>>>()?))
        });
        match Session::resume(id, identity, found, connection, answer) {
            Ok(session) => sessions.push(session),
            Err(error) => {
                warn!(session = number, who = %identity, %error, "a session cannot be had back");
                lost.push(id);
            }
        }
    }
    (sessions, lost)
}
