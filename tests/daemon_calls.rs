//! A request is done once, and answered rightly, wherever the daemon is killed: before and behind each of its system calls
//! from the first on that writes the state, so everywhere between the write and the answer; and at some of those before.
//!
//! What must come of it is what comes of it without a kill: the same answer, the same descriptors with it, and the same told of
//! every mailbox afterwards. `STEPS=n` at so many of the places before, `SEED=s` the same as before. At other instructions
//! than these `tests/daemon_steps.rs` kills.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use libipc::protocol::{
    Answer, LaneInfo, LaneTicket, MailboxDetail, Opened, OpenedRole, Queued, Request, ServerStatus,
};
use libipc::{Buffering, Client, GroupName, MailboxName, MailboxOptions, Reason, Role, SlowGroup};
use tests::{
    AtCall, Baseline, Dice, Numbered, RawClient, Stepped, TestDaemon, claim_first, patience, seed,
    wait_until,
};

const NAME: &str = "stepped";
const MESSAGE: &[u8] = b"a message";
/// Daemons that die sooner are not started again at once.
const LIFE: Duration = Duration::from_millis(25);

/// What comes before a request, with the mailbox [`NAME`] there, and the request.
type Prepare = fn(&mut Scene) -> Request;

/// A daemon, a client that looks at what is there, and a session that asks.
struct Scene<'a> {
    daemon: &'a TestDaemon,
    client: &'a Client,
    asks: RawClient,
    /// Another session, which ends when the daemon has been stopped and before it is asked.
    ends: Option<RawClient>,
    /// The number of the mailbox: those that come later are told from it.
    first_id: u64,
    /// When the daemon was there.
    since: Instant,
}

/// What has come of a request.
#[derive(Debug, PartialEq)]
struct Outcome {
    answer: Answer,
    descriptors: Vec<(String, bool)>,
    mailboxes: Vec<MailboxDetail>,
    status: ServerStatus,
}

/// A descriptor: its region's name, whether it is only to be read, and which file it is.
#[derive(Debug, PartialEq)]
struct Descriptor {
    name: String,
    read_only: bool,
    inode: u64,
}

fn name() -> MailboxName {
    MailboxName::new(NAME).expect("a name")
}

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(2).lanes_max(4)
}

fn options() -> MailboxOptions {
    small().buffering(Buffering::Unbounded)
}

impl<'a> Scene<'a> {
    fn new(daemon: &'a TestDaemon, client: &'a Client) -> Self {
        let since = Instant::now();
        let mut asks = RawClient::greet(&daemon.socket());
        let (attributes, groups) = (options().attributes(), Vec::new());
        let created = asks.ask(&Request::Create { name: name(), attributes, groups }).0;
        let Answer::Created { mailbox_id: first_id } = created else { panic!("{created:?}") };
        Self { daemon, client, asks, ends: None, first_id, since }
    }

    /// Opens the mailbox in the session that asks.
    fn open(&mut self, role: Role) -> (Opened, Vec<OwnedFd>) {
        self.asks.open(NAME, role).expect("ours to open")
    }

    /// Opens the mailbox to send: the link, and its lane.
    fn open_to_send(&mut self) -> (u32, LaneInfo) {
        match self.open(Role::Send).0 {
            Opened { link, role: OpenedRole::Send { lane }, .. } => (link, lane),
            other => panic!("{other:?}"),
        }
    }

    /// Opens the mailbox to receive, and has the only message in it in hand.
    fn open_with_message_in_hand(&mut self) -> (u32, LaneTicket, u64) {
        self.send();
        let (opened, descriptors) = self.open(Role::Receive);
        let (lane, position) = claim_first(&opened, &descriptors, MESSAGE.len());
        (opened.link, lane, position)
    }

    fn send(&self) {
        self.client.sender(NAME).expect("ours to open").send(MESSAGE).expect("sent");
    }

    /// Makes so many dead letters.
    fn reject(&self, count: usize) {
        let mut receiver = self.client.receiver(NAME).expect("ours to receive");
        for _ in 0..count {
            self.send();
            let delivery = receiver.receive_deadline(patience()).expect("a message");
            delivery.reject().expect("it is in hand");
        }
    }

    /// Has the daemon do a request, and kills it when it has come to so many places, if it is to be: where it has been,
    /// and what has come of the request.
    fn go(&mut self, request: &Request, kill_at: Option<usize>) -> (Vec<AtCall>, Outcome) {
        let pid = self.daemon.status(self.client).pid;
        std::thread::sleep(LIFE.saturating_sub(self.since.elapsed()));
        let stepped = Stepped::take(pid);
        drop(self.ends.take());
        let number = self.asks.tell(request);
        let calls = stepped.calls(kill_at.unwrap_or(usize::MAX));
        match kill_at {
            Some(_) => stepped.kill(),
            None => stepped.let_go(),
        }
        let place = kill_at.map_or(String::new(), |_| place(&calls));
        let answers = self.answers(number, &place);
        if kill_at.is_some() {
            assert_ne!(self.daemon.status(self.client).pid, pid, "{place}: it was killed");
        }
        let outcome = self.outcome(answers, &place);
        (calls, outcome)
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

    fn outcome(&self, mut answers: Vec<(Answer, Vec<Descriptor>)>, place: &str) -> Outcome {
        // Killed when it had answered, and before that was noted, it is answered once more, as before.
        assert!((1..=2).contains(&answers.len()), "{place}: {answers:?}");
        let first = answers.remove(0);
        assert!(answers.iter().all(|again| *again == first), "{place}: {first:?}, {answers:?}");
        let (answer, descriptors) = first;
        let answer = match answer {
            Answer::Created { mailbox_id } => {
                Answer::Created { mailbox_id: mailbox_id - self.first_id }
            }
            Answer::Opened(opened) => {
                Answer::Opened(Opened { mailbox_id: opened.mailbox_id - self.first_id, ..opened })
            }
            other => other,
        };
        let descriptors = descriptors.into_iter().map(|it| (it.name, it.read_only)).collect();
        let status = self.daemon.status(self.client);
        let status = ServerStatus { pid: 0, descriptors: 0, resident_bytes: 0, ..status };
        Outcome { answer, descriptors, mailboxes: self.mailboxes(), status }
    }

    fn mailboxes(&self) -> Vec<MailboxDetail> {
        let listed = self.client.list().expect("a list");
        let details = listed.iter().map(|it| {
            let mut detail = self.client.show(it.name.as_str()).expect("ours to see");
            detail.summary.mailbox_id -= self.first_id;
            // Of answers to calls the mailbox is named by its number.
            let name = it.name.as_str().trim_end_matches(|letter: char| letter.is_ascii_digit());
            detail.summary.name = MailboxName::new(&format!("{name}0")).expect("a name");
            detail
        });
        details.collect()
    }

    /// Whatever it was, the mailbox works; then all goes.
    fn end(self) {
        let Self { daemon, client, asks, .. } = self;
        drop(asks);
        wait_until("the session is over", || daemon.status(client).sessions == 1);
        if client.show(NAME).is_ok() {
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

/// Where a daemon stands that has come so far.
fn place(calls: &[AtCall]) -> String {
    let side = calls.last().map_or("", |at| if at.done { "behind" } else { "before" });
    let call = calls.last().map_or(0, |at| at.call);
    format!("killed {side} system call {call}, place {}", calls.len())
}

/// Kills of each request before it is written into the state, if nobody says otherwise.
const SAMPLE: u64 = 5;

/// The places at which to die: of those before the first write into the state a sample, and all from there on.
fn places(calls: &[AtCall], dice: &mut Dice) -> Vec<usize> {
    let written = calls.iter().position(|at| at.call == nix::libc::SYS_pwrite64);
    let written = written.expect("it is written into the state");
    let sample = std::env::var("STEPS").ok().and_then(|steps| steps.parse().ok());
    let sample = (0..sample.unwrap_or(SAMPLE)).map(|_| 1 + dice.below(written as u64) as usize);
    let early: BTreeSet<usize> = sample.collect();
    early.into_iter().chain(written + 1..=calls.len()).collect()
}

/// Kills the daemon at the places of a request.
fn sweep(what: &str, prepare: Prepare) {
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let round = |kill_at| {
        let mut scene = Scene::new(&daemon, &client);
        let request = prepare(&mut scene);
        let end = scene.go(&request, kill_at);
        scene.end();
        end
    };
    let (calls, expected) = round(None);
    assert!(!matches!(expected.answer, Answer::Refused(_)), "{what}: {:?}", expected.answer);
    let before = Baseline::take(&daemon, &client);
    let places = places(&calls, &mut Dice::new(seed()));
    let mut been = BTreeSet::new();
    for &kill_at in &places {
        let (calls, outcome) = round(Some(kill_at));
        assert_eq!(outcome, expected, "{what}: {}", place(&calls));
        been.extend(calls.last().map(|at| (at.call, at.done)));
    }
    println!("{what}: killed at {} of {} places", places.len(), calls.len());
    let written = (nix::libc::SYS_pwrite64, true);
    assert!(been.contains(&written), "{what}: never killed when all was written");
    before.check(&daemon, &client);
}

#[test]
fn a_create_is_done_once_and_answered() {
    sweep("create", |_| {
        let name = MailboxName::new("new").expect("a name");
        Request::Create { name, attributes: small().attributes(), groups: Vec::new() }
    });
    sweep("register", |_| Request::Register {
        name: Some("us".into()),
        attributes: small().attributes(),
    });
}

#[test]
fn a_delete_is_done_once_and_answered() {
    sweep("delete", |scene| {
        scene.send();
        Request::Delete { name: name(), queued: Queued::Discard }
    });
}

#[test]
fn an_open_is_done_once_and_answered() {
    sweep("open to send", |_| Request::Open { name: name(), role: Role::Send, group: None });
    sweep("open to receive", |scene| {
        scene.send();
        Request::Open { name: name(), role: Role::Receive, group: None }
    });
    sweep("open for answers", |scene| Request::OpenReplies { link: scene.open_to_send().0 });
}

#[test]
fn a_lane_is_added_once_and_the_answer_has_it() {
    sweep("add a lane", |scene| {
        let (link, lane) = scene.open_to_send();
        let capacity_bytes = lane.capacity_bytes;
        Request::AddLane { link, priority: 3, capacity_bytes, replaces: None }
    });
    sweep("go on in a lane", |scene| {
        let (link, lane) = scene.open_to_send();
        let capacity_bytes = 2 * lane.capacity_bytes;
        Request::AddLane { link, priority: 0, capacity_bytes, replaces: Some(lane.ticket) }
    });
}

#[test]
fn a_link_is_closed_once_and_its_message_in_hand_comes_again_once() {
    sweep("close a sender's link", |scene| Request::CloseLink { link: scene.open_to_send().0 });
    sweep("close a receiver's link", |scene| {
        let (link, ..) = scene.open_with_message_in_hand();
        Request::CloseLink { link }
    });
}

/// Has a receiver of a group that drops its oldest messages end with the only one in hand.
fn end_in_group_that_drops(scene: &mut Scene<'_>) -> Request {
    let group = small().group("fast", SlowGroup::DropOldest).expect("a name");
    scene.client.create("prices", &group).expect("a mailbox");
    scene.client.sender("prices").expect("ours to open").send(MESSAGE).expect("sent");
    let mut ends = RawClient::greet(&scene.daemon.socket());
    let (name, group) = (MailboxName::new("prices"), GroupName::new("fast"));
    let (name, group) = (name.expect("a name"), group.ok());
    let opened = ends.ask(&Request::Open { name, role: Role::Receive, group });
    let (Answer::Opened(opened), descriptors) = opened else { panic!("{opened:?}") };
    let _in_hand = claim_first(&opened, &descriptors, MESSAGE.len());
    scene.ends = Some(ends);
    open_as_it_is()
}

/// Changes nothing, and is answered.
fn open_as_it_is() -> Request {
    Request::SetTraffic { name: name(), open: true }
}

#[test]
fn a_session_ends_once_and_what_it_had_in_hand_is_counted_once() {
    sweep("end of a session with a message in hand", |scene| {
        let mut ends = RawClient::greet(&scene.daemon.socket());
        scene.send();
        let (opened, descriptors) = ends.open(NAME, Role::Receive).expect("ours to open");
        let _in_hand = claim_first(&opened, &descriptors, MESSAGE.len());
        scene.ends = Some(ends);
        open_as_it_is()
    });
    sweep("end of a session in a group that drops", end_in_group_that_drops);
}

#[test]
fn a_message_is_rejected_once_and_its_dead_letters_are_moved_once() {
    sweep("reject", |scene| {
        let (link, lane, position) = scene.open_with_message_in_hand();
        Request::Reject { link, lane, position, reason: Reason::Rejected }
    });
    sweep("requeue", |scene| {
        scene.reject(1);
        Request::Requeue { name: name(), number: None }
    });
    sweep("discard", |scene| {
        scene.reject(2);
        Request::Discard { name: name(), number: Some(2) }
    });
}
