//! One control message a datagram, with descriptors and the caller's identity beside it.
//!
//! **Invariant:** every descriptor that arrives is owned before the message is looked at, so none can
//! leak on an early return.

#![expect(unsafe_code, reason = "nix loses received descriptors when control data is cut off")]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    accept4, connect, getsockopt, sendmsg, socket, sockopt,
};

/// What arrived in one datagram.
#[derive(Debug)]
pub struct Received {
    /// Bytes of it; 0 is the other side's hang-up.
    pub len: usize,
    /// The datagram, or what came with it, was longer than there was room for.
    pub truncated: bool,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
    /// The sender's pid, uid and gid, checked by the kernel, if the receiving side asked for them.
    pub credentials: Option<UnixCredentials>,
}

/// What a datagram is that comes next.
#[derive(Debug)]
pub struct Peeked {
    /// Bytes of it; 0 without credentials is the other side's hang-up.
    pub len: usize,
    /// It is longer than there was room for.
    pub truncated: bool,
    /// More came with it than credentials: descriptors.
    pub has_descriptors: bool,
    /// The sender's pid, uid and gid, checked by the kernel, if the receiving side asked for them.
    pub credentials: Option<UnixCredentials>,
}

/// Connects to a listening `SOCK_SEQPACKET` socket.
///
/// # Errors
/// What the kernel said: ENOENT or ECONNREFUSED where no daemon listens.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket(SockFlag::SOCK_CLOEXEC)?;
    let address = UnixAddr::new(path)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// A new `SOCK_SEQPACKET` socket.
///
/// # Errors
/// What the kernel said.
pub fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Accepts a connection from a listening socket, non-blocking.
///
/// # Errors
/// What the kernel said: EAGAIN if nobody waits, EMFILE if this process is out of descriptors.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the kernel has just installed this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The credentials of whoever is at the other end, as they were at its connect (or listen).
///
/// # Errors
/// What the kernel said.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?)
}

/// A descriptor of the process at the other end: from the socket where the kernel can (6.5), else by
/// its pid.
///
/// # Errors
/// What the kernel said; ESRCH if the process is gone.
pub fn peer_pidfd(socket: impl AsFd, pid: u32) -> io::Result<OwnedFd> {
    match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(fd) => Ok(fd),
        Err(nix::Error::ENOPROTOOPT | nix::Error::EINVAL) => super::process::pidfd_open(pid),
        Err(error) => Err(error.into()),
    }
}

/// Forbids that descriptors are sent to a socket: the sender is told EPERM. A listening socket hands that on to those
/// that connect to it from then on. What was sent before is there still. False on a kernel that cannot (before 6.16).
///
/// # Errors
/// What the kernel said.
pub fn refuse_descriptors(socket: impl AsFd) -> io::Result<bool> {
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
        // There the option has another number, and this number is another option.
        return Ok(false);
    }
    let no: libc::c_int = 0;
    // SAFETY: the kernel reads one int, of `no`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of_val(&no) as libc::socklen_t,
        )
    };
    known_option(result).map(|known| known.is_some())
}

/// Whether descriptors cannot be sent to a socket.
///
/// # Errors
/// What the kernel said.
pub fn refuses_descriptors(socket: impl AsFd) -> io::Result<bool> {
    let mut passes: libc::c_int = 1;
    let mut len = size_of_val(&passes) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, those of `passes`, and the length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw mut passes).cast(),
            &raw mut len,
        )
    };
    known_option(result).map(|known| known.is_some() && passes == 0)
}

/// `SO_PASSRIGHTS` of asm-generic/socket.h, since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// What came of setting or reading an option; `None` if the kernel does not know it.
fn known_option(result: libc::c_int) -> io::Result<Option<()>> {
    if result == 0 {
        return Ok(Some(()));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(None) } else { Err(error) }
}

/// Sends one datagram with the caller's own pid, effective uid and gid, which the kernel checks.
///
/// # Errors
/// What the kernel said: EPIPE if the other side is gone, EAGAIN if it does not read.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    with_credentials: bool,
) -> io::Result<()> {
    send_with(socket, bytes, descriptors, with_credentials, MsgFlags::empty())
}

/// As [`send`] with credentials and without descriptors, if there is room, whatever the kind of socket.
///
/// # Errors
/// What the kernel said: EAGAIN if the other side must read first.
pub fn try_send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    send_with(socket, bytes, &[], true, MsgFlags::MSG_DONTWAIT)
}

fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    with_credentials: bool,
    flags: MsgFlags,
) -> io::Result<()> {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let credentials = with_credentials.then(|| {
        UnixCredentials::from(libc::ucred {
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        })
    });
    let mut control = Vec::with_capacity(2);
    if !numbers.is_empty() {
        control.push(ControlMessage::ScmRights(&numbers));
    }
    if let Some(credentials) = &credentials {
        control.push(ControlMessage::ScmCredentials(credentials));
    }
    let parts = [IoSlice::new(bytes)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Room for the control data of one datagram, aligned as its headers need it.
#[repr(C, align(8))]
struct ControlSpace([u8; CONTROL_BYTES]);

// Headers of 16 bytes, credentials of 12 (padded to 16), descriptors of 4, and some room more, so that
// a sender cannot have it cut off by adding what we did not ask for.
const CONTROL_BYTES: usize = 16 + 16 + 16 + 4 * 256 + 256;

// Credentials come first; behind them there is no room for a descriptor, so none is ever installed.
const CREDENTIALS_BYTES: usize = 16 + 16;

/// Bytes, with what the kernel needs beside them, that were sent over a socket and that the other side has not read yet.
///
/// # Errors
/// What the kernel said.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, into `bytes`.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// Receives one datagram into `buffer`; waits for one if the socket is a blocking one.
///
/// # Errors
/// What the kernel said: EAGAIN on a non-blocking socket with nothing to read.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, 0)
}

/// Receives one datagram into `buffer` if one is there, whatever the kind of socket.
///
/// # Errors
/// What the kernel said: EAGAIN with nothing to read.
pub fn try_receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT)
}

/// Looks at the datagram that comes next, and leaves it there. Of descriptors that came with it none is taken: whatever
/// they are, they are nobody's to close.
///
/// # Errors
/// What the kernel said: EAGAIN with nothing to read.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Peeked> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    let (received, flags) = receive_into(socket, buffer, flags, CREDENTIALS_BYTES)?;
    let Received { len, credentials, .. } = received;
    let (truncated, has_descriptors) =
        (flags & libc::MSG_TRUNC != 0, flags & libc::MSG_CTRUNC != 0);
    Ok(Peeked { len, truncated, has_descriptors, credentials })
}

/// Throws away the datagram that comes next, and what came with it: this waits as long as the end of that does. False if
/// none comes any more. The socket is to be one that asks for credentials.
///
/// # Errors
/// What the kernel said: EAGAIN with nothing to read.
pub fn discard(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let (received, _) = receive_into(socket, &mut [], libc::MSG_DONTWAIT, CREDENTIALS_BYTES)?;
    Ok(received.len > 0 || received.credentials.is_some())
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Received> {
    receive_into(socket, buffer, flags, CONTROL_BYTES).map(|(received, _)| received)
}

/// Receives, with so much room for what comes with a datagram; returns the kernel's flags as well.
fn receive_into(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
    control_bytes: usize,
) -> io::Result<(Received, libc::c_int)> {
    let mut space = ControlSpace([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = control_bytes.min(CONTROL_BYTES);
    // SAFETY: `message` names `part` (which names `buffer`) and `space`, with their lengths; all live
    // through the call and nobody else touches them.
    let len = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC)
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // nix's iterator refuses cut-off control data and so leaks the descriptors that did arrive.
    let (descriptors, credentials) = take_control(&space.0[..message.msg_controllen]);
    let flags = message.msg_flags;
    let truncated = flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok((Received { len, truncated, descriptors, credentials }, flags))
}

/// Owns what the kernel put into the control data: a row of headers (length u64, level i32, type i32),
/// each with its data behind it, padded to eight bytes.
fn take_control(mut control: &[u8]) -> (Vec<OwnedFd>, Option<UnixCredentials>) {
    const HEADER: usize = 16;
    let word = |bytes: &[u8]| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (mut descriptors, mut credentials) = (Vec::new(), None);
    while control.len() >= HEADER {
        let mut len = [0; 8];
        len.copy_from_slice(&control[..8]);
        let len = usize::from_ne_bytes(len).clamp(HEADER, control.len());
        let data = &control[HEADER..len];
        match (word(&control[8..12]), word(&control[12..16])) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                descriptors.extend(data.chunks_exact(4).map(|number| {
                    // SAFETY: the kernel has just installed this descriptor for us alone.
                    unsafe { OwnedFd::from_raw_fd(word(number)) }
                }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data.len() >= 12 => {
                credentials = Some(UnixCredentials::from(libc::ucred {
                    pid: word(&data[0..4]),
                    uid: word(&data[4..8]) as u32,
                    gid: word(&data[8..12]) as u32,
                }));
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    (descriptors, credentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DESCRIPTORS_MAX;

    fn pair() -> (OwnedFd, OwnedFd) {
        nix::sys::socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap()
    }

    #[test]
    fn descriptors_and_credentials_arrive_with_their_message() {
        let (ours, theirs) = pair();
        nix::sys::socket::setsockopt(&theirs, sockopt::PassCred, &true).unwrap();
        let many: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| ours.as_fd()).collect();
        send(ours.as_fd(), b"hello", &many, true).unwrap();
        let mut buffer = [0; 64];
        let received = receive(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..received.len], b"hello");
        assert!(!received.truncated);
        assert_eq!(received.descriptors.len(), DESCRIPTORS_MAX);
        let who = received.credentials.unwrap();
        assert_eq!(who.pid(), nix::unistd::getpid().as_raw());
        assert_eq!(who.uid(), nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn a_look_at_a_message_takes_none_of_its_descriptors_and_discarding_it_closes_them() {
        let (ours, theirs) = pair();
        nix::sys::socket::setsockopt(&theirs, sockopt::PassCred, &true).unwrap();
        let (gift, other) = nix::unistd::pipe().unwrap();
        for (bytes, descriptors) in [(&b"hello"[..], vec![other.as_fd()]), (b"", vec![])] {
            send(ours.as_fd(), bytes, &descriptors, true).unwrap();
        }
        drop(other);
        for _ in 0..2 {
            let mut buffer = [0; 64];
            let peeked = peek(theirs.as_fd(), &mut buffer).unwrap();
            assert_eq!(&buffer[..peeked.len], b"hello");
            assert!(peeked.has_descriptors && !peeked.truncated);
            assert_eq!(peeked.credentials.unwrap().uid(), nix::unistd::geteuid().as_raw());
        }
        assert!(peek(theirs.as_fd(), &mut [0; 2]).unwrap().truncated);
        assert!(discard(theirs.as_fd()).unwrap());
        // The end of the pipe that was under way is closed: nobody writes any more.
        assert_eq!(nix::unistd::read(&gift, &mut [0; 1]), Ok(0));
        let peeked = peek(theirs.as_fd(), &mut [0; 64]).unwrap();
        assert!(peeked.len == 0 && peeked.credentials.is_some() && !peeked.has_descriptors);
        assert!(discard(theirs.as_fd()).unwrap(), "an empty one is one as well");
        drop(ours);
        assert!(!discard(theirs.as_fd()).unwrap());
    }

    #[test]
    fn a_socket_that_refuses_descriptors_gets_none_and_all_else() {
        let (ours, theirs) = pair();
        assert!(!refuses_descriptors(&theirs).unwrap());
        if !refuse_descriptors(&theirs).unwrap() {
            println!("SKIPPED: sockets that refuse descriptors (this kernel has none)");
            return;
        }
        assert!(refuses_descriptors(&theirs).unwrap());
        let refused = send(ours.as_fd(), b"hello", &[ours.as_fd()], true).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        send(ours.as_fd(), b"hello", &[], true).unwrap();
        assert_eq!(receive(theirs.as_fd(), &mut [0; 64]).unwrap().len, 5);
    }

    #[test]
    fn what_is_unread_is_none_once_all_is_read() {
        let (ours, theirs) = pair();
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
        (0..3).for_each(|_| send(ours.as_fd(), b"x", &[ours.as_fd()], false).unwrap());
        for _ in 0..3 {
            assert!(unread(ours.as_fd()).unwrap() > 0);
            receive(theirs.as_fd(), &mut [0; 10]).unwrap();
        }
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_marked_as_cut_off() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &[7; 100], &[], false).unwrap();
        let received = receive(theirs.as_fd(), &mut [0; 10]).unwrap();
        assert!(received.truncated);
    }
}
