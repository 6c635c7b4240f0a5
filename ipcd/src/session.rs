//! One client: its socket, who it is, what it has said so far.
//!
//! A session has at most one answer that waits to be sent; until it is gone no further request is
//! read. So a client that does not read holds up nobody but itself, and costs no memory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{OnceLock, mpsc};

use libipc::lane::layout::LAYOUT_VERSION;
use libipc::protocol::{
    Answer, Identity, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Refusal, Request, decode, encode, frame,
};
use libipc::sys::socket::{self, Received};
use libipc::sys::{process, socket::peer_pidfd};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, warn};

use crate::registry::link::SessionId;
use crate::registry::permission::Caller;
use crate::service::{Asker, Reply, Service};

/// Requests that one session gets answered before the others have their turn.
const REQUESTS_A_TURN: usize = 16;

/// What to do with a session after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has more to say, or nothing: wait until its socket is readable.
    Read,
    /// Its answer waits: wait until its socket is writable.
    Write,
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
    waiting: Option<(Vec<u8>, Vec<Rc<OwnedFd>>)>,
}

impl Session {
    /// Learns from the kernel who is at the other end.
    ///
    /// # Errors
    /// What the kernel said; ESRCH if the process is gone already.
    pub fn new(id: SessionId, socket: OwnedFd) -> io::Result<Self> {
        // On each socket, not inherited from the listener: a client may have connected, and spoken,
        // before we had the listener in hand (socket activation). Credentials that a client attaches
        // itself are kept with its message even then.
        setsockopt(&socket, sockopt::PassCred, &true)?;
        let peer = socket::peer_credentials(&socket)?;
        let pid = u32::try_from(peer.pid()).unwrap_or(0);
        let identity = Identity { pid, uid: peer.uid(), gid: peer.gid() };
        let pidfd = peer_pidfd(&socket, pid)?;
        let groups = process::peer_groups(&socket)?;
        Ok(Self { id, identity, socket, pidfd, groups, stage: Stage::Fresh, waiting: None })
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
            match self.flush() {
                Ok(true) => {}
                Ok(false) => return Next::Write,
                Err(error) => return self.lost(&error),
            }
            let received = match socket::receive(self.socket.as_fd(), buffer) {
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
            let result = self.answer(service, bytes, &received);
            close_elsewhere(received.descriptors);
            let ends = matches!(&result, Err((_, End::Yes)));
            let reply = result.unwrap_or_else(|(refusal, _)| Answer::Refused(refusal).into());
            self.queue(request, reply);
            if ends {
                let _ = self.flush();
                return Next::End;
            }
        }
        match self.flush() {
            Ok(true) => Next::Read,
            Ok(false) => Next::Write,
            Err(error) => self.lost(&error),
        }
    }

    fn answer(
        &mut self,
        service: &mut Service,
        bytes: &[u8],
        received: &Received,
    ) -> Result<Reply, (Refusal, End)> {
        let request = self.check(bytes, received).map_err(|reason| self.protocol(reason))?;
        let identity = self.attest(received).map_err(|refusal| (refusal, End::No))?;
        if let Request::Hello { version_min, version_max, layout_version, barrier } = request {
            let versions = (version_min, version_max, layout_version);
            return self.hello(versions, barrier);
        }
        let Stage::Talking { barrier } = self.stage else {
            return Err(self.protocol("a request before the hello".into()));
        };
        let caller = Caller { identity, groups: &self.groups };
        let asker = Asker { session: self.id, caller, barrier };
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

    fn hello(&mut self, versions: (u16, u16, u32), barrier: bool) -> Result<Reply, (Refusal, End)> {
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

    /// Sends what waits; false if the client must read first.
    fn flush(&mut self) -> io::Result<bool> {
        let Some((bytes, descriptors)) = &self.waiting else { return Ok(true) };
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        match socket::send(self.socket.as_fd(), bytes, &borrowed, false) {
            Ok(()) => {
                self.waiting = None;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
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

/// Whether a refusal ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    Yes,
}
