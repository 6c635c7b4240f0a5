//! The daemon's end of a client's connection, which is hung up and closed without waiting for whatever the client has
//! left in it ([`crate::closers`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libipc::sys::socket;
use nix::sys::socket::{Shutdown, shutdown};

use crate::closers;

/// A client's socket. Dropped: hung up, for whoever has it open, and closed.
#[derive(Debug)]
pub struct ClientSocket {
    /// There until it is dropped.
    socket: Option<OwnedFd>,
    /// No descriptor was ever sent to it: it refused them from the beginning.
    clean: bool,
}

impl ClientSocket {
    /// The next that waits at a listening socket. It takes no descriptors, if it is to `refuse` them and the kernel can.
    ///
    /// # Errors
    /// As of [`socket::accept`].
    pub fn accept(listener: BorrowedFd<'_>, refuse: bool) -> io::Result<Self> {
        let mut accepted = Self::found(socket::accept(listener)?);
        // It may have connected before the listener refused any: a service manager's has been there for longer than we.
        accepted.clean = socket::refuses_descriptors(&accepted)?;
        if refuse && !accepted.clean {
            socket::refuse_descriptors(&accepted)?;
        }
        Ok(accepted)
    }

    /// One that a predecessor had.
    #[must_use]
    pub fn found(socket: OwnedFd) -> Self {
        Self { socket: Some(socket), clean: false }
    }

    /// Hangs up, for whoever has it open.
    pub fn hang_up(&self) {
        // Fails only if the other side has hung up already.
        let _ = shutdown(self.as_fd().as_raw_fd(), Shutdown::Both);
    }

    /// Has what the client has left in it thrown away. It may be what keeps the client's own end open, which then never
    /// loses what it was sent.
    ///
    /// # Errors
    /// There is no descriptor left for that.
    pub fn empty(&self) -> io::Result<()> {
        if !self.clean {
            closers::close(self.as_fd().try_clone_to_owned()?);
        }
        Ok(())
    }

    /// Leaves it open: others who have it go on with it.
    pub fn leave(mut self) {
        std::mem::forget(self.socket.take());
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if self.socket.is_none() {
            return;
        }
        self.hang_up();
        match self.socket.take() {
            Some(socket) if !self.clean => closers::close(socket),
            clean => drop(clean),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

    pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    /// A socket whose last close waits for an hour, and the peer that does not read.
    pub(crate) fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut gift = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        gift.set_nonblocking(true).unwrap();
        let much = vec![7; 1 << 20];
        while gift.write(&much).is_ok() {}
        gift.set_nonblocking(false).unwrap();
        let hour = libc::linger { l_onoff: 1, l_linger: 3600 };
        setsockopt(&gift, sockopt::Linger, &hour).unwrap();
        (gift, peer)
    }

    pub(crate) fn wait_for_hang_up(socket: &OwnedFd) {
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let patience = PollTimeout::try_from(60_000u32).unwrap();
        assert_eq!(poll(&mut watched, patience), Ok(1), "never: a hang-up");
    }

    #[test]
    fn a_socket_with_something_that_lingers_is_hung_up_on_at_once() {
        let (theirs, ours) = pair();
        let (gift, _peer) = lingering();
        socket::send(theirs.as_fd(), b"hello", &[gift.as_fd()], false).unwrap();
        drop(gift);
        drop(ClientSocket::found(ours));
        wait_for_hang_up(&theirs);
        let refused = socket::send(theirs.as_fd(), b"more", &[], false).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn a_socket_that_is_left_open_is_not_hung_up_on() {
        let (theirs, ours) = pair();
        let other = ours.try_clone().unwrap();
        ClientSocket::found(ours).leave();
        socket::send(theirs.as_fd(), b"hello", &[], false).unwrap();
        assert_eq!(socket::receive(other.as_fd(), &mut [0; 9]).unwrap().len, 5);
    }
}
