//! The epoll loop: accepts clients, gives each its turn, notices who has died.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libipc::protocol::MESSAGE_BYTES_MAX;
use libipc::sys::socket;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tracing::{debug, info, warn};

use crate::arrivals::Arrivals;
use crate::client_socket::ClientSocket;
use crate::on_the_way::{OnTheWay, SESSION_MAX};
use crate::registry::link::SessionId;
use crate::service::Service;
use crate::session::{Descriptors, Next, Session};
use crate::startup::descriptor_limit;
use crate::store::Kept;

/// Connections accepted before the sessions have their turn: the kernel's line, in which all uids stand, is to be short.
const ACCEPTS_A_TURN: usize = 1024;
/// Sessions begun before the others have their turn.
const ADMITS_A_TURN: usize = 16;
/// How long the sessions of one uid are served before the others have their turn, however many there are: what is left
/// of them is ready still when the loop comes round.
const SHARE: Duration = Duration::from_millis(1);
/// Sessions over their uid's quota that wait to be told so, at most of each uid.
const UNWELCOME_MAX: usize = 64;
/// How long the loop stays awake behind a request: clients ask several things in a row, and each wake-up
/// costs more than the answer.
const ALERT: Duration = Duration::from_micros(50);

/// When an answer that could not be sent yet is tried again, where nothing tells that it could be.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// When it is looked whether clients whose sessions are over have read what they were sent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Events taken in one go.
const EVENTS: usize = 256;

const LISTENER: u64 = 0;
const STOP: u64 = 1;
/// The line to our keeper: an event there is its end.
const KEEPER: u64 = u64::MAX;

/// Which of a session's two descriptors an event is about.
const PIDFD: u64 = 1;

/// Why the loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to, or was idle for too long: everything ends.
    Over,
    /// The program is to be started anew, and to go on.
    Again,
}

/// How long each uid's sessions were served in one round of the loop.
#[derive(Default)]
struct Served(HashMap<u32, Duration>);

/// The loop and its sessions.
#[derive(Debug)]
pub struct Server<'a> {
    epoll: Epoll,
    listener: BorrowedFd<'a>,
    service: Service,
    arrivals: Arrivals,
    sessions: HashMap<u64, Session>,
    last: u64,
    /// Sessions over their uid's quota, by uid.
    unwelcome: HashMap<u32, usize>,
    /// Descriptors that clients have not read yet.
    way: OnTheWay,
    /// Sessions that are over, whose clients have some to read still: only from our end can that be seen. With their uids.
    parted: HashMap<SessionId, (u32, ClientSocket)>,
    parted_at: Instant,
    /// Sessions whose answers are to be tried again, and since when they are put off.
    put_off: Vec<u64>,
    put_off_at: Instant,
    reserve: Option<File>,
    /// Connections wait until then: there is no descriptor for them, nor one to turn them away with.
    deaf_until: Option<Instant>,
    /// Connections take no descriptors.
    refuse: bool,
    idle_exit: Option<Duration>,
    busy: Instant,
    watchdog: Option<Duration>,
    watched: Instant,
    /// Until then the loop looks for the next request instead of sleeping.
    alert_until: Option<Instant>,
    buffer: Vec<u8>,
}

impl<'a> Server<'a> {
    /// A server for a listening socket; it runs until `stop` is readable.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(
        listener: BorrowedFd<'a>,
        stop: BorrowedFd<'a>,
        service: Service,
    ) -> io::Result<Self> {
        let flags = nix::fcntl::fcntl(listener, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(listener, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        if service.store().is_keeper() {
            let ends = EpollEvent::new(EpollFlags::EPOLLRDHUP, KEEPER);
            service.store().with_line(|line| epoll.add(line, ends)).transpose()?;
        }
        Ok(Self {
            epoll,
            listener,
            service,
            arrivals: Arrivals::default(),
            sessions: HashMap::new(),
            last: 0,
            unwelcome: HashMap::new(),
            way: OnTheWay::new(descriptor_limit()),
            parted: HashMap::new(),
            parted_at: Instant::now(),
            put_off: Vec::new(),
            put_off_at: Instant::now(),
            reserve: open_reserve(),
            deaf_until: None,
            refuse: true,
            idle_exit: None,
            busy: Instant::now(),
            watchdog: None,
            watched: Instant::now(),
            alert_until: None,
            // One byte more than a message may have, so that a longer one is told from a full one.
            buffer: vec![0; MESSAGE_BYTES_MAX + 1],
        })
    }

    /// Ends [`Self::run`] after so long without a session and without a mailbox.
    #[must_use]
    pub fn exit_when_idle(mut self, after: Option<Duration>) -> Self {
        self.idle_exit = after;
        self
    }

    /// Whether connections are to take no descriptors, where the kernel can have them do so.
    #[must_use]
    pub fn refusing_descriptors(mut self, refuse: bool) -> Self {
        self.refuse = refuse;
        self
    }

    /// Tells the service manager every so often that the loop is alive.
    #[must_use]
    pub fn watched(mut self, every: Option<Duration>) -> Self {
        self.watchdog = every;
        self
    }

    /// Goes on with a predecessor's sessions. `fresh` are connections that it had not come to note.
    pub fn adopt(&mut self, last: u64, sessions: Vec<Session>, fresh: Vec<Descriptors>) {
        self.last = last;
        for session in sessions {
            if socket::unread(session.socket.as_fd()).is_ok_and(|bytes| bytes > 0) {
                // How many descriptors that is, nobody knows any more.
                self.way.sent(session.identity.uid, session.id, SESSION_MAX);
            }
            self.watch(session);
        }
        for Descriptors { socket, kept, .. } in fresh {
            self.admit(socket, Some(kept));
        }
    }

    /// Serves until told to stop, or idle for too long, or to be started anew.
    ///
    /// # Errors
    /// What the kernel said to the loop itself; nothing that a client does is an error here.
    pub fn run(&mut self) -> io::Result<Ending> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = self.idle_timeout();
            let timeout = match self.watch_timeout(timeout) {
                Some(Duration::ZERO) => {
                    info!("idle: no session and no mailbox");
                    return Ok(Ending::Over);
                }
                left => self.try_again_timeout(left),
            };
            let timeout = timeout.map_or(EpollTimeout::NONE, |left| {
                let left = left + Duration::from_millis(1);
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
            });
            let alert = self.alert_until.is_some_and(|until| Instant::now() < until);
            let more = self.service.is_settled() && self.service.has_more_to_do();
            let at_once = alert || more || !self.arrivals.is_empty();
            let timeout = if at_once { EpollTimeout::ZERO } else { timeout };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::Error::EINTR) => continue,
                result => result?,
            };
            if alert && count == 0 {
                // A client may need this very processor to ask its next question.
                std::thread::yield_now();
            }
            let mut served = Served::default();
            for event in events.iter().take(count) {
                match event.data() {
                    STOP => return Ok(Ending::Over),
                    KEEPER => self.lose_keeper(),
                    LISTENER => self.accept_some(),
                    token if self.has_hung_up(token, event.events()) => {
                        self.end(token / 2, "it closed its socket");
                    }
                    token => {
                        self.serve(token, &mut served);
                        if self.service.restarts() {
                            return Ok(Ending::Again);
                        }
                    }
                }
            }
            self.try_again();
            self.look_again();
            if self.service.is_settled() {
                self.service.do_more();
            }
            if self.service.restarts() {
                return Ok(Ending::Again);
            }
            self.admit_some();
        }
    }

    /// Whether an event is the end of a session whose answer is put off: others notice when they read.
    fn has_hung_up(&self, token: u64, events: EpollFlags) -> bool {
        token & PIDFD == 0
            && events.contains(EpollFlags::EPOLLHUP)
            && self.put_off.contains(&(token / 2))
    }

    fn has_put_off(&self) -> bool {
        !self.put_off.is_empty() || !self.service.is_settled() || self.deaf_until.is_some()
    }

    /// How long the loop may sleep, given what is to be tried again.
    fn try_again_timeout(&self, left: Option<Duration>) -> Option<Duration> {
        let again = match () {
            () if self.has_put_off() => Some(TRY_AGAIN),
            () => (!self.parted.is_empty()).then_some(LOOK_AGAIN),
        };
        left.into_iter().chain(again).min()
    }

    /// Tries once more what was put off: to write the state, and then to send answers.
    fn try_again(&mut self) {
        if !self.has_put_off() || self.put_off_at.elapsed() < TRY_AGAIN {
            return;
        }
        self.put_off_at = Instant::now();
        if !self.service.is_settled() {
            self.service.settle();
        }
        self.listen_again();
        let put_off = std::mem::take(&mut self.put_off);
        let sessions = put_off.iter().filter_map(|number| self.sessions.get(number));
        let mut uids: BTreeSet<u32> = sessions.map(|session| session.identity.uid).collect();
        uids.extend(self.way.crowd());
        for uid in uids {
            self.recount(uid);
        }
        for number in put_off {
            self.turn(number, false);
        }
    }

    /// Looks which of a uid's clients have read all that they were sent; says whether any has.
    fn recount(&mut self, uid: u32) -> bool {
        let mut any = false;
        for id in self.way.unread(uid) {
            let there = self.sessions.get(&id.0).map(|session| session.socket.as_fd());
            let socket = there.or_else(|| self.parted.get(&id).map(|(_, socket)| socket.as_fd()));
            let unread = socket.map(socket::unread);
            if unread.is_none_or(|bytes| bytes.is_ok_and(|bytes| bytes == 0)) {
                self.way.was_read(uid, id);
                self.parted.remove(&id);
                any = true;
            }
        }
        any
    }

    /// Lets go of the sockets of sessions that are over once their clients have read all, or are gone.
    fn look_again(&mut self) {
        if self.parted.is_empty() || self.parted_at.elapsed() < LOOK_AGAIN {
            return;
        }
        self.parted_at = Instant::now();
        let uids: BTreeSet<u32> = self.parted.values().map(|&(uid, _)| uid).collect();
        for uid in uids {
            self.recount(uid);
        }
    }

    /// Ends every mailbox and every session.
    pub fn stop(&mut self) {
        self.service.end_all();
        self.sessions.clear();
    }

    /// What is left until the daemon is idle for too long; `None` if it is not idle or never exits.
    fn idle_timeout(&mut self) -> Option<Duration> {
        let after = self.idle_exit?;
        if !self.sessions.is_empty() || self.service.registry.mailbox_count() > 0 {
            self.busy = Instant::now();
            return None;
        }
        Some(after.saturating_sub(self.busy.elapsed()))
    }

    /// Says that the loop is alive, if it is time to; how long the loop may sleep then.
    fn watch_timeout(&mut self, idle: Option<Duration>) -> Option<Duration> {
        let Some(every) = self.watchdog else { return idle };
        if self.watched.elapsed() >= every {
            self.service.store().tell("WATCHDOG=1");
            self.watched = Instant::now();
        }
        let left = every.saturating_sub(self.watched.elapsed()).max(Duration::from_millis(1));
        Some(idle.map_or(left, |idle| idle.min(left)))
    }

    fn lose_keeper(&mut self) {
        self.service.store().with_line(|line| self.epoll.delete(line));
        self.service.lose_store();
    }

    fn accept_some(&mut self) {
        for _ in 0..ACCEPTS_A_TURN {
            let error = match ClientSocket::accept(self.listener, self.refuse) {
                Ok(socket) => match self.arrivals.come(socket) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return,
                Some(libc::EMFILE | libc::ENFILE) => return self.turn_one_away(),
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                _ => {
                    warn!(%error, "cannot accept a connection");
                    return;
                }
            }
        }
    }

    fn admit_some(&mut self) {
        for _ in 0..ADMITS_A_TURN {
            let Some(socket) = self.arrivals.take_next() else { return };
            self.admit(socket, None);
        }
    }

    /// Out of descriptors: the connection that waits is closed by means of the one in reserve, so that
    /// its client learns of it and the loop does not spin.
    fn turn_one_away(&mut self) {
        self.reserve = None;
        if ClientSocket::accept(self.listener, self.refuse).is_ok() {
            warn!("out of descriptors: a connection was turned away; raise LimitNOFILE");
        }
        self.reserve = open_reserve();
        if self.reserve.is_none() {
            // It is closed by a thread of its own, a moment later.
            self.deaf_until = Some(Instant::now() + TRY_AGAIN);
            self.listen(EpollFlags::empty());
        }
    }

    /// Goes on accepting connections, if that had to wait.
    fn listen_again(&mut self) {
        if self.deaf_until.is_some_and(|until| Instant::now() >= until) {
            self.reserve = open_reserve();
            self.deaf_until = None;
            self.listen(EpollFlags::EPOLLIN);
        }
    }

    fn listen(&self, interest: EpollFlags) {
        let mut event = EpollEvent::new(interest, LISTENER);
        if let Err(error) = self.epoll.modify(self.listener, &mut event) {
            warn!(%error, "cannot watch the socket that listens");
        }
    }

    fn admit(&mut self, socket: ClientSocket, kept: Option<Rc<Kept>>) {
        self.last += 1;
        let id = SessionId(self.last);
        let mut session = match Session::new(id, socket, kept, &self.service) {
            Ok(session) => session,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                debug!("a client was gone before it was accepted");
                return;
            }
            Err(error) => {
                warn!(%error, "a connection was turned away");
                return;
            }
        };
        if let Err(refusal) = self.service.registry.begin_session(id, session.identity) {
            warn!(who = %session.identity, %refusal, "session refused");
            let others = self.unwelcome.entry(session.identity.uid).or_default();
            if *others >= UNWELCOME_MAX {
                return;
            }
            *others += 1;
            session.turn_away(refusal);
        } else {
            self.service.connected(id, session.stored());
            self.service.settle();
        }
        debug!(session = id.0, who = %session.identity, "connected");
        self.watch(session);
    }

    fn watch(&mut self, session: Session) {
        let id = session.id;
        let token = id.0 * 2;
        let readable = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
        let added = self
            .epoll
            .add(&session.socket, readable(token))
            .and_then(|()| self.epoll.add(&session.pidfd, readable(token | PIDFD)));
        self.sessions.insert(id.0, session);
        if let Err(error) = added {
            warn!(%error, "cannot watch a session");
            self.end(id.0, "it cannot be watched");
        }
    }

    /// What an event of a session asks for, unless its uid has had its share of this round.
    fn serve(&mut self, token: u64, served: &mut Served) {
        let Some(session) = self.sessions.get(&(token / 2)) else { return };
        let spent = served.0.entry(session.identity.uid).or_default();
        if *spent >= SHARE {
            return;
        }
        let begin = Instant::now();
        if token & PIDFD != 0 {
            self.end(token / 2, "its process died");
        } else {
            self.turn(token / 2, true);
        }
        let end = Instant::now();
        *spent += end - begin;
        self.alert_until = Some(end + ALERT);
    }

    /// Has a session sent what waits, and asked what it has to ask. `recounts`: it is looked anew what its uid has to read,
    /// should that be in its way.
    fn turn(&mut self, number: u64, recounts: bool) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let uid = session.identity.uid;
        let mut next = session.turn(&mut self.service, &mut self.way, &mut self.buffer);
        if next == Next::Later
            && recounts
            && self.recount(uid)
            && let Some(session) = self.sessions.get_mut(&number)
        {
            next = session.turn(&mut self.service, &mut self.way, &mut self.buffer);
        }
        let Some(session) = self.sessions.get(&number) else { return };
        let interest = match next {
            Next::Read => EpollFlags::EPOLLIN,
            Next::Write => EpollFlags::EPOLLOUT,
            Next::Later => {
                self.put_off.push(number);
                EpollFlags::empty()
            }
            Next::End => return self.end(number, "it closed its socket"),
        };
        let mut event = EpollEvent::new(interest, number * 2);
        if let Err(error) = self.epoll.modify(&session.socket, &mut event) {
            warn!(%error, "cannot watch a session");
            self.end(number, "it cannot be watched");
        }
    }

    /// Hangs up on a client. What it was sent counts until it has read that.
    fn part(&mut self, session: Session) {
        let (id, uid, socket) = session.end();
        let unread = socket::unread(socket.as_fd()).is_ok_and(|bytes| bytes > 0);
        if unread && self.way.unread(uid).contains(&id) && socket.empty().is_ok() {
            self.way.waits(uid, id, 0);
            self.parted.insert(id, (uid, socket));
        } else {
            self.way.forget(uid, id);
        }
    }

    /// Ends a session and mends what it leaves.
    fn end(&mut self, number: u64, why: &str) {
        let Some(session) = self.sessions.remove(&number) else { return };
        // They may stay open for a while, here or with the keeper, and a hang-up would be told for ever. It fails only for
        // what was not added.
        let _ = self.epoll.delete(&session.socket);
        let _ = self.epoll.delete(&session.pidfd);
        if session.is_unwelcome()
            && let Entry::Occupied(mut others) = self.unwelcome.entry(session.identity.uid)
        {
            *others.get_mut() -= 1;
            if *others.get() == 0 {
                others.remove();
            }
        }
        debug!(session = number, who = %session.identity, why, "session over");
        self.service.end_session(session.id);
        self.part(session);
        if self.service.is_settled() {
            self.service.store().flush();
        }
    }
}

impl Drop for Server<'_> {
    /// Sessions that are there still go on with a successor.
    fn drop(&mut self) {
        self.sessions.drain().for_each(|(_, session)| session.leave());
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
