//! Why regions are sealed memfds and not the named segments of the `shared_memory` crate
//! (docs/decisions/0002): what goes wrong with a named segment, shown, and how a region refuses it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    unsafe_code,
    reason = "reads a segment of the shared_memory crate, which hands out a raw pointer"
)]

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use libipc::sys::mapping::{Access, MapError, Mapping};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::ftruncate;
use shared_memory::ShmemConf;

const LEN: usize = 64 << 10;
const VICTIM_OF: &str = "SHARED_MEMORY_EVIDENCE_VICTIM_OF";

/// A segment's name, and the file by which every local user can reach it; removed at the end.
struct Name(String);

impl Name {
    fn new(purpose: &str) -> Self {
        Self(format!("ipcd-evidence-{purpose}-{}", std::process::id()))
    }

    fn file(&self) -> PathBuf {
        PathBuf::from("/dev/shm").join(&self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.file());
    }
}

#[test]
fn a_squatted_name_is_opened_as_it_is() {
    let name = Name::new("squatted");
    // Somebody was faster: a segment of his making, of his size, open to all, lies under the name.
    File::create_new(name.file()).unwrap().set_len(4096).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(name.file(), mode).unwrap();

    let opened = ShmemConf::new().os_id(&name.0).size(LEN).open().expect("nobody objects");
    assert_eq!(
        opened.len(),
        4096,
        "neither size nor owner nor mode is compared with what was asked"
    );
    let error = ShmemConf::new().os_id(&name.0).size(LEN).create().err();
    assert!(error.is_some(), "and the rightful user can no longer create it");
}

#[test]
fn a_truncated_segment_kills_its_users_with_sigbus_and_stays_behind() {
    // This very test again, as a child process: there it is the victim.
    if let Ok(name) = std::env::var(VICTIM_OF) {
        read_a_segment_that_shrinks(&name);
    }
    let name = Name::new("truncated");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_truncated_segment_kills_its_users_with_sigbus_and_stays_behind"])
        .env(VICTIM_OF, &name.0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    assert!(name.file().exists(), "the segment of a killed creator is never cleaned up");
}

fn read_a_segment_that_shrinks(name: &str) -> ! {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    let segment = ShmemConf::new().os_id(name).size(LEN).create().unwrap();
    // Whoever may open the name may truncate it; nothing is sealed.
    let holder = File::options().write(true).open(PathBuf::from("/dev/shm").join(name)).unwrap();
    holder.set_len(0).unwrap();
    // SAFETY: the pointer is that of a mapping of LEN bytes, live as long as `segment`. That the access
    // raises SIGBUS all the same is what the parent waits for.
    let byte = unsafe { segment.as_ptr().read_volatile() };
    panic!("read {byte} from a page that is gone");
}

fn memfd(len: usize, seals: SealFlag) -> std::os::fd::OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(c"evidence", flags).unwrap();
    ftruncate(&fd, len as i64).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

#[test]
fn a_region_that_could_shrink_is_not_mapped() {
    for seals in [SealFlag::empty(), SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW] {
        let refused = Mapping::map(memfd(LEN, seals), LEN, Access::ReadWrite);
        assert!(matches!(refused, Err(MapError::Unsealed)), "{seals:?}: {refused:?}");
    }
}

#[test]
fn a_region_of_another_size_than_its_layout_is_not_mapped() {
    for len in [0, 4096, LEN - 4096, LEN + 4096] {
        let refused = Mapping::map(memfd(len, sealed()), LEN, Access::ReadOnly);
        let Err(MapError::Size { len: found, expected }) = refused else {
            panic!("{len} bytes: {refused:?}");
        };
        assert_eq!((found, expected), (len as u64, LEN as u64));
    }
}

#[test]
fn a_region_can_neither_shrink_nor_grow_nor_be_unsealed() {
    let fd = memfd(LEN, sealed());
    Mapping::map(&fd, LEN, Access::ReadWrite).unwrap();
    for len in [0, LEN - 1, LEN + 1] {
        assert_eq!(ftruncate(&fd, len as i64), Err(nix::Error::EPERM), "to {len} bytes");
    }
    let more = fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
    assert_eq!(more, Err(nix::Error::EPERM), "the set of seals is sealed itself");
}
