//! A daemon, one that asks it for something, and what comes of that: the answer, its descriptors, what is told of every
//! mailbox, and what is in it. Whatever becomes of the daemon meanwhile, that is to be the same.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use libipc::protocol::{
    Answer, LaneInfo, LaneTicket, MailboxDetail, Opened, OpenedRole, Request, ServerStatus,
};
use libipc::{Buffering, Client, MailboxName, MailboxOptions, Receiver, Role, TryReceiveError};
use tests::{
    Child, Numbered, RawClient, Stepped, TestDaemon, claim_first, hello, patience, wait_until,
};

pub(crate) const NAME: &str = "stepped";
pub(crate) const MESSAGE: &[u8] = b"a message";
/// Daemons that die sooner are not started again at once.
const LIFE: Duration = Duration::from_millis(25);

/// What comes before a request, with the mailbox [`NAME`] there, and the request.
pub(crate) type Prepare = fn(&mut Scene<'_>) -> Request;

/// A daemon, a client that looks at what is there, and a session that asks.
pub(crate) struct Scene<'a> {
    pub(crate) daemon: &'a TestDaemon,
    pub(crate) client: &'a Client,
    pub(crate) asks: RawClient,
    /// Another session, which ends when the daemon has been stopped and before it is asked.
    pub(crate) ends: Option<RawClient>,
    /// Others that stay.
    pub(crate) stay: Vec<RawClient>,
    /// The session that asks connects when the daemon has been stopped.
    pub(crate) connects: bool,
    /// Somebody who waits for something, and is told.
    pub(crate) waits: Option<Child>,
    /// The number of the mailbox: those that come later are told from it.
    first_id: u64,
    /// When the daemon was there.
    since: Instant,
}

/// What has come of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) answer: Answer,
    descriptors: Vec<(String, bool)>,
    mailboxes: Vec<MailboxDetail>,
    status: ServerStatus,
    /// What whoever waited was told.
    told: Option<String>,
    /// What was in the mailboxes.
    messages: Messages,
}

/// By the names of mailboxes and groups, each message and how often it was handed out before.
type Messages = BTreeMap<String, Vec<(String, u32)>>;

impl Outcome {
    /// Whether it is what it is without a kill; but for one count (docs/reliability.md): a daemon that is killed between
    /// dropping what a sender asked for and noting how much loses it, and its successor says that it dropped nothing.
    pub(crate) fn is_as(&self, expected: &Self) -> bool {
        self == expected
            || self.answer == Answer::Dropped { done: false }
                && self.without_dropped() == expected.without_dropped()
    }

    fn without_dropped(&self) -> (Vec<MailboxDetail>, &ServerStatus, &Messages) {
        let mut mailboxes = self.mailboxes.clone();
        for mailbox in &mut mailboxes {
            mailbox.dropped_messages = 0;
            mailbox.summary.queued_messages = 0;
            for group in &mut mailbox.groups {
                (group.dropped_messages, group.queued_messages) = (0, 0);
            }
        }
        (mailboxes, &self.status, &self.messages)
    }
}

/// A descriptor: its region's name, whether it is only to be read, and which file it is.
#[derive(Debug, PartialEq)]
struct Descriptor {
    name: String,
    read_only: bool,
    inode: u64,
}

pub(crate) fn name() -> MailboxName {
    MailboxName::new(NAME).expect("a name")
}

pub(crate) fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(3).lanes_max(4)
}

pub(crate) fn options() -> MailboxOptions {
    small().buffering(Buffering::Unbounded)
}

impl<'a> Scene<'a> {
    pub(crate) fn new(daemon: &'a TestDaemon, client: &'a Client) -> Self {
        let since = Instant::now();
        let mut asks = RawClient::greet(&daemon.socket());
        let (attributes, groups) = (options().attributes(), Vec::new());
        let created = asks.ask(&Request::Create { name: name(), attributes, groups }).0;
        let Answer::Created { mailbox_id: first_id } = created else { panic!("{created:?}") };
        let (ends, stay, waits) = (None, Vec::new(), None);
        Self { daemon, client, asks, ends, stay, connects: false, waits, first_id, since }
    }

    /// Another session.
    pub(crate) fn another(&self) -> RawClient {
        RawClient::greet(&self.daemon.socket())
    }

    /// Opens the mailbox in the session that asks.
    pub(crate) fn open(&mut self, role: Role) -> (Opened, Vec<OwnedFd>) {
        self.asks.open(NAME, role).expect("ours to open")
    }

    /// Opens the mailbox to send: the link, and its lane.
    pub(crate) fn open_to_send(&mut self) -> (u32, LaneInfo) {
        link_and_lane(&self.open(Role::Send).0)
    }

    /// Opens the mailbox to receive, and has the only message in it in hand.
    pub(crate) fn open_with_message_in_hand(&mut self) -> (u32, LaneTicket, u64) {
        self.send(1);
        let (opened, descriptors) = self.open(Role::Receive);
        let (lane, position) = claim_first(&opened, &descriptors, MESSAGE.len());
        (opened.link, lane, position)
    }

    /// Somebody sends so many messages, and goes.
    pub(crate) fn send(&self, count: usize) {
        let mut sender = self.client.sender(NAME).expect("ours to open");
        (0..count).for_each(|_| sender.send(MESSAGE).expect("sent"));
    }

    /// Makes so many dead letters.
    pub(crate) fn reject(&self, count: usize) {
        let mut receiver = self.client.receiver(NAME).expect("ours to receive");
        for _ in 0..count {
            self.send(1);
            let delivery = receiver.receive_deadline(patience()).expect("a message");
            delivery.reject().expect("it is in hand");
        }
    }

    /// Has the daemon do a request, driven by the test, and killed if it says so: what the test says of that, and what has
    /// come of the request.
    pub(crate) fn go<T>(
        &mut self,
        request: &Request,
        kill: bool,
        drive: impl FnOnce(&Stepped) -> T,
        place: impl FnOnce(&T) -> String,
    ) -> (T, Outcome) {
        let pid = self.daemon.status(self.client).pid;
        std::thread::sleep(LIFE.saturating_sub(self.since.elapsed()));
        let stepped = Stepped::take(pid);
        drop(self.ends.take());
        if self.connects {
            self.asks = RawClient::connect(&self.daemon.socket());
        }
        let number = self.asks.tell(request);
        let driven = drive(&stepped);
        if kill {
            stepped.kill();
        } else {
            stepped.let_go();
        }
        let place = if kill { place(&driven) } else { String::new() };
        let number = if self.connects { self.connect_after_all(request) } else { number };
        let answers = self.answers(number, &place);
        if kill {
            assert_ne!(self.daemon.status(self.client).pid, pid, "{place}: it was killed");
        }
        let outcome = self.outcome(answers, &place);
        (driven, outcome)
    }

    /// A connection that a daemon had accepted, and nobody else knew of, ends with it; nothing has happened then, and whoever
    /// made it makes another. What is asked then is a further request, whose number this is.
    fn connect_after_all(&mut self, hello: &Request) -> u64 {
        while self.asks.receive_numbered().is_none() {
            self.asks = RawClient::connect(&self.daemon.socket());
            self.asks.tell(hello);
        }
        self.asks.tell(&Request::Status)
    }

    /// All answers that come before that of a further request.
    fn answers(&mut self, number: u64, place: &str) -> Vec<(Answer, Vec<Descriptor>)> {
        let last = self.asks.tell(&Request::Status);
        let mut answers = Vec::new();
        loop {
            let received = self.asks.receive_numbered();
            let (answered, answer, descriptors): Numbered =
                received.unwrap_or_else(|| panic!("{place}: the daemon hangs up"));
            if answered == last {
                return answers;
            }
            if self.connects && matches!(answer, Answer::Hello { .. }) {
                // The same once more.
                continue;
            }
            assert_eq!(answered, number, "{place}: {answer:?}");
            let descriptors = descriptors.iter().map(|fd| self.describe(fd)).collect();
            answers.push((answer, descriptors));
        }
    }

    fn describe(&self, fd: &OwnedFd) -> Descriptor {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let link = std::fs::read_link(&path).expect("a descriptor of ours");
        let link = link.to_string_lossy().replace("/memfd:", "").replace(" (deleted)", "");
        let (id, rest) = link.split_once('.').expect("a region's name");
        let nth = id.parse::<u64>().expect("a mailbox's number") - self.first_id;
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).expect("its flags");
        let inode = std::fs::metadata(&path).expect("a file").ino();
        let read_only = flags & nix::libc::O_ACCMODE == nix::libc::O_RDONLY;
        Descriptor { name: format!("{nth}.{rest}"), read_only, inode }
    }

    fn outcome(&mut self, mut answers: Vec<(Answer, Vec<Descriptor>)>, place: &str) -> Outcome {
        // Killed when it had answered, and before that was noted, it is answered once more, as before.
        assert!((1..=2).contains(&answers.len()), "{place}: {answers:?}");
        let (answer, descriptors) = answers.remove(0);
        let inodes = |fds: &[Descriptor]| fds.iter().map(|fd| fd.inode).collect::<Vec<_>>();
        let first = (self.comparable(answer), inodes(&descriptors));
        for (answer, descriptors) in answers {
            let again = (self.comparable(answer), inodes(&descriptors));
            assert_eq!(again, first, "{place}: another answer");
        }
        let answer = first.0;
        let descriptors = descriptors.into_iter().map(|it| (it.name, it.read_only)).collect();
        let told = self.waits.as_mut().map(Child::answer);
        let status = comparable_status(self.daemon.status(self.client));
        let mailboxes = self.mailboxes();
        let messages = mailboxes.iter().flat_map(|it| self.drain(it)).collect();
        Outcome { answer, descriptors, mailboxes, status, told, messages }
    }

    /// An answer, but for what is another at each time.
    fn comparable(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Created { mailbox_id } => {
                Answer::Created { mailbox_id: mailbox_id - self.first_id }
            }
            Answer::Opened(opened) => {
                Answer::Opened(Opened { mailbox_id: opened.mailbox_id - self.first_id, ..opened })
            }
            Answer::Status(status) => Answer::Status(Box::new(comparable_status(*status))),
            Answer::Shown(mut shown) => {
                shown.summary.mailbox_id -= self.first_id;
                Answer::Shown(shown)
            }
            Answer::Listed { mut mailboxes, more } => {
                mailboxes.iter_mut().for_each(|it| it.mailbox_id -= self.first_id);
                Answer::Listed { mailboxes, more }
            }
            other => other,
        }
    }

    fn mailboxes(&self) -> Vec<MailboxDetail> {
        let listed = self.client.list().expect("a list");
        let details = listed.iter().map(|it| {
            let mut detail = self.client.show(it.name.as_str()).expect("ours to see");
            detail.summary.mailbox_id -= self.first_id;
            // Of answers to calls the mailbox is named by its number.
            let name = it.name.as_str().trim_end_matches(|letter: char| letter.is_ascii_digit());
            if name.starts_with("reply/") {
                detail.summary.name = MailboxName::new(&format!("{name}0")).expect("a name");
            }
            detail
        });
        details.collect()
    }

    /// Takes what is in a mailbox, by its groups.
    fn drain(&self, mailbox: &MailboxDetail) -> Vec<(String, Vec<(String, u32)>)> {
        let name = mailbox.summary.name.as_str();
        if name.starts_with("reply/") || name.starts_with("process/") {
            // Whoever made it receives, and nobody else.
            return Vec::new();
        }
        if mailbox.groups.is_empty() {
            return vec![(name.to_owned(), take_all(self.client.receiver(name).ok()))];
        }
        let groups = mailbox.groups.iter().map(|group| {
            let group = group.group.name.as_str();
            let receiver = self.client.receiver_in_group(name, group);
            (format!("{name} {group}"), take_all(receiver.ok()))
        });
        groups.collect()
    }

    /// Whatever it was, the mailbox works; then all goes.
    pub(crate) fn end(self) {
        let Self { daemon, client, asks, stay, waits, .. } = self;
        drop((asks, stay, waits));
        wait_until("the sessions are over", || daemon.status(client).sessions == 1);
        if client.show(NAME).is_ok_and(|it| it.summary.open) {
            let mut receiver = client.receiver(NAME).expect("ours to receive");
            client.sender(NAME).expect("ours to open").send(b"it works").expect("sent");
            let mut next =
                || receiver.receive_deadline(patience()).expect("a message").into_bytes();
            while next() != b"it works" {}
        }
        for it in client.list().expect("a list") {
            // The dead letters go with their mailbox.
            let _ = client.delete(it.name.as_str());
        }
        assert_eq!(client.list().expect("a list"), []);
    }
}

/// All that a receiver gets, and how often each was handed out before. Nothing where there is no place for one.
fn take_all(receiver: Option<Receiver>) -> Vec<(String, u32)> {
    let Some(mut receiver) = receiver else { return Vec::new() };
    let mut all = Vec::new();
    loop {
        match receiver.try_receive() {
            Ok(delivery) => {
                let text = String::from_utf8_lossy(delivery.bytes()).into_owned();
                let letters = delivery.dead_letter().map_or(0, |letter| letter.attempts);
                all.push((text, delivery.attempts() + letters));
                delivery.acknowledge();
            }
            Err(TryReceiveError::Empty | TryReceiveError::Closed | TryReceiveError::Deleted) => {
                return all;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn comparable_status(status: ServerStatus) -> ServerStatus {
    ServerStatus { pid: 0, descriptors: 0, resident_bytes: 0, ..status }
}

/// What a sender was given.
pub(crate) fn link_and_lane(opened: &Opened) -> (u32, LaneInfo) {
    match opened {
        Opened { link, role: OpenedRole::Send { lane }, .. } => (*link, *lane),
        other => panic!("{other:?}"),
    }
}

/// The first request of a session that connects when the daemon has been stopped.
pub(crate) fn connect(scene: &mut Scene<'_>) -> Request {
    scene.connects = true;
    hello()
}
