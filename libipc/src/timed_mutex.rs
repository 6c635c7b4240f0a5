//! A lock for which nobody waits longer than it likes: `std`'s mutex knows no deadline.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A value that one thread at a time works with, for as long as that takes.
#[derive(Debug, Default)]
pub(crate) struct TimedMutex<T> {
    taken: Mutex<bool>,
    freed: Condvar,
    /// Locked by nobody but who has `taken` it.
    value: Mutex<T>,
}

impl<T> TimedMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { taken: Mutex::new(false), freed: Condvar::new(), value: Mutex::new(value) }
    }

    /// Works with the value, alone. `None`: others had it until the deadline.
    pub(crate) fn with<R>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = match deadline {
                None => self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.freed.wait_timeout(taken, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *taken = true;
        drop(taken);
        // Also if the work panics.
        let _free = Free(self);
        Some(work(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Frees the lock when it goes.
struct Free<'a, T>(&'a TimedMutex<T>);

impl<T> Drop for Free<'_, T> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn nobody_waits_for_it_beyond_the_deadline_and_all_get_it_in_the_end() {
        let lock = TimedMutex::new(0);
        let (has_it, told) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        std::thread::scope(|scope| {
            let held = &lock;
            scope.spawn(move || {
                held.with(None, |value| {
                    has_it.send(()).unwrap();
                    goes_on.recv().unwrap();
                    *value += 1;
                })
            });
            told.recv().unwrap();
            let soon = Instant::now() + Duration::from_millis(5);
            assert_eq!(lock.with(Some(soon), |value| *value += 1), None);
            assert!(Instant::now() >= soon);
            let late = scope.spawn(|| lock.with(None, |value| *value += 1));
            go_on.send(()).unwrap();
            assert_eq!(late.join().unwrap(), Some(()));
        });
        assert_eq!(lock.with(Some(Instant::now()), |value| *value), Some(2));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lock.with(None, |_| panic!("in the middle of it"))
        }));
        assert!(panicked.is_err());
        assert_eq!(lock.with(Some(Instant::now()), |value| *value), Some(2));
    }
}
