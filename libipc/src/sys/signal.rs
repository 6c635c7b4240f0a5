//! Signals to this very process, threads that take none, and a signal that does nothing but interrupt.

#![expect(unsafe_code, reason = "a signal with a value, for which nix has no call, and a handler")]

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};

/// Whether there is such a signal.
///
/// # Errors
/// EINVAL.
pub fn check(signal: i32) -> io::Result<()> {
    if (1..=libc::SIGRTMAX()).contains(&signal) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// Sends a signal with a value to this process. False if the kernel has no place for it now.
#[must_use]
pub fn queue(signal: i32, value: usize) -> bool {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
    let us = std::process::id().cast_signed();
    // SAFETY: the call takes numbers only: nobody follows the value as a pointer but whoever gave it as one.
    let result = unsafe { libc::sigqueue(us, signal, value) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}

/// Has a signal do nothing from now on but interrupt whatever the thread that gets it waits for in the kernel.
///
/// # Errors
/// What the kernel said.
pub fn only_interrupts(signal: Signal) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler touches nothing, so it may run at any moment.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Runs something (that starts a thread, say) with all signals blocked: no handler of the program runs on a
/// thread that the program does not know.
pub fn without_signals<T>(run: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = run();
    if let Ok(before) = before {
        // It was this thread's mask a moment ago.
        let _ = before.thread_set_mask();
    }
    result
}
