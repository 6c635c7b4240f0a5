//! The one place that says which atomics the shared-memory protocols use: the standard library's,
//! or loom's where the models run, or such as a fuzzer can change under our eyes. Everything in `lane/` imports
//! from here.

#[cfg(fuzzing)]
pub mod hostile;

#[cfg(fuzzing)]
pub use hostile::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU8, Ordering, fence};
#[cfg(not(any(loom, fuzzing)))]
pub use std::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor that this thread is waiting in a loop.
#[inline]
pub fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// A Release store to a word on which others compare-and-swap.
///
/// loom lets a plain store be overtaken by a compare-and-swap that came before it, which neither the
/// memory model nor any machine does (what a read-modify-write stores follows at once on what it read);
/// there the store is a swap.
#[inline]
pub fn overwrite<W: Overwrite>(word: &W, value: W::Value) {
    word.overwrite(value);
}

/// The atomics that [`overwrite`] takes.
pub trait Overwrite {
    /// What is stored.
    type Value;
    /// See [`overwrite`].
    fn overwrite(&self, value: Self::Value);
}

macro_rules! overwrite {
    ($($word:ty: $value:ty),*) => { $(
        impl Overwrite for $word {
            type Value = $value;
            #[inline]
            fn overwrite(&self, value: $value) {
                #[cfg(not(loom))]
                self.store(value, Ordering::Release);
                #[cfg(loom)]
                self.swap(value, Ordering::AcqRel);
            }
        }
    )* };
}

overwrite!(AtomicU32: u32, AtomicU64: u64);

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
