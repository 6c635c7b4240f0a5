//! The one place that says which atomics the shared-memory protocols use: the standard library's,
//! or loom's where the models run. Everything in `lane/` imports from here.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor that this thread is waiting in a loop.
#[inline]
pub fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Words that keep the words of different writers apart; nobody reads or writes them.
#[cfg(not(loom))]
#[repr(transparent)]
pub struct Padding<const N: usize>([AtomicU64; N]);

/// Words that keep the words of different writers apart: none where nothing is mapped.
#[cfg(loom)]
pub struct Padding<const N: usize>;

impl<const N: usize> Default for Padding<N> {
    fn default() -> Self {
        #[cfg(not(loom))]
        return Self(std::array::from_fn(|_| AtomicU64::new(0)));
        #[cfg(loom)]
        return Self;
    }
}

impl<const N: usize> std::fmt::Debug for Padding<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{N} words")
    }
}
