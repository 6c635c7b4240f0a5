//! Regions in this process's address space, and typed views of them.
//!
//! A [`Mapping`] owns address space. A [`Shared`] is a reference-counted view of the words in it:
//! only types made of atomics can be viewed, because another process may write them at any moment.
//!
//! **Invariant:** a region is mapped only after its seals and its size were checked: nothing can
//! shrink it under us, so an access inside the mapping never raises SIGBUS for lack of a file.

#![expect(unsafe_code, reason = "maps memory and makes typed views of it; nothing else may")]

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Types that may be viewed in memory that other processes write.
///
/// # Safety
/// The type consists of atomics and padding alone, is `repr(C)` (or an atomic itself), and every bit
/// pattern is a value of it.
pub unsafe trait SharedWords {}

macro_rules! shared_words {
    ($($type:ty),*) => { $(
        // SAFETY: `lane::layout` declares it repr(C) with atomic fields only (or it is an atomic),
        // and an atomic integer has no invalid bit pattern.
        unsafe impl SharedWords for $type {}
    )* };
}

shared_words!(
    crate::sync::AtomicU8,
    crate::sync::AtomicU32,
    crate::sync::AtomicU64,
    crate::lane::layout::RosterHeader,
    crate::lane::layout::ReceiverEntry,
    crate::lane::layout::LaneEntry,
    crate::lane::layout::CursorsHeader,
    crate::lane::layout::SlotCell,
    crate::lane::layout::ClaimCell,
    crate::lane::layout::DoorstepHeader,
    crate::lane::layout::LaneHeader
);

#[cfg(not(loom))]
pub use mapped::{Access, MapError, Mapping, view, view_slice};

#[cfg(not(loom))]
mod mapped {
    use std::mem::ManuallyDrop;
    use std::os::fd::{AsFd, AsRawFd};
    use std::ptr::NonNull;
    use std::sync::Arc;

    use memmap2::{Advice, MmapOptions, MmapRaw};
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};

    use super::{Shared, SharedWords};
    use crate::sys::process::ForkGuard;

    /// How a region is mapped.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Access {
        /// Loads only; a store would raise SIGSEGV.
        ReadOnly,
        /// Loads and stores.
        ReadWrite,
    }

    /// Why a region could not be mapped.
    #[derive(Debug, thiserror::Error)]
    pub enum MapError {
        /// The region could shrink or grow under its members.
        #[error("the region is not sealed against shrinking and growing")]
        Unsealed,
        /// The region has another size than its layout.
        #[error("the region has {len} bytes, its layout has {expected}")]
        Size {
            /// Bytes it has.
            len: u64,
            /// Bytes it should have.
            expected: u64,
        },
        /// The kernel said no.
        #[error("cannot {step}: {error}")]
        Kernel {
            /// At which step.
            step: &'static str,
            /// What it said.
            #[source]
            error: std::io::Error,
        },
    }

    fn kernel(step: &'static str) -> impl FnOnce(std::io::Error) -> MapError {
        move |error| MapError::Kernel { step, error }
    }

    /// Address space that shows a region; unmapped when the last view of it is gone.
    #[derive(Debug)]
    pub struct Mapping {
        memory: ManuallyDrop<MmapRaw>,
        guard: ForkGuard,
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // A child of fork has no such mapping: by now something else may lie at its address.
            if self.guard.is_original() {
                // SAFETY: this is the only place that drops it, and nothing uses it afterwards.
                unsafe { ManuallyDrop::drop(&mut self.memory) };
            }
        }
    }

    impl Mapping {
        /// Maps all `len` bytes of a region. A child of fork does not inherit the mapping.
        ///
        /// # Errors
        /// [`MapError`]: not sealed, of another size, or the kernel refused.
        pub fn map(fd: impl AsFd, len: usize, access: Access) -> Result<Arc<Self>, MapError> {
            check_region(&fd, len as u64)?;
            let mut options = MmapOptions::new();
            options.len(len);
            let raw = fd.as_fd().as_raw_fd();
            let memory = match access {
                Access::ReadOnly => options.map_raw_read_only(raw),
                Access::ReadWrite => options.map_raw(raw),
            };
            let memory = memory.map_err(kernel("map a region"))?;
            memory.advise(Advice::DontFork).map_err(kernel("keep a mapping from children"))?;
            Ok(Arc::new(Self { memory: ManuallyDrop::new(memory), guard: ForkGuard::get() }))
        }

        /// Maps a lane: `header_len` bytes, then the `capacity` bytes behind them twice, back to back, so
        /// that a record that runs over the end goes on at the beginning.
        ///
        /// # Errors
        /// [`MapError`]: not sealed, of another size, or the kernel refused.
        pub fn map_ring(
            fd: impl AsFd,
            header_len: usize,
            capacity: usize,
            access: Access,
        ) -> Result<Arc<Self>, MapError> {
            check_region(&fd, (header_len + capacity) as u64)?;
            let total = header_len + 2 * capacity;
            let reserved = MmapOptions::new().len(total).no_reserve_swap().map_anon();
            let memory = MmapRaw::from(reserved.map_err(kernel("reserve address space"))?);
            let protection = match access {
                Access::ReadOnly => libc::PROT_READ,
                Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            };
            let raw = fd.as_fd().as_raw_fd();
            let place = |at: usize, len: usize, offset: usize| -> Result<(), MapError> {
                let target = memory.as_mut_ptr().wrapping_add(at).cast();
                let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                let offset = offset as libc::off_t;
                // SAFETY: [at, at + len) lies inside `memory` (total above), which is ours alone and to
                // which nobody has a view yet; MAP_FIXED replaces that part and `memory` unmaps it.
                let mapped = unsafe { libc::mmap(target, len, protection, flags, raw, offset) };
                if mapped == libc::MAP_FAILED {
                    return Err(kernel("map a lane")(std::io::Error::last_os_error()));
                }
                Ok(())
            };
            place(0, header_len + capacity, 0)?;
            place(header_len + capacity, capacity, header_len)?;
            memory.advise(Advice::DontFork).map_err(kernel("keep a mapping from children"))?;
            Ok(Arc::new(Self { memory: ManuallyDrop::new(memory), guard: ForkGuard::get() }))
        }

        /// First byte.
        pub(crate) fn base(&self) -> NonNull<u8> {
            NonNull::new(self.memory.as_mut_ptr()).expect("a mapping is never at address zero")
        }

        /// Bytes mapped.
        #[must_use]
        pub fn len(&self) -> usize {
            self.memory.len()
        }

        /// Never: a region has at least a header.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// Bytes of this process's address space from here that the kernel should allocate now, so that
        /// running out of memory is an error here and no SIGBUS later. Rounds outwards to pages.
        ///
        /// # Errors
        /// What the kernel said, ENOMEM among it. Kernels without the call (before 5.14) do nothing.
        pub fn populate(&self, offset: usize, len: usize) -> std::io::Result<()> {
            let start = offset & !4095;
            let len = (offset + len).min(self.len()).next_multiple_of(4096).saturating_sub(start);
            match self.memory.advise_range(Advice::PopulateWrite, start, len) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                result => result,
            }
        }
    }

    fn check_region(fd: &impl AsFd, expected: u64) -> Result<(), MapError> {
        let seals =
            fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|e| kernel("read the seals")(e.into()))?;
        let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        if !SealFlag::from_bits_retain(seals).contains(needed) {
            return Err(MapError::Unsealed);
        }
        let stat = nix::sys::stat::fstat(fd).map_err(|e| kernel("read the size")(e.into()))?;
        let len = stat.st_size as u64;
        if len != expected {
            return Err(MapError::Size { len, expected });
        }
        Ok(())
    }

    /// A view of one `T` at `offset` bytes.
    ///
    /// # Panics
    /// If it does not lie inside the mapping, aligned: our own bug, since the layout says where.
    #[must_use]
    pub fn view<T: SharedWords>(mapping: &Arc<Mapping>, offset: usize) -> Shared<T> {
        let pointer = checked(mapping, offset, size_of::<T>(), align_of::<T>());
        Shared { pointer: pointer.cast(), keeper: mapping.clone() }
    }

    /// A view of `count` values of `T` from `offset` bytes on.
    ///
    /// # Panics
    /// If they do not lie inside the mapping, aligned: our own bug, since the layout says where.
    #[must_use]
    pub fn view_slice<T: SharedWords>(
        mapping: &Arc<Mapping>,
        offset: usize,
        count: usize,
    ) -> Shared<[T]> {
        let pointer = checked(mapping, offset, size_of::<T>() * count, align_of::<T>());
        let pointer = NonNull::slice_from_raw_parts(pointer.cast(), count);
        Shared { pointer, keeper: mapping.clone() }
    }

    fn checked(mapping: &Arc<Mapping>, offset: usize, len: usize, align: usize) -> NonNull<u8> {
        assert!(
            offset <= mapping.len() && len <= mapping.len() - offset,
            "a view outside its mapping"
        );
        // SAFETY: the sum stays inside the mapping, checked one line above.
        let pointer = unsafe { mapping.base().add(offset) };
        assert!(pointer.addr().get().is_multiple_of(align), "a view out of line");
        pointer
    }
}

/// A view of words that other processes may write; keeps its mapping alive.
pub struct Shared<T: ?Sized> {
    pointer: std::ptr::NonNull<T>,
    /// Keeps the memory: a mapping (in tests on threads, the heap).
    keeper: Arc<dyn Any + Send + Sync>,
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, keeper: self.keeper.clone() }
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `view` and `view_slice` checked bounds and alignment, `keeper` keeps the memory
        // mapped, and `SharedWords` says that every bit pattern is a value whose fields are atomics.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized> Shared<T> {
    /// A view of a part of it.
    #[must_use]
    pub fn part<P: SharedWords>(&self, part: impl for<'a> FnOnce(&'a T) -> &'a P) -> Shared<P> {
        Shared { pointer: std::ptr::NonNull::from(part(self)), keeper: self.keeper.clone() }
    }
}

impl<T> Shared<[T]> {
    /// A view of one element.
    ///
    /// # Panics
    /// If there is no such element: our own bug.
    #[must_use]
    pub fn element(&self, index: usize) -> Shared<T> {
        Shared { pointer: std::ptr::NonNull::from(&self[index]), keeper: self.keeper.clone() }
    }
}

// SAFETY: a `Shared` gives only `&T` of atomics (`SharedWords`), which any thread may use.
unsafe impl<T: ?Sized> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized> Sync for Shared<T> {}

impl<T: ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The heap instead of a mapping: for tests on threads and models, where nothing is shared with other
/// processes.
#[cfg(test)]
mod heap {
    use super::{Arc, Shared, SharedWords};

    impl<T: SharedWords + Send + Sync + 'static> From<Arc<T>> for Shared<T> {
        fn from(words: Arc<T>) -> Self {
            Self { pointer: std::ptr::NonNull::from(&*words), keeper: words }
        }
    }

    impl<T: SharedWords + Send + Sync + 'static> From<Arc<[T]>> for Shared<[T]> {
        fn from(words: Arc<[T]>) -> Self {
            Self { pointer: std::ptr::NonNull::from(&*words), keeper: Arc::new(words) }
        }
    }
}

/// Writes a cell of a model.
#[cfg(all(test, loom))]
pub fn write_cell(cell: *mut u64, value: u64) {
    // SAFETY: loom hands out the pointer for the length of the call, and has checked that nobody else has it.
    unsafe { cell.write(value) }
}

/// Reads a cell of a model.
#[cfg(all(test, loom))]
pub fn read_cell(cell: *const u64) -> u64 {
    // SAFETY: loom hands out the pointer for the length of the call, and has checked that nobody writes.
    unsafe { cell.read() }
}
