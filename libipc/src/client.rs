//! A process's session with `ipcd`: connecting, and everything that is asked of the daemon. Messages
//! never pass here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::direct::Links;
use crate::error::{ConnectError, Fault, RequestError};
use crate::observer::Observer;
use crate::options::MailboxOptions;
use crate::private_daemon;
use crate::protocol::{
    Answer, GroupName, MailboxDetail, MailboxName, MailboxSummary, Opened, Queued, Request, Role,
    SYSTEM_SOCKET, ServerStatus,
};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::session::{Session, open_socket, unexpected};
use crate::sys::process::trusted_variable;
use crate::sys::{futex, socket};

/// Connections tried if the daemon hangs up before it has said hello: it may have died between taking a connection
/// and putting it where its successor finds it.
const GREETINGS: usize = 5;

/// How to reach the daemon.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    socket: Option<PathBuf>,
    no_private_daemon: bool,
    trusted_uid: Option<u32>,
}

impl ClientOptions {
    /// `$IPCD_SOCKET` if set, else the system's daemon, else a private one, started if need be.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This socket and no other.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Whether a private daemon may be started where there is no other. On by default.
    #[must_use]
    pub fn private_daemon(mut self, allowed: bool) -> Self {
        self.no_private_daemon = !allowed;
        self
    }

    /// A uid besides root and this process's own that may serve the socket (also `$IPCD_TRUSTED_UID`).
    #[must_use]
    pub fn trusted_uid(mut self, uid: u32) -> Self {
        self.trusted_uid = Some(uid);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ConnectError`]: nobody listens, the wrong one does, or it refuses.
    pub fn connect(&self) -> Result<Client, ConnectError> {
        if !futex::has_waitv() {
            return Err(ConnectError::Kernel { what: "futex_waitv" });
        }
        for _ in 0..GREETINGS {
            let (path, socket) = self.open()?;
            self.check_owner(&path, &socket)?;
            if let Some(session) = Session::greet(socket)? {
                let links = Arc::new(Links::default());
                return Ok(Client { session: Arc::new(session), path: path.into(), links });
            }
        }
        Err(Fault::new("greet ipcd", RequestError::DaemonAway).into())
    }

    fn open(&self) -> Result<(PathBuf, OwnedFd), ConnectError> {
        let named =
            self.socket.clone().or_else(|| trusted_variable("IPCD_SOCKET").map(PathBuf::from));
        match named {
            Some(path) => {
                let socket = open_socket(&path)?;
                Ok((path, socket))
            }
            None => self.system_or_private(),
        }
    }

    fn system_or_private(&self) -> Result<(PathBuf, OwnedFd), ConnectError> {
        let system = PathBuf::from(SYSTEM_SOCKET);
        match open_socket(&system) {
            Ok(socket) => Ok((system, socket)),
            Err(ConnectError::NoDaemon { .. }) => {
                private_daemon::connect(&system, !self.no_private_daemon)
            }
            Err(other) => Err(other),
        }
    }

    fn check_owner(&self, path: &Path, socket: &OwnedFd) -> Result<(), ConnectError> {
        let step = |error| Fault::new("learn who serves the socket", error);
        let server = socket::peer_credentials(socket).map_err(step)?.uid();
        let from_environment =
            trusted_variable("IPCD_TRUSTED_UID").and_then(|uid| uid.to_str()?.parse::<u32>().ok());
        let trusted =
            [Some(0), Some(nix::unistd::geteuid().as_raw()), self.trusted_uid, from_environment];
        // The system's socket lies in a folder that only root could make, whoever serves it.
        if trusted.contains(&Some(server)) || path == Path::new(SYSTEM_SOCKET) {
            return Ok(());
        }
        Err(ConnectError::WrongOwner { path: path.to_owned(), uid: server })
    }
}

/// A process's session with `ipcd`. Clones share it; it ends with the last of them and of the senders
/// and receivers made from it.
#[derive(Clone, Debug)]
pub struct Client {
    session: Arc<Session>,
    path: Arc<Path>,
    links: Arc<Links>,
}

impl Client {
    /// Connects to `$IPCD_SOCKET` if set, else the system's daemon, else a private one, which is started
    /// if need be.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect() -> Result<Self, ConnectError> {
        ClientOptions::new().connect()
    }

    /// Whether the daemon is away, as the kernel tells now: it has died, or was stopped. Links that are open go
    /// on without it. To wait for it, poll this client ([`AsFd`]) for a hang-up, or have a sender or receiver
    /// end with it.
    #[must_use]
    pub fn daemon_is_away(&self) -> bool {
        self.session.is_away()
    }

    /// The socket on which the daemon was found.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.path
    }

    /// Creates a mailbox. It lives until it is deleted, or as long as this session if this process owns it.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: the name exists or is none, an attribute is out of range or does not go with
    /// another, over quota.
    pub fn create(&self, name: &str, options: &MailboxOptions) -> Result<(), RequestError> {
        let (name, attributes) = (MailboxName::new(name)?, options.attributes());
        let groups = options.groups().to_vec();
        match self.session.request(&Request::Create { name, attributes, groups })?.0 {
            Answer::Created { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens a mailbox to send. Each sender has a lane of its own.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, no permission to write, closed, full, over quota.
    pub fn sender(&self, name: &str) -> Result<Sender, RequestError> {
        let (opened, descriptors) = self.open_role(name, Role::Send, None)?;
        Sender::new(self.session.clone(), opened, descriptors)
    }

    /// Opens a mailbox to receive. Receivers compete: each message goes to one of them.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, no permission to read, as many receivers as it admits.
    pub fn receiver(&self, name: &str) -> Result<Receiver, RequestError> {
        let (opened, descriptors) = self.open_role(name, Role::Receive, None)?;
        Receiver::new(self.session.clone(), opened, descriptors)
    }

    /// Opens a mailbox to receive as a member of one of its groups. Every group gets every message; the
    /// members of a group compete.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: as for [`Self::receiver`], or no such group.
    pub fn receiver_in_group(&self, name: &str, group: &str) -> Result<Receiver, RequestError> {
        let group = GroupName::new(group)?;
        let (opened, descriptors) = self.open_role(name, Role::Receive, Some(group))?;
        Receiver::new(self.session.clone(), opened, descriptors)
    }

    /// Opens a mailbox to look at what waits in it, without taking anything.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, no permission to read.
    pub fn observer(&self, name: &str) -> Result<Observer, RequestError> {
        let (opened, descriptors) = self.open_role(name, Role::Observe, None)?;
        Observer::new(self.session.clone(), opened, descriptors)
    }

    /// Opens a mailbox to look at what waits for one of its groups, without taking anything.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: as for [`Self::observer`], or no such group.
    pub fn observer_of_group(&self, name: &str, group: &str) -> Result<Observer, RequestError> {
        let group = GroupName::new(group)?;
        let (opened, descriptors) = self.open_role(name, Role::Observe, Some(group))?;
        Observer::new(self.session.clone(), opened, descriptors)
    }

    /// Deletes a mailbox: whoever has it open is told. Returns how many messages were discarded, as far
    /// as the members' counters tell.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner.
    pub fn delete(&self, name: &str) -> Result<u64, RequestError> {
        self.delete_with(name, Queued::Discard)
    }

    /// Deletes a mailbox once what is queued has been received; until then it lets no new messages in.
    /// Returns how many messages were queued, as far as the members' counters tell.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner.
    pub fn delete_when_drained(&self, name: &str) -> Result<u64, RequestError> {
        self.delete_with(name, Queued::Drain)
    }

    fn delete_with(&self, name: &str, queued: Queued) -> Result<u64, RequestError> {
        match self.session.request(&Request::Delete { name: MailboxName::new(name)?, queued })?.0 {
            Answer::Deleted { queued } => Ok(queued),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts dead letters of a mailbox back into it, the one of this number or all that nobody has in hand: as if they
    /// had just been sent, by who sent them. Returns how many.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner, no such dead letter, no room for another lane.
    pub fn requeue(&self, name: &str, number: Option<u64>) -> Result<u64, RequestError> {
        let name = MailboxName::new(name)?;
        self.move_dead_letters(&Request::Requeue { name, number })
    }

    /// Throws dead letters of a mailbox away, the one of this number or all that nobody has in hand. Returns how many.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner, no such dead letter.
    pub fn discard_dead_letters(
        &self,
        name: &str,
        number: Option<u64>,
    ) -> Result<u64, RequestError> {
        let name = MailboxName::new(name)?;
        self.move_dead_letters(&Request::Discard { name, number })
    }

    fn move_dead_letters(&self, request: &Request) -> Result<u64, RequestError> {
        let mut all = 0;
        loop {
            match self.session.request(request)?.0 {
                Answer::Moved { moved, more } => {
                    all += moved;
                    if !more || moved == 0 {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Lets traffic into a mailbox again.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner.
    pub fn open(&self, name: &str) -> Result<(), RequestError> {
        self.set_traffic(name, true)
    }

    /// Closes a mailbox to new sends; what is queued drains.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, not its owner.
    pub fn close(&self, name: &str) -> Result<(), RequestError> {
        self.set_traffic(name, false)
    }

    /// The mailboxes that this user may see, in order of their names.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn list(&self) -> Result<Vec<MailboxSummary>, RequestError> {
        let mut all: Vec<MailboxSummary> = Vec::new();
        loop {
            let after = all.last().map(|summary| summary.name.clone());
            match self.session.request(&Request::List { after })?.0 {
                Answer::Listed { mailboxes, more } => {
                    let progress = !mailboxes.is_empty();
                    all.extend(mailboxes);
                    if !(more && progress) {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// All about one mailbox and its members.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such mailbox, no permission.
    pub fn show(&self, name: &str) -> Result<MailboxDetail, RequestError> {
        let name = MailboxName::new(name)?;
        let mut whole: Option<MailboxDetail> = None;
        loop {
            let skip = whole.as_ref().map_or(0, |detail| detail.members.len() as u32);
            match self.session.request(&Request::Show { name: name.clone(), skip })?.0 {
                Answer::Shown(page) => {
                    let done = !page.more || page.members.is_empty();
                    let mut page = *page;
                    if let Some(before) = whole.take() {
                        page.members.splice(0..0, before.members);
                    }
                    if done {
                        return Ok(page);
                    }
                    whole = Some(page);
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Has the daemon end and be started anew, with all that it has: whoever started it runs what lies at its program's
    /// path now. Traffic goes on meanwhile, and requests wait until it is there again.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: this is neither root nor the daemon's uid, or nobody would start it again.
    pub fn restart_daemon(&self) -> Result<(), RequestError> {
        match self.session.request(&Request::Restart)?.0 {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// All about the daemon, and what this user uses of its quotas.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn status(&self) -> Result<ServerStatus, RequestError> {
        match self.session.request(&Request::Status)?.0 {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    fn set_traffic(&self, name: &str, open: bool) -> Result<(), RequestError> {
        let name = MailboxName::new(name)?;
        match self.session.request(&Request::SetTraffic { name, open })?.0 {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn open_role(
        &self,
        name: &str,
        role: Role,
        group: Option<GroupName>,
    ) -> Result<(Opened, Vec<OwnedFd>), RequestError> {
        let name = MailboxName::new(name)?;
        self.session.open(&Request::Open { name, role, group })
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }
}

/// A descriptor that hangs up (`POLLHUP`) when the daemon is away. Nothing is to be read from it or written to it.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.socket()
    }
}
