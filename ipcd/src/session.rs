//! One client: its socket, who it is, what it has said so far.
//!
//! A session has at most one answer that waits to be sent; until it is gone no further request is
//! looked at. So a client that does not read holds up nobody but itself, and costs no memory. A request stays in the
//! socket until it is answered: a daemon that dies before leaves it to its successor.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libipc::lane::layout::LAYOUT_VERSION;
use libipc::protocol::{
    Answer, Identity, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Refusal, Request, decode, encode, frame,
};
use libipc::sys::socket::{self, Peeked};
use libipc::sys::{process, socket::peer_pidfd};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, warn};

use crate::client_socket::ClientSocket;
use crate::on_the_way::OnTheWay;
use crate::regions::Handed;
use crate::registry::link::SessionId;
use crate::registry::permission::Caller;
use crate::service::settle::{hands_out, only_asks};
use crate::service::{Asker, Reply, Service};
use crate::state::Connection;
use crate::store::Kept;

/// Requests that one session gets answered before the others have their turn.
const REQUESTS_A_TURN: usize = 4;

/// What to do with a session after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has more to say, or nothing: wait until its socket is readable.
    Read,
    /// Its answer waits: wait until its socket is writable.
    Write,
    /// Its answer waits for something of which nothing tells: try again later.
    Later,
    /// It is over.
    End,
}

#[derive(Debug)]
enum Stage {
    /// No hello yet.
    Fresh,
    /// Over its uid's quota: its hello gets this, then it ends.
    Unwelcome(Refusal),
    /// It may ask.
    Talking { barrier: bool },
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Who connected.
    pub identity: Identity,
    /// Its socket.
    pub socket: ClientSocket,
    /// Readable when its process has died.
    pub pidfd: OwnedFd,
    groups: Vec<u32>,
    stage: Stage,
    waiting: Option<(Vec<u8>, Vec<Handed>)>,
    /// The kernel takes no more descriptors now, and that was said.
    held_up: bool,
    /// Its descriptors in the store.
    kept: Option<Rc<Kept>>,
}

impl Session {
    /// Learns from the kernel who is at the other end, and has the store keep the descriptors unless it has them.
    ///
    /// # Errors
    /// What the kernel said; ESRCH if the process is gone already.
    pub fn new(
        id: SessionId,
        socket: ClientSocket,
        kept: Option<Rc<Kept>>,
        service: &Service,
    ) -> io::Result<Self> {
        // On each socket, not inherited from the listener: a client may have connected, and spoken,
        // before we had the listener in hand (socket activation). Credentials that a client attaches
        // itself are kept with its message even then.
        setsockopt(&socket, sockopt::PassCred, &true)?;
        let peer = socket::peer_credentials(&socket)?;
        let pid = u32::try_from(peer.pid()).unwrap_or(0);
        let identity = Identity { pid, uid: peer.uid(), gid: peer.gid() };
        let pidfd = peer_pidfd(&socket, pid)?;
        let groups = process::peer_groups(&socket)?;
        let kept = match kept {
            Some(kept) => Some(kept),
            None => Some(Rc::new(service.store().keep(&[socket.as_fd(), pidfd.as_fd()])?)),
        };
        let stage = Stage::Fresh;
        Ok(Self { id, identity, socket, pidfd, groups, stage, waiting: None, held_up: false, kept })
    }

    /// A session that a predecessor has begun. `answer`: the one that it gave last, which the client may not have.
    ///
    /// # Errors
    /// What the kernel said; ESRCH if the process is gone.
    pub fn resume(
        id: SessionId,
        identity: Identity,
        found: Descriptors,
        connection: &Connection,
        answer: Option<(Vec<u8>, Vec<Handed>)>,
    ) -> io::Result<Self> {
        let Descriptors { socket, pidfd, kept } = found;
        let pidfd = match pidfd {
            Some(pidfd) => pidfd,
            None => peer_pidfd(&socket, identity.pid)?,
        };
        let groups = process::peer_groups(&socket)?;
        let stage = connection.barrier.map_or(Stage::Fresh, |barrier| Stage::Talking { barrier });
        let (waiting, held_up, kept) = (None, false, Some(kept));
        let mut session =
            Self { id, identity, socket, pidfd, groups, stage, waiting, held_up, kept };
        let handled = connection.handled.as_ref().map(|handled| handled.request);
        if handled.is_some() && session.next_request()? == handled {
            let gone = || io::Error::other("a region of the answer that it waits for is gone");
            session.waiting = Some(answer.ok_or_else(gone)?);
        }
        Ok(session)
    }

    /// The number of the request that waits in the socket, if one does that may be answered.
    fn next_request(&self) -> io::Result<Option<u64>> {
        let mut buffer = [0; frame::HEADER_BYTES];
        let received = match socket::peek(self.socket.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        let bytes = buffer.get(..received.len).unwrap_or_default();
        let is_one = !bytes.is_empty() && !received.has_descriptors;
        Ok(is_one.then(|| frame::request_number(bytes)))
    }

    /// The name of its descriptors in the store.
    #[must_use]
    pub fn stored(&self) -> String {
        self.kept.as_ref().map_or_else(String::new, |kept| kept.name())
    }

    /// Hangs up; says who that was, and gives the socket.
    #[must_use]
    pub fn end(self) -> (SessionId, u32, ClientSocket) {
        self.socket.hang_up();
        (self.id, self.identity.uid, self.socket)
    }

    /// Leaves its socket open: a successor goes on with it.
    pub fn leave(self) {
        self.socket.leave();
    }

    /// Notes that its uid has too many sessions.
    pub fn turn_away(&mut self, refusal: Refusal) {
        self.stage = Stage::Unwelcome(refusal);
    }

    /// Its uid has too many sessions: it only waits to be told so.
    #[must_use]
    pub fn is_unwelcome(&self) -> bool {
        matches!(self.stage, Stage::Unwelcome(_))
    }

    /// Sends what waits, then answers some requests.
    pub fn turn(&mut self, service: &mut Service, way: &mut OnTheWay, buffer: &mut [u8]) -> Next {
        for _ in 0..REQUESTS_A_TURN {
            if !service.is_settled() {
                return Next::Later;
            }
            match self.flush(service, way) {
                Ok(Next::Read) => {}
                Ok(next) => return next,
                Err(error) => return self.lost(&error),
            }
            let received = match socket::peek(self.socket.as_fd(), buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.lost(&error),
            };
            // An empty datagram has credentials, a hang-up has none.
            if received.len == 0 && received.credentials.is_none() {
                return Next::End;
            }
            let bytes = buffer.get(..received.len).unwrap_or_default();
            let request = frame::request_number(bytes);
            let mut asks = false;
            service.enter(self.id);
            let result = self.answer(service, way, bytes, &received, &mut asks);
            let ends = matches!(&result, Err((_, End::Yes)));
            let reply = result.unwrap_or_else(|(refusal, _)| Some(Answer::Refused(refusal).into()));
            let Some(reply) = reply else {
                service.leave();
                return Next::Later;
            };
            self.queue(request, reply);
            if ends {
                service.leave();
                // Where something came with it, it stays in the socket: to throw that away may take long.
                let _ = match received.has_descriptors {
                    true => self.send(service, way),
                    false => self.flush(service, way),
                };
                return Next::End;
            }
            self.settle(service, request, asks);
            if service.restarts() {
                break;
            }
        }
        if !service.is_settled() {
            return Next::Later;
        }
        self.flush(service, way).unwrap_or_else(|error| self.lost(&error))
    }

    /// Answers a request; `None` if it is to wait, as if it were yet to come.
    fn answer(
        &mut self,
        service: &mut Service,
        way: &OnTheWay,
        bytes: &[u8],
        received: &Peeked,
        asks: &mut bool,
    ) -> Result<Option<Reply>, (Refusal, End)> {
        let request = self.check(bytes, received).map_err(|reason| self.protocol(reason))?;
        let identity = self.attest(received).map_err(|refusal| (refusal, End::No))?;
        if let Request::Hello { version_min, version_max, layout_version, barrier } = request {
            let versions = (version_min, version_max, layout_version);
            return self.hello(service, versions, barrier).map(Some);
        }
        let Stage::Talking { barrier } = self.stage else {
            return Err(self.protocol("a request before the hello".into()));
        };
        let caller = Caller { identity, groups: &self.groups };
        let asker = Asker { session: self.id, caller, barrier };
        *asks = only_asks(&request);
        let over = hands_out(&request) && !way.may_ask(self.identity.uid);
        if over || service.is_to_wait(&request) {
            return Ok(None);
        }
        service.handle(&asker, request).map(Some).map_err(|refusal| {
            debug!(session = self.id.0, who = %identity, %refusal, "refused");
            (refusal, End::No)
        })
    }

    /// Makes a request of what came, or says why it is none.
    fn check(&self, bytes: &[u8], received: &Peeked) -> Result<Request, String> {
        if received.truncated {
            return Err(format!("message longer than {MESSAGE_BYTES_MAX} bytes"));
        }
        if received.has_descriptors {
            return Err("descriptors came with a request, no request has any".into());
        }
        let (_, request) = decode::<Request>(bytes, 0).map_err(|error| error.to_string())?;
        if received.credentials.is_none() {
            return Err("the kernel did not say who sent this".into());
        }
        Ok(request)
    }

    /// Who asks, as of now. Only the process that connected may.
    fn attest(&self, received: &Peeked) -> Result<Identity, Refusal> {
        let session_pid = self.identity.pid;
        let (pid, uid, gid) = received.credentials.map_or((0, u32::MAX, u32::MAX), |who| {
            (u32::try_from(who.pid()).unwrap_or(0), who.uid(), who.gid())
        });
        if pid != session_pid {
            return Err(Refusal::ForeignSession { session_pid, pid });
        }
        Ok(Identity { pid, uid, gid })
    }

    fn hello(
        &mut self,
        service: &mut Service,
        versions: (u16, u16, u32),
        barrier: bool,
    ) -> Result<Reply, (Refusal, End)> {
        let (version_min, version_max, layout_version) = versions;
        match &self.stage {
            Stage::Fresh => {}
            Stage::Unwelcome(refusal) => return Err((refusal.clone(), End::Yes)),
            Stage::Talking { .. } => {
                return Err(self.protocol("a second hello in one session".into()));
            }
        }
        let spoken = (version_min..=version_max).contains(&PROTOCOL_VERSION);
        if !spoken || layout_version != LAYOUT_VERSION {
            let (ours, our_layout) = (PROTOCOL_VERSION, LAYOUT_VERSION);
            let refusal =
                Refusal::Version { version_min, version_max, layout_version, ours, our_layout };
            return Err((refusal, End::Yes));
        }
        self.stage = Stage::Talking { barrier };
        service.greeted(self.id, barrier);
        Ok(Answer::Hello { version: PROTOCOL_VERSION, daemon: crate::VERSION.into() }.into())
    }

    fn protocol(&self, reason: String) -> (Refusal, End) {
        warn!(session = self.id.0, who = %self.identity, reason, "bad input: session closed");
        (Refusal::Protocol { reason }, End::Yes)
    }

    fn queue(&mut self, request: u64, reply: Reply) {
        let encoded = encode(request, reply.descriptors.len(), &reply.answer);
        match encoded {
            Ok(bytes) => self.waiting = Some((bytes, reply.descriptors)),
            // Our own pages are cut so that they fit; should one not, the client hears of it.
            Err(error) => {
                warn!(session = self.id.0, %error, "an answer does not fit into a message");
                let refusal =
                    Refusal::Resources { step: "answer".into(), error: error.to_string() };
                let answer = Answer::Refused(refusal);
                self.waiting = encode(request, 0, &answer).ok().map(|bytes| (bytes, Vec::new()));
            }
        }
    }

    /// Has what was done count, together with its answer, and shows it.
    fn settle(&self, service: &mut Service, request: u64, asks: bool) {
        if let Some((bytes, descriptors)) = self.waiting.as_ref().filter(|_| !asks) {
            service.handled(self.id, request, bytes, descriptors);
        }
        service.settle();
        service.leave();
    }

    /// Sends what waits, and then takes the request that it answers off the socket: then the next may be read.
    fn flush(&mut self, service: &mut Service, way: &mut OnTheWay) -> io::Result<Next> {
        let waits = self.waiting.is_some();
        let next = self.send(service, way)?;
        if waits && next == Next::Read {
            // It is there, and nothing came with it: it was looked at.
            socket::discard(self.socket.as_fd())?;
        }
        Ok(next)
    }

    /// Sends what waits.
    fn send(&mut self, service: &mut Service, way: &mut OnTheWay) -> io::Result<Next> {
        let Some((bytes, descriptors)) = &mut self.waiting else { return Ok(Next::Read) };
        let (uid, count) = (self.identity.uid, descriptors.len());
        if count > 0 && !way.may_send(uid, self.id, count) {
            if socket::unread(self.socket.as_fd())? == 0 {
                way.was_read(uid, self.id);
            }
            if !way.may_send(uid, self.id, count) {
                if way.is_full(count) {
                    self.say_held_up("the daemon may send no more");
                }
                return Ok(self.put_off(way, Next::Later));
            }
        }
        let sent = descriptors.iter_mut().try_for_each(Handed::take_up).and_then(|()| {
            let fds: Vec<_> = descriptors.iter().filter_map(Handed::fd).map(AsFd::as_fd).collect();
            socket::send(self.socket.as_fd(), bytes, &fds, false)
        });
        match sent {
            Ok(()) => {
                self.waiting = None;
                way.sent(uid, self.id, count);
                self.held_up = false;
                service.answered(self.id);
                Ok(Next::Read)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(self.put_off(way, Next::Write)),
                Some(libc::ETOOMANYREFS | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                    self.say_held_up(error);
                    Ok(self.put_off(way, Next::Later))
                }
                _ => Err(error),
            },
        }
    }

    fn say_held_up(&mut self, why: impl Display) {
        if !std::mem::replace(&mut self.held_up, true) {
            warn!(session = self.id.0, who = %self.identity, %why, "an answer waits: too many descriptors are open, or on their way to clients that do not read");
        }
    }

    /// Has an answer wait, with as few descriptors open for it as can be.
    fn put_off(&mut self, way: &mut OnTheWay, next: Next) -> Next {
        if let Some((_, descriptors)) = &mut self.waiting {
            descriptors.iter_mut().for_each(Handed::put_down);
            way.waits(self.identity.uid, self.id, descriptors.len());
        }
        next
    }

    fn lost(&self, error: &io::Error) -> Next {
        debug!(session = self.id.0, who = %self.identity, %error, "session lost");
        Next::End
    }
}

/// A session's descriptors as they come out of the store.
#[derive(Debug)]
pub struct Descriptors {
    /// The socket.
    pub socket: ClientSocket,
    /// The process, if it was there.
    pub pidfd: Option<OwnedFd>,
    /// Their place in the store.
    pub kept: Rc<Kept>,
}

/// Whether a refusal ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    Yes,
}
