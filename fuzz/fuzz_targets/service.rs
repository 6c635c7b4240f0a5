//! Requests of several sessions, well-formed ones and any bytes, against the daemon's service with real regions, in
//! which the members write what they like meanwhile.
//!
//! After each request the registry's invariants hold, every mailbox that is in use has its regions and no other has any, and the answer fits into a message
//! and comes out of it as it was. At the end everything is given back, descriptors as well.
#![no_main]

#[path = "shared/words.rs"]
mod words;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use arbitrary::Arbitrary;
use ipcd::registry::Registry;
use ipcd::registry::link::SessionId;
use ipcd::registry::permission::Caller;
use ipcd::registry::quota::Quotas;
use ipcd::service::{Asker, Reply, Service};
use libfuzzer_sys::fuzz_target;
use libipc::lane::layout::SlotState;
use libipc::lane::position::Position;
use libipc::protocol::frame::HEADER_BYTES;
use libipc::protocol::{
    Answer, Buffering, DirectAddress, Group, Identity, LaneTicket, MailboxAttributes, MailboxName,
    Owner, PROTOCOL_VERSION, Queued, Receivers, Refresh, Refusal, Request, Role, SlowGroup, Usage,
    decode, encode,
};
use libipc::sync::hostile::before_each_read;
use nix::sys::uio::pwrite;
use words::Word;

const LIMITS: Usage = Usage {
    mailboxes: 4,
    lanes: 8,
    sessions: 4,
    links: 12,
    bytes: 8 << 20,
    dead_letters: 4,
    descriptors: 32,
};
const SESSIONS: u8 = 5;
const STEPS_MAX: usize = 60;
/// Descriptors that members remember.
const KEPT_MAX: usize = 40;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Lanes begin just before the end of what positions can count.
    near_the_wrap: bool,
    steps: Vec<Step>,
    /// What is written while requests are served: after so many reads.
    meanwhile: Vec<(u8, Scribble)>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    session: u8,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Begin {
        uid: u8,
        barrier: bool,
    },
    End,
    Scribble(Scribble),
    /// Any bytes as the body of a message.
    Bytes(Vec<u8>),
    Create {
        name: u8,
        kind: u8,
        mode: u16,
    },
    Open {
        name: u8,
        role: u8,
        group: Option<u8>,
    },
    CloseLink {
        link: u8,
    },
    Fetch {
        link: u8,
        after: u8,
    },
    LaneDrained {
        link: u8,
        lane: u8,
        generation: u8,
    },
    SetTraffic {
        name: u8,
        open: bool,
    },
    Delete {
        name: u8,
        drain: bool,
    },
    List {
        after: Option<u8>,
    },
    Show {
        name: u8,
        skip: u8,
    },
    Status,
    AddLane {
        link: u8,
        priority: u8,
        size: u8,
        replaces: Option<(u8, u8)>,
    },
    Drained {
        link: u8,
    },
    DropOldest {
        link: u8,
        lane: u8,
        group: u8,
        from: Word,
        through: Word,
        messages: u8,
    },
    Register {
        name: Option<u8>,
    },
    OpenDirect {
        pid: u8,
    },
    Find {
        pid: u8,
    },
    OpenReplies {
        link: u8,
    },
    OpenReply {
        link: u8,
        lane: u8,
        generation: u8,
    },
}

/// A word of a region that somebody has a descriptor of.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Scribble {
    descriptor: u8,
    word: u16,
    value: Word,
}

/// The descriptors that members were given, and where lanes begin.
type Given = Rc<RefCell<VecDeque<Rc<OwnedFd>>>>;

impl Scribble {
    fn write(self, given: &Given, first: Position) {
        let given = given.borrow();
        let Some(fd) = given.get(usize::from(self.descriptor) % given.len().max(1)) else { return };
        // A lane's header, the words of the cursors, the first records.
        let offset = i64::from(self.word % 1024) * 8;
        // Who got it to read cannot write it; no member can make a region longer.
        let _ = pwrite(&**fd, &self.value.to_word(first).to_ne_bytes(), offset);
    }
}

struct World {
    service: Service,
    there: [Option<(Identity, bool)>; SESSIONS as usize],
    given: Given,
    first: Position,
}

fuzz_target!(|input: Input| {
    let lowest = lowest_free_descriptor();
    let first = Position::new(if input.near_the_wrap { (1 << 48) - 3 } else { 0 });
    let registry = Registry::new(Quotas::new(LIMITS, HashMap::new()), first.get());
    let given = Given::default();
    let (there, service) = ([None; SESSIONS as usize], Service::new(registry, true));
    let mut world = World { service, there, given: given.clone(), first };
    let mut meanwhile: VecDeque<_> = input.meanwhile.into();
    before_each_read(Some(Box::new(move || match meanwhile.front_mut() {
        Some((0, scribble)) => {
            scribble.write(&given, first);
            meanwhile.pop_front();
        }
        Some((reads, _)) => *reads -= 1,
        None => {}
    })));
    for step in input.steps.iter().take(STEPS_MAX) {
        world.take(step);
        world.check(step);
    }
    for session in 0..SESSIONS {
        world.service.end_session(SessionId(session.into()));
        world.service.settle();
    }
    world.service.end_all();
    before_each_read(None);
    let left = world.service.registry.quotas().users().count();
    assert_eq!(left, 0, "everything is given back");
    drop(world);
    assert_eq!(lowest_free_descriptor(), lowest, "a descriptor is left open");
});

fn lowest_free_descriptor() -> i32 {
    let copy = nix::unistd::dup(std::io::stderr()).expect("a descriptor");
    copy.as_raw_fd()
}

impl World {
    fn take(&mut self, step: &Step) {
        let number = step.session % SESSIONS;
        let session = SessionId(number.into());
        let place = &mut self.there[usize::from(number)];
        match (&step.what, *place) {
            (What::Scribble(scribble), _) => scribble.write(&self.given, self.first),
            (&What::Begin { uid, barrier }, None) => {
                let pid = u32::from(number % 4);
                let identity = Identity { pid, uid: u32::from(uid % 3), gid: 7 };
                if self.service.registry.begin_session(session, identity).is_ok() {
                    *place = Some((identity, barrier));
                }
            }
            (What::Begin { .. }, Some(_)) | (_, None) => {}
            (What::End, Some(_)) => {
                *place = None;
                self.service.end_session(session);
                self.service.settle();
            }
            (what, Some((identity, barrier))) => {
                let Some(request) = self.request(what) else { return };
                let caller = Caller { identity, groups: &[8] };
                let answer = self.service.handle(&Asker { session, caller, barrier }, request);
                self.service.settle();
                self.keep(answer);
            }
        }
    }

    /// An answer goes through its message; its descriptors are kept.
    fn keep(&mut self, answer: Result<Reply, Refusal>) {
        let Reply { answer, descriptors } =
            answer.unwrap_or_else(|refusal| Answer::Refused(refusal).into());
        let bytes = encode(7, descriptors.len(), &answer).expect("an answer fits into a message");
        let (_, came) = decode::<Answer>(&bytes, descriptors.len()).expect("we have written it");
        assert_eq!(came, answer);
        let mut given = self.given.borrow_mut();
        given.extend(descriptors.iter().filter_map(|handed| handed.fd().cloned()));
        while given.len() > KEPT_MAX {
            given.pop_front();
        }
    }

    fn check(&self, step: &Step) {
        let registry = &self.service.registry;
        if let Err(broken) = registry.check_invariants() {
            panic!("after {step:?}: {broken}");
        }
        let root = Caller { identity: Identity { pid: 1, uid: 0, gid: 0 }, groups: &[] };
        for mailbox in registry.visible(&root, None) {
            let regions = self.service.regions(mailbox.id);
            assert_eq!(regions.is_some(), !mailbox.is_idle(), "{}, after {step:?}", mailbox.name);
            let Some(regions) = regions else { continue };
            for slot in mailbox.lanes().iter().filter(|slot| slot.state != SlotState::Free) {
                let there = regions.lane(slot.info.ticket.index).is_some();
                assert!(there, "a lane has its region, after {step:?}");
            }
        }
    }

    fn request(&self, what: &What) -> Option<Request> {
        let lane = |index: u8, generation: u8| LaneTicket {
            index: u16::from(index % 6),
            generation: u32::from(generation % 4),
        };
        let pid = |pid: u8| match pid {
            0..128 => DirectAddress::Pid(u32::from(pid % 5)),
            _ => DirectAddress::Name(format!("p{}", pid % 3)),
        };
        Some(match *what {
            What::Begin { .. } | What::End | What::Scribble(_) => return None,
            What::Bytes(ref bytes) => return framed(bytes),
            What::Create { name: number, kind: which, mode } => {
                let (attributes, groups) = kind(which, mode);
                Request::Create { name: name(number), attributes, groups }
            }
            What::Open { name: number, role, group } => {
                let role = [Role::Send, Role::Receive, Role::Observe][usize::from(role % 3)];
                let group = group.map(|group| name(4 + group % 3));
                Request::Open { name: name(number), role, group }
            }
            What::CloseLink { link } => Request::CloseLink { link: link.into() },
            What::Fetch { link, after } => {
                Request::Fetch(Refresh { link: link.into(), after: after.into() })
            }
            What::LaneDrained { link, lane: index, generation } => {
                Request::LaneDrained { link: link.into(), lane: lane(index, generation) }
            }
            What::SetTraffic { name: number, open } => {
                Request::SetTraffic { name: name(number), open }
            }
            What::Delete { name: number, drain } => {
                let queued = if drain { Queued::Drain } else { Queued::Discard };
                Request::Delete { name: name(number), queued }
            }
            What::List { after } => Request::List { after: after.map(name) },
            What::Show { name: number, skip } => {
                Request::Show { name: name(number), skip: skip.into() }
            }
            What::Status => Request::Status,
            What::AddLane { link, priority, size, replaces } => Request::AddLane {
                link: link.into(),
                priority: priority % 34,
                capacity_bytes: 2048 << (size % 8),
                replaces: replaces.map(|(index, generation)| lane(index, generation)),
            },
            What::Drained { link } => Request::Drained { link: link.into() },
            What::DropOldest { link, lane: index, group, from, through, messages } => {
                Request::DropOldest {
                    link: link.into(),
                    lane: lane(index, 1),
                    group: group % 3,
                    from: from.to_word(self.first),
                    through: through.to_word(self.first),
                    messages: messages.into(),
                }
            }
            What::Register { name: number } => {
                let (attributes, _) = kind(0, 0o622);
                Request::Register { name: number.map(|it| format!("p{}", it % 3)), attributes }
            }
            What::OpenDirect { pid: whose } => Request::OpenDirect { to: pid(whose) },
            What::Find { pid: whose } => Request::Find { of: pid(whose) },
            What::OpenReplies { link } => Request::OpenReplies { link: link.into() },
            What::OpenReply { link, lane: index, generation } => {
                Request::OpenReply { link: link.into(), lane: lane(index, generation) }
            }
        })
    }
}

fn name(number: u8) -> MailboxName {
    let names = ["m0", "m1", "m2", "m3", "fast", "slow", "other"];
    MailboxName::new(names[usize::from(number) % names.len()]).expect("a name")
}

fn kind(kind: u8, mode: u16) -> (MailboxAttributes, Vec<Group>) {
    let base = MailboxAttributes {
        capacity_bytes: 4096,
        mode: if mode > 0o777 { 0o666 } else { mode },
        receivers_max: 2,
        lanes_max: 4,
        ..MailboxAttributes::default()
    };
    let groups = vec![
        Group { name: name(4), slow: SlowGroup::Block },
        Group { name: name(5), slow: SlowGroup::DropOldest },
    ];
    match kind % 6 {
        0 => (base, Vec::new()),
        1 => (MailboxAttributes { buffering: Buffering::Unbounded, ..base }, Vec::new()),
        2 => (base, groups),
        3 => (MailboxAttributes { owner: Owner::Process, ..base }, Vec::new()),
        4 => (MailboxAttributes { receivers: Receivers::Exclusive, ..base }, Vec::new()),
        _ => {
            let receivers = Receivers::Single;
            (MailboxAttributes { receivers, receivers_max: 1, ..base }, Vec::new())
        }
    }
}

/// The request that bytes are behind a header that is as it should be, if they are one.
fn framed(body: &[u8]) -> Option<Request> {
    let mut bytes = b"ipc1".to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(body);
    decode::<Request>(&bytes, 0).ok().map(|(_, request)| request)
}
