//! Atomics that somebody else may change before each look: for the fuzzers, which play that somebody.
//!
//! They are the standard library's, but for a function that a fuzzer sets and that is called before every read, in
//! the reader's own thread. So whatever a peer could do between two loads of the code that ships is done there, and
//! the same input does it again.

use std::cell::RefCell;
use std::sync::atomic::{self, Ordering};

/// What is called before each read.
pub type Hook = Box<dyn FnMut()>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// From now on this is called before each read in this thread, but for those in itself; returns what was called so far.
pub fn before_each_read(hook: Option<Hook>) -> Option<Hook> {
    HOOK.with_borrow_mut(|slot| std::mem::replace(slot, hook))
}

fn before_read() {
    let hook = HOOK.with_borrow_mut(Option::take);
    if let Some(mut hook) = hook {
        hook();
        HOOK.set(Some(hook));
    }
}

macro_rules! hostile {
    ($($name:ident: $value:ty),*) => { $(
        /// An atomic of the standard library that a hook may change before it is read.
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        #[expect(missing_docs, reason = "they are the standard library's")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }
            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }
            pub fn load(&self, order: Ordering) -> $value {
                before_read();
                self.0.load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                before_read();
                self.0.swap(value, order)
            }
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                before_read();
                self.0.fetch_add(value, order)
            }
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                before_read();
                self.0.fetch_sub(value, order)
            }
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                before_read();
                self.0.fetch_or(value, order)
            }
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                before_read();
                self.0.fetch_and(value, order)
            }
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_read();
                self.0.compare_exchange(current, new, success, failure)
            }
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_read();
                self.0.compare_exchange_weak(current, new, success, failure)
            }
        }
    )* };
}

hostile!(AtomicU32: u32, AtomicU64: u64);
