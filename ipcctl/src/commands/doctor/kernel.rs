//! What the kernel has, and what its limits are.

use std::fs;

use libipc::sys::{futex, process};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt::PeerPidfd,
};
use nix::sys::utsname::uname;

use super::Check;

/// Oldest kernel that has all we need.
const KERNEL_MIN: (u32, u32) = (5, 16);
/// Descriptors that a client of some mailboxes needs with room to spare.
const DESCRIPTORS_WANTED: u64 = 1024;
/// Mappings that a receiver of a full mailbox (1024 lanes, each mapped in three pieces) needs.
const MAPPINGS_WANTED: u64 = 65_530;

/// The checks of kernel and limits.
pub(super) fn checks() -> Vec<Check> {
    vec![
        version(),
        Check::present(
            "futex_waitv",
            futex::has_waitv(),
            Check::fail,
            "use Linux 5.16 or newer, or let the sandbox allow the call",
        ),
        Check::present(
            "memfd seals",
            memfd_create(c"ipcctl-doctor", sealed()).is_ok(),
            Check::fail,
            "use a kernel with CONFIG_MEMFD_CREATE, or let the sandbox allow memfd_create",
        ),
        Check::present(
            "memfd noexec",
            memfd_create(c"ipcctl-doctor", no_exec()).is_ok(),
            Check::warn,
            "Linux 6.3 has it; without it regions could be executed by those who map them",
        ),
        Check::present(
            "membarrier",
            futex::barrier_register(),
            Check::warn,
            "let the sandbox allow membarrier: without it each message pays for a fence",
        ),
        Check::present(
            "pidfd",
            process::pidfd_open(std::process::id()).is_ok(),
            Check::fail,
            "let the sandbox allow pidfd_open: a death is told by it",
        ),
        Check::present(
            "SO_PEERPIDFD",
            has_peer_pidfd(),
            Check::warn,
            "Linux 6.5 has it; without it ipcd finds its clients by number, which is a little less sure",
        ),
        descriptors(),
        overcommit(),
        mappings(),
    ]
}

fn version() -> Check {
    let release = uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_else(|error| error.to_string());
    let found = format!("Linux {release}");
    if at_least(&release, KERNEL_MIN) {
        Check::ok("kernel", found)
    } else {
        let (major, minor) = KERNEL_MIN;
        Check::fail("kernel", found, format!("use Linux {major}.{minor} or newer"))
    }
}

/// Whether a release such as `6.1.0-13-amd64` is at least this version.
fn at_least(release: &str, min: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= min
}

fn sealed() -> MFdFlags {
    MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING
}

fn no_exec() -> MFdFlags {
    sealed() | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)
}

fn has_peer_pidfd() -> bool {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .is_ok_and(|(one, _other)| getsockopt(&one, PeerPidfd).is_ok())
}

fn descriptors() -> Check {
    let name = "descriptors";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let found = format!("{soft} may be open, up to {hard}");
            if soft >= DESCRIPTORS_WANTED {
                return Check::ok(name, found);
            }
            Check::warn(name, found, format!("ulimit -n {}", DESCRIPTORS_WANTED.min(hard)))
        }
        Err(error) => Check::warn(name, error.to_string(), "let the sandbox allow getrlimit"),
    }
}

fn overcommit() -> Check {
    let name = "memory overcommit";
    match setting("/proc/sys/vm/overcommit_memory") {
        Some(2) => Check::warn(
            name,
            "strict (vm.overcommit_memory = 2)",
            "large lanes count in full: raise vm.overcommit_ratio, or create mailboxes with a small --capacity",
        ),
        Some(_) => Check::ok(name, "lanes take memory only as they fill"),
        None => Check::warn(name, "cannot be read", "mount /proc"),
    }
}

fn mappings() -> Check {
    let name = "vm.max_map_count";
    match setting("/proc/sys/vm/max_map_count") {
        Some(count) if count >= MAPPINGS_WANTED => Check::ok(name, count.to_string()),
        Some(count) => Check::warn(
            name,
            count.to_string(),
            format!("sysctl vm.max_map_count={MAPPINGS_WANTED}: a receiver maps each lane"),
        ),
        None => Check::warn(name, "cannot be read", "mount /proc"),
    }
}

fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_versions() {
        for new in ["5.16.0", "5.16-rc1", "6.1.0-13-amd64", "10.0"] {
            assert!(at_least(new, KERNEL_MIN), "{new}");
        }
        for old in ["5.15.167", "4.19.0", "3.10", "", "rubbish"] {
            assert!(!at_least(old, KERNEL_MIN), "{old}");
        }
    }
}
