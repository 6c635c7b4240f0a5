//! What a member tries that means to read, forge or rob: system calls on every descriptor and every word
//! that it can reach.

#![expect(unsafe_code, reason = "attacks are system calls that no honest program makes")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::ptr::null_mut;

use libipc::Role;
use libipc::lane::layout::{Limits, cursors_map, doorstep_map, lane_file_bytes, roster_map};
use libipc::protocol::{Opened, Refresh, Request};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use tests::RawClient;

use crate::{Outcome, menace, said};

/// A region as it was handed over.
struct Region {
    name: &'static str,
    file: File,
    len: usize,
}

/// What was tried, and what came of it: `done`, or the error.
type Tried = Vec<(String, String)>;

fn note(tried: &mut Tried, what: String, outcome: io::Result<()>) {
    let outcome = match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(
            || error.to_string(),
            |number| format!("{:?}", nix::errno::Errno::from_raw(number)),
        ),
    };
    tried.push((what, outcome));
}

fn outcome(tried: &Tried) -> Outcome {
    serde_json::to_string(tried).map_err(said)
}

/// A member that may send alone.
pub(crate) fn as_sender(socket: &Path, name: &str) -> Outcome {
    let mut client = RawClient::greet(socket);
    let (opened, descriptors) = client.open(name, Role::Send).map_err(said)?;
    let regions = regions_of_sender(&opened, descriptors)?;
    let mut tried = Tried::new();
    for region in &regions[..2] {
        try_to_write(region, &mut tried);
    }
    for region in &regions {
        try_to_spoil(region, &mut tried);
    }
    // Everything that could show another's messages.
    for role in [Role::Receive, Role::Observe] {
        let got = client.open(name, role).map(drop).map_err(|error| io::Error::other(said(error)));
        note(&mut tried, format!("open to {role}"), got);
    }
    let fetch = Request::Fetch(Refresh { link: opened.link, after: 0 });
    let (_, descriptors) = client.ask(&fetch);
    let none = if descriptors.is_empty() { Err(io::Error::other("nothing")) } else { Ok(()) };
    note(&mut tried, "fetch the lanes".into(), none);
    note(&mut tried, "say to be root".into(), forge_credentials(socket));
    outcome(&tried)
}

/// A member that may receive alone.
pub(crate) fn as_receiver(socket: &Path, name: &str) -> Outcome {
    let mut client = RawClient::greet(socket);
    let (opened, descriptors) = client.open(name, Role::Receive).map_err(said)?;
    let regions = regions_of_receiver(&opened, descriptors)?;
    let mut tried = Tried::new();
    let read_only = |region: &&Region| ["roster", "lane"].contains(&region.name);
    for region in regions.iter().filter(read_only) {
        try_to_write(region, &mut tried);
    }
    for region in &regions {
        try_to_spoil(region, &mut tried);
    }
    let got =
        client.open(name, Role::Send).map(drop).map_err(|error| io::Error::other(said(error)));
    note(&mut tried, "open to send".into(), got);
    outcome(&tried)
}

fn limits(opened: &Opened) -> Limits {
    opened.attributes.limits(opened.groups.len())
}

fn regions_of_sender(opened: &Opened, descriptors: Vec<OwnedFd>) -> Result<Vec<Region>, String> {
    let limits = limits(opened);
    let lens = [
        ("roster", roster_map(limits).len),
        ("cursors", cursors_map(limits).len),
        ("lane", lane_file_bytes(opened.attributes.capacity_bytes) as usize),
        ("doorstep", doorstep_map(limits).len),
    ];
    regions(&lens, descriptors)
}

fn regions_of_receiver(opened: &Opened, descriptors: Vec<OwnedFd>) -> Result<Vec<Region>, String> {
    let limits = limits(opened);
    let mut lens = vec![("roster", roster_map(limits).len), ("cursors", cursors_map(limits).len)];
    lens.extend(opened.fetched.doorsteps.iter().map(|_| ("doorstep", doorstep_map(limits).len)));
    let lane = |lane: &libipc::protocol::LaneInfo| lane_file_bytes(lane.capacity_bytes) as usize;
    lens.extend(opened.fetched.lanes.iter().map(|info| ("lane", lane(info))));
    regions(&lens, descriptors)
}

fn regions(lens: &[(&'static str, usize)], fds: Vec<OwnedFd>) -> Result<Vec<Region>, String> {
    if lens.len() != fds.len() {
        return Err(format!("{} descriptors came, {} were expected", fds.len(), lens.len()));
    }
    let region = |(&(name, len), fd)| Region { name, file: File::from(fd), len };
    Ok(lens.iter().zip(fds).map(region).collect())
}

/// All ways to write into a region that was handed over to be read.
fn try_to_write(region: &Region, tried: &mut Tried) {
    let Region { name, file, len } = region;
    let writable = map(file, *len, libc::PROT_READ | libc::PROT_WRITE);
    note(tried, format!("map the {name} writable"), writable.map(drop));
    let protected = map(file, *len, libc::PROT_READ).and_then(|mapping| mapping.make_writable());
    note(tried, format!("make the mapped {name} writable"), protected);
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = File::options().read(true).write(true).open(own);
    note(tried, format!("reopen the {name}"), again.map(drop));
    note(tried, format!("write into the {name}"), file.write_all_at(&[0xff; 16], 0));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punched = fallocate(file, hole, 0, 4096).map_err(Into::into);
    note(tried, format!("punch a hole into the {name}"), punched);
}

/// All ways to take a region from under its other members, or to let others in: not even whoever may write
/// into it may do that.
fn try_to_spoil(region: &Region, tried: &mut Tried) {
    let Region { name, file, len } = region;
    note(tried, format!("shrink the {name}"), file.set_len(0));
    note(tried, format!("grow the {name}"), file.set_len(*len as u64 + 4096));
    let seal = fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
    note(tried, format!("seal the {name}"), seal.map(drop).map_err(Into::into));
    let mode = std::fs::Permissions::from_mode(0o777);
    note(tried, format!("open the {name} to all"), file.set_permissions(mode));
}

/// Says to be root in a message's credentials.
fn forge_credentials(socket: &Path) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};
    let socket = libipc::sys::socket::connect_to(socket)?;
    let root = UnixCredentials::from(libc::ucred { pid: 1, uid: 0, gid: 0 });
    let (parts, control) = ([io::IoSlice::new(b"root")], [ControlMessage::ScmCredentials(&root)]);
    sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Wakes and carries off whoever sleeps on any word that a sender or a receiver can reach, again and again,
/// until the next command comes. One that `leaves` has closed its link by then.
pub(crate) fn rob(
    socket: &Path,
    role: Role,
    name: &str,
    group: Option<&str>,
    leaves: bool,
) -> Outcome {
    let mut client = RawClient::greet(socket);
    let (opened, descriptors) = client.open_in(name, role, group).map_err(said)?;
    let regions = if role == Role::Send { regions_of_sender } else { regions_of_receiver };
    let regions = regions(&opened, descriptors)?;
    let mappings: Result<Vec<_>, _> =
        regions.iter().map(|region| map(&region.file, region.len, libc::PROT_READ)).collect();
    let mappings = mappings.map_err(said)?;
    let den = map_anonymous().map_err(said)?;
    if leaves {
        client.ask(&Request::CloseLink { link: opened.link });
    }
    menace::until_told(|| {
        let words = |mapping: &Mapped| (0..mapping.len).step_by(4);
        let carried_off = mappings.iter().map(|mapping| {
            words(mapping).map(|offset| carry_off(mapping, offset, &den)).sum::<u64>()
        });
        Ok(carried_off.sum())
    })
}

/// One word's sleepers are moved to a word of our own, where nobody wakes them; then whoever is left is
/// woken for nothing. Returns how many were moved.
fn carry_off(mapping: &Mapped, offset: usize, den: &Mapped) -> u64 {
    let word = mapping.at(offset).cast::<u32>();
    let (none, all) = (0, i32::MAX);
    let target = den.at(0);
    // SAFETY: both addresses are mapped (offset < len); the kernel only looks them up.
    let moved =
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_REQUEUE, none, all, target, 0) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
    u64::try_from(moved).unwrap_or_default()
}

/// A mapping that ends with this value.
struct Mapped {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    fn at(&self, offset: usize) -> *mut u8 {
        self.start.cast::<u8>().wrapping_add(offset)
    }

    fn make_writable(&self) -> io::Result<()> {
        // SAFETY: the range is ours, and nothing in this process refers to it.
        let result =
            unsafe { libc::mprotect(self.start, self.len, libc::PROT_READ | libc::PROT_WRITE) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range was mapped for this value, and nothing refers to it any more.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

fn map(file: &File, len: usize, protection: libc::c_int) -> io::Result<Mapped> {
    // SAFETY: the kernel chooses the place, so no memory that is in use is replaced.
    let start =
        unsafe { libc::mmap(null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(Mapped { start, len })
    }
}

fn map_anonymous() -> io::Result<Mapped> {
    let (len, flags) = (4096, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: as in `map`.
    let start = unsafe { libc::mmap(null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(Mapped { start, len })
    }
}

/// Runs something in a child of fork; returns what it said, joined by `|`.
pub(crate) fn in_child_of_fork(run: impl FnOnce() -> Vec<String>) -> Outcome {
    let (read, write) = nix::unistd::pipe().map_err(said)?;
    // SAFETY: this program has one thread, so nothing that the child needs can be locked by another.
    match unsafe { nix::unistd::fork() }.map_err(said)? {
        nix::unistd::ForkResult::Child => {
            let text = run().join("|");
            let written = File::from(write).write_all(text.as_bytes());
            std::process::exit(i32::from(written.is_err()));
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(write);
            let mut text = String::new();
            File::from(read).read_to_string(&mut text).map_err(said)?;
            let status = nix::sys::wait::waitpid(child, None).map_err(said)?;
            match status {
                nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(text),
                other => Err(format!("the child of fork ended with {other:?}")),
            }
        }
    }
}
