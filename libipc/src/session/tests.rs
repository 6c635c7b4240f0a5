//! A daemon that answers what, when and as often as the test says.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use super::{Errand, Session, Wait};
use crate::protocol::{
    Answer, Fetched, MESSAGE_BYTES_MAX, MailboxAttributes, Opened, OpenedRole, Request, decode,
    encode,
};
use crate::sys::socket;

struct Daemon {
    socket: OwnedFd,
}

impl Daemon {
    fn with_session() -> (Self, Arc<Session>) {
        let (ours, socket) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        (Self { socket }, Arc::new(Session::new(ours)))
    }

    /// The next request with its number; waits for one.
    fn asked(&self) -> (u64, Request) {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = socket::receive(self.socket.as_fd(), &mut buffer).unwrap();
        let (frame, request) = decode(&buffer[..received.len], 0).unwrap();
        (frame.request, request)
    }

    /// The requests that are there already.
    fn asked_so_far(&self) -> Vec<Request> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let mut next = || {
            socket::try_receive(self.socket.as_fd(), &mut buffer)
                .ok()
                .map(|it| decode::<Request>(&buffer[..it.len], 0).unwrap().1)
        };
        std::iter::from_fn(&mut next).collect()
    }

    /// Answers with the socket itself as a descriptor.
    fn answer(&self, number: u64, answer: &Answer) {
        let bytes = encode(number, 1, answer).unwrap();
        socket::send(self.socket.as_fd(), &bytes, &[self.socket.as_fd()], false).unwrap();
    }
}

/// Waits until a thread of ours sleeps.
fn await_sleep(thread: Pid) {
    let stat = format!("/proc/self/task/{thread}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
}

fn soon() -> Wait {
    Wait::until(Some(Instant::now() + Duration::from_millis(5)))
}

fn opened(link: u32) -> Answer {
    let fetched = Fetched { doorsteps: Vec::new(), lanes: Vec::new(), through: 0, more: false };
    let (attributes, role) = (MailboxAttributes::default(), OpenedRole::Observe);
    Answer::Opened(Opened { link, mailbox_id: 1, attributes, groups: Vec::new(), role, fetched })
}

#[test]
fn what_is_given_up_is_taken_up_with_its_descriptors_and_not_asked_again() {
    let (daemon, session) = Daemon::with_session();
    let mut errand = Errand::default();
    let request = Request::OpenReplies { link: 1 };
    assert!(errand.run(&session, &request, soon()).unwrap().is_none());
    assert!(errand.run(&session, &request, soon()).unwrap().is_none());
    let (first, asked) = daemon.asked();
    assert_eq!(asked, request);
    assert_eq!(daemon.asked_so_far(), [], "it was asked once");
    // Somebody else reads its answer.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| session.request(&Request::Status).unwrap());
        let (second, asked) = daemon.asked();
        assert_eq!(asked, Request::Status);
        daemon.answer(first, &opened(3));
        daemon.answer(second, &Answer::Done);
        assert_eq!(other.join().unwrap().0, Answer::Done);
    });
    let (answer, descriptors) = errand.run(&session, &request, Wait::not()).unwrap().unwrap();
    assert_eq!((answer, descriptors.len()), (opened(3), 1));
    assert!(!errand.is_under_way());
}

#[test]
fn who_has_no_deadline_holds_nobody_up_who_has() {
    let (daemon, session) = Daemon::with_session();
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| session.request(&Request::Status).unwrap());
        let (first, _) = daemon.asked();
        let mut errand = Errand::default();
        let deadline = Instant::now() + Duration::from_millis(5);
        let request = Request::OpenReplies { link: 1 };
        let given_up = errand.run(&session, &request, Wait::until(Some(deadline)));
        assert!(given_up.unwrap().is_none());
        assert!(Instant::now() >= deadline);
        session.post(&Request::Drained { link: 1 }).unwrap();
        let (second, _) = daemon.asked();
        let (tell, told) = mpsc::channel();
        let impatient = scope.spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            let answered = errand.take_up(Wait::until(None));
            answered.unwrap().unwrap().0
        });
        await_sleep(told.recv().unwrap());
        // Whoever read first leaves, and the other reads on.
        daemon.answer(first, &Answer::Done);
        assert_eq!(patient.join().unwrap().0, Answer::Done);
        daemon.answer(second, &opened(3));
        assert_eq!(impatient.join().unwrap(), opened(3));
    });
}

#[test]
fn what_was_opened_for_nobody_is_closed_and_a_second_answer_closes_nothing() {
    let (daemon, session) = Daemon::with_session();
    let request = Request::OpenReplies { link: 1 };
    let (mut taken, mut unread, mut read) =
        (Errand::default(), Errand::default(), Errand::default());
    for errand in [&mut taken, &mut unread, &mut read] {
        assert!(errand.run(&session, &request, soon()).unwrap().is_none());
    }
    let [first, second, third] = [(); 3].map(|()| daemon.asked().0);
    drop(unread);
    daemon.answer(first, &opened(11));
    daemon.answer(second, &opened(12));
    daemon.answer(second, &opened(12));
    daemon.answer(third, &opened(13));
    assert!(taken.take_up(soon()).unwrap().is_some());
    daemon.answer(first, &opened(11));
    session.post(&Request::Drained { link: 1 }).unwrap();
    assert_eq!(
        daemon.asked_so_far(),
        [Request::CloseLink { link: 12 }, Request::Drained { link: 1 }]
    );
    drop(read);
    assert_eq!(daemon.asked_so_far(), [Request::CloseLink { link: 13 }]);
}

#[test]
fn what_is_posted_never_waits_and_links_are_closed_once_the_daemon_reads() {
    let (daemon, session) = Daemon::with_session();
    for _ in 0..10_000 {
        session.post(&Request::Drained { link: 1 }).unwrap();
    }
    session.close_link(9).unwrap();
    let mut errand = Errand::default();
    assert!(errand.run(&session, &Request::Status, soon()).unwrap().is_none());
    assert!(!errand.is_under_way(), "not even the kernel has taken it");
    let taken = daemon.asked_so_far();
    assert!(taken.len() < 10_000 && !taken.contains(&Request::CloseLink { link: 9 }));
    assert!(errand.run(&session, &Request::Status, soon()).unwrap().is_none());
    assert_eq!(daemon.asked_so_far(), [Request::CloseLink { link: 9 }, Request::Status]);
}

#[test]
fn everybody_who_waits_hears_that_the_daemon_has_hung_up() {
    let (daemon, session) = Daemon::with_session();
    std::thread::scope(|scope| {
        let waiting = [(); 3].map(|()| scope.spawn(|| session.request(&Request::Status)));
        for _ in 0..3 {
            daemon.asked();
        }
        drop(daemon);
        for thread in waiting {
            let error = thread.join().unwrap().unwrap_err();
            assert!(matches!(error, crate::RequestError::DaemonAway), "{error}");
        }
    });
}
