//! A breakpoint that the processor keeps: nothing of the program is changed for it, and no other thread meets it.

use nix::sys::ptrace;
use nix::unistd::Pid;

/// Has a stopped process that we trace stop again before the instruction at an address, or nowhere.
///
/// # Panics
/// If it is no such process, or the processor has no breakpoints.
#[cfg(target_arch = "x86_64")]
pub fn set(pid: Pid, address: Option<u64>) {
    /// The first breakpoint is on, where an instruction begins.
    const ON: i64 = 1;
    let registers = std::mem::offset_of!(libc::user, u_debugreg);
    let set = |register: usize, value: i64| {
        let at = (registers + 8 * register) as ptrace::AddressType;
        ptrace::write_user(pid, at, value).expect("a processor with breakpoints");
    };
    if let Some(address) = address {
        set(0, address.cast_signed());
    }
    set(7, if address.is_some() { ON } else { 0 });
}

/// Does nothing: whoever needs it says before that it is skipped.
#[cfg(not(target_arch = "x86_64"))]
pub fn set(_: Pid, _: Option<u64>) {}
