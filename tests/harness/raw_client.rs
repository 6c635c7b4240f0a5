//! The control protocol, spoken without `libipc`'s client: it can break every rule, and it keeps the
//! descriptors that an honest client closes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libipc::lane::layout::LAYOUT_VERSION;
use libipc::protocol::{
    Answer, GroupName, MESSAGE_BYTES_MAX, Opened, PROTOCOL_VERSION, Request, decode, encode,
};
use libipc::sys::socket;
use libipc::{MailboxName, Refusal, Role};

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    socket: OwnedFd,
    last: u64,
}

impl RawClient {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        Self { socket: socket::connect_to(path).expect("a listening daemon"), last: 0 }
    }

    /// Connects and says hello.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[must_use]
    pub fn greet(path: &Path) -> Self {
        let mut client = Self::connect(path);
        let (answer, _) = client.ask(&hello());
        assert!(matches!(answer, Answer::Hello { .. }), "{answer:?}");
        client
    }

    /// Sends bytes as they are, with descriptors.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(self.socket.as_fd(), bytes, descriptors, true)
    }

    /// The next answer with its descriptors; `None` after a hang-up.
    ///
    /// # Panics
    /// If it is no answer.
    #[must_use]
    pub fn receive(&self) -> Option<(Answer, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) if received.len == 0 => return None,
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return None,
            Err(error) => panic!("{error}"),
        };
        let bytes = &buffer[..received.len];
        let (_, answer) = decode(bytes, received.descriptors.len()).expect("an answer");
        Some((answer, received.descriptors))
    }

    /// Asks one thing, and leaves the answer unread.
    ///
    /// # Errors
    /// What the kernel said: EAGAIN if the socket is a non-blocking one and full.
    ///
    /// # Panics
    /// If the request does not fit.
    pub fn post(&mut self, request: &Request) -> io::Result<()> {
        self.last += 1;
        let bytes = encode(self.last, 0, request).expect("a request that fits");
        self.send(&bytes, &[])
    }

    /// Asks one thing.
    ///
    /// # Panics
    /// If the daemon hangs up instead.
    pub fn ask(&mut self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        self.post(request).expect("the daemon listens");
        self.receive().expect("an answer")
    }

    /// Opens a mailbox: what it is told, and every descriptor.
    ///
    /// # Errors
    /// The refusal.
    pub fn open(&mut self, name: &str, role: Role) -> Result<(Opened, Vec<OwnedFd>), Refusal> {
        self.open_in(name, role, None)
    }

    /// Opens a mailbox as one of a group: what it is told, and every descriptor.
    ///
    /// # Errors
    /// The refusal.
    pub fn open_in(
        &mut self,
        name: &str,
        role: Role,
        group: Option<&str>,
    ) -> Result<(Opened, Vec<OwnedFd>), Refusal> {
        let name = MailboxName::new(name)?;
        let group = group.map(GroupName::new).transpose()?;
        match self.ask(&Request::Open { name, role, group }) {
            (Answer::Opened(opened), descriptors) => Ok((opened, descriptors)),
            (Answer::Refused(refusal), _) => Err(refusal),
            (other, _) => panic!("an open is answered by {other:?}"),
        }
    }
}

impl AsFd for RawClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first request of a session.
#[must_use]
pub fn hello() -> Request {
    Request::Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        layout_version: LAYOUT_VERSION,
        barrier: libipc::sys::futex::barrier_register(),
    }
}
