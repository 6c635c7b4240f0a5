//! One client: its socket, who it is, what it has said so far.
//!
//! A session has at most one answer that waits to be sent; until it is gone no further request is
//! looked at. So a client that does not read holds up nobody but itself, and costs no memory. A request stays in the
//! socket until it is answered: a daemon that dies before leaves it to its successor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{OnceLock, mpsc};

use libipc::lane::layout::LAYOUT_VERSION;
use libipc::protocol::{
    Answer, DESCRIPTORS_MAX, Identity, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Refusal, Request,
    decode, encode, frame,
};
use libipc::sys::socket::{self, Received};
use libipc::sys::{process, socket::peer_pidfd};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, warn};

use crate::regions::Handed;
use crate::registry::link::SessionId;
use crate::registry::permission::Caller;
use crate::service::settle::only_asks;
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
    pub socket: OwnedFd,
    /// Readable when its process has died.
    pub pidfd: OwnedFd,
    groups: Vec<u32>,
    stage: Stage,
    waiting: Option<(Vec<u8>, Vec<Handed>)>,
    /// Descriptors sent since the client was last seen to have read all.
    unread: usize,
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
        socket: OwnedFd,
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
        Ok(Self {
            id,
            identity,
            socket,
            pidfd,
            groups,
            stage,
            waiting: None,
            unread: 0,
            held_up: false,
            kept,
        })
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
        let (waiting, unread, held_up, kept) = (None, 0, false, Some(kept));
        let mut session =
            Self { id, identity, socket, pidfd, groups, stage, waiting, unread, held_up, kept };
        let handled = connection.handled.as_ref().map(|handled| handled.request);
        if handled.is_some() && session.next_request()? == handled {
            let gone = || io::Error::other("a region of the answer that it waits for is gone");
            session.waiting = Some(answer.ok_or_else(gone)?);
        }
        Ok(session)
    }

    /// The number of the request that waits in the socket.
    fn next_request(&self) -> io::Result<Option<u64>> {
        let mut buffer = [0; frame::HEADER_BYTES];
        let received = match socket::peek(self.socket.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        close_elsewhere(received.descriptors);
        let bytes = buffer.get(..received.len).unwrap_or_default();
        Ok((!bytes.is_empty()).then(|| frame::request_number(bytes)))
    }

    /// The name of its descriptors in the store.
    #[must_use]
    pub fn stored(&self) -> String {
        self.kept.as_ref().map_or_else(String::new, |kept| kept.name())
    }

    /// Hangs up, whoever else has the socket.
    pub fn hang_up(&self) {
        // Fails only if the other side has hung up already.
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.socket),
            nix::sys::socket::Shutdown::Both,
        );
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
    pub fn turn(&mut self, service: &mut Service, buffer: &mut [u8]) -> Next {
        for _ in 0..REQUESTS_A_TURN {
            if !service.is_settled() {
                return Next::Later;
            }
            match self.flush(service) {
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
            let result = self.answer(service, bytes, &received, &mut asks);
            close_elsewhere(received.descriptors);
            let ends = matches!(&result, Err((_, End::Yes)));
            let reply = result.unwrap_or_else(|(refusal, _)| Answer::Refused(refusal).into());
            self.queue(request, reply);
            if ends {
                service.leave();
                let _ = self.flush(service);
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
        self.flush(service).unwrap_or_else(|error| self.lost(&error))
    }

    fn answer(
        &mut self,
        service: &mut Service,
        bytes: &[u8],
        received: &Received,
        asks: &mut bool,
    ) -> Result<Reply, (Refusal, End)> {
        let request = self.check(bytes, received).map_err(|reason| self.protocol(reason))?;
        let identity = self.attest(received).map_err(|refusal| (refusal, End::No))?;
        if let Request::Hello { version_min, version_max, layout_version, barrier } = request {
            let versions = (version_min, version_max, layout_version);
            return self.hello(service, versions, barrier);
        }
        let Stage::Talking { barrier } = self.stage else {
            return Err(self.protocol("a request before the hello".into()));
        };
        let caller = Caller { identity, groups: &self.groups };
        let asker = Asker { session: self.id, caller, barrier };
        *asks = only_asks(&request);
        service.handle(&asker, request).map_err(|refusal| {
            debug!(session = self.id.0, who = %identity, %refusal, "refused");
            (refusal, End::No)
        })
    }

    /// Makes a request of what came, or says why it is none.
    fn check(&self, bytes: &[u8], received: &Received) -> Result<Request, String> {
        if received.truncated {
            return Err(format!(
                "message longer than {MESSAGE_BYTES_MAX} bytes, or control data cut off"
            ));
        }
        let (_, request) = decode::<Request>(bytes, received.descriptors.len())
            .map_err(|error| error.to_string())?;
        if !received.descriptors.is_empty() {
            return Err("descriptors came with a request, no request has any".into());
        }
        if received.credentials.is_none() {
            return Err("the kernel did not say who sent this".into());
        }
        Ok(request)
    }

    /// Who asks, as of now. Only the process that connected may.
    fn attest(&self, received: &Received) -> Result<Identity, Refusal> {
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
    fn flush(&mut self, service: &mut Service) -> io::Result<Next> {
        let Some((bytes, descriptors)) = &self.waiting else { return Ok(Next::Read) };
        let borrowed: Vec<_> = descriptors.iter().map(|it| it.fd.as_fd()).collect();
        let count = borrowed.len();
        // Until they are read they count against what all of us may have on their way: no client gets more of that.
        if count > 0 && self.unread + count > DESCRIPTORS_MAX {
            if socket::unread(self.socket.as_fd())? > 0 {
                return Ok(Next::Later);
            }
            self.unread = 0;
        }
        match socket::send(self.socket.as_fd(), bytes, &borrowed, false) {
            Ok(()) => {
                self.waiting = None;
                self.unread += count;
                self.held_up = false;
                service.answered(self.id);
                // It is there: it was looked at.
                let done = socket::try_receive(self.socket.as_fd(), &mut [])?;
                close_elsewhere(done.descriptors);
                Ok(Next::Read)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Next::Write),
                Some(libc::ETOOMANYREFS) => {
                    if !std::mem::replace(&mut self.held_up, true) {
                        warn!(session = self.id.0, who = %self.identity, "an answer waits: too many descriptors are on their way to clients that do not read");
                    }
                    Ok(Next::Later)
                }
                _ => Err(error),
            },
        }
    }

    fn lost(&self, error: &io::Error) -> Next {
        debug!(session = self.id.0, who = %self.identity, %error, "session lost");
        Next::End
    }
}

/// Closes descriptors that a client has sent unasked, in a thread of its own: closing one can wait for a file
/// system that the client itself serves.
fn close_elsewhere(descriptors: Vec<OwnedFd>) {
    static CLOSER: OnceLock<Option<mpsc::Sender<Vec<OwnedFd>>>> = OnceLock::new();
    if descriptors.is_empty() {
        return;
    }
    let closer = CLOSER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        let close = move || receiver.into_iter().for_each(drop::<Vec<OwnedFd>>);
        std::thread::Builder::new().name("closer".into()).spawn(close).ok().map(|_| sender)
    });
    // Without the thread they are closed here.
    if let Some(closer) = closer {
        let _ = closer.send(descriptors);
    }
}

/// A session's descriptors as they come out of the store.
#[derive(Debug)]
pub struct Descriptors {
    /// The socket.
    pub socket: OwnedFd,
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
