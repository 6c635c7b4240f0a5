//! Memory that the two processes of a floor share.

#![expect(unsafe_code, reason = "reads and writes mapped memory")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64};

use anyhow::{Context as _, Result};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A mapping. Who writes where, and when, is settled by the words that its users put into it.
#[derive(Debug)]
pub(crate) struct Shared {
    map: MmapRaw,
}

/// A descriptor of so many bytes of fresh memory.
pub(crate) fn create(bytes: usize) -> Result<OwnedFd> {
    let file = File::from(memfd_create("floor", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(bytes as u64)?;
    Ok(file.into())
}

impl Shared {
    /// Maps all of it; its pages are touched now, not while somebody measures.
    pub(crate) fn map(memory: &OwnedFd) -> Result<Self> {
        let map = MmapOptions::new().populate().map_raw(memory).context("cannot map memory")?;
        Ok(Self { map })
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.map.len()));
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    /// A word at a multiple of 8.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        let pointer = self.at(offset, 8).cast();
        // SAFETY: in bounds (`at`), aligned (above; maps begin at a page), and used as an atomic only.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// A half word at a multiple of 4.
    #[inline]
    pub(crate) fn half_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        let pointer = self.at(offset, 4).cast();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(pointer) }
    }

    /// Copies a message in, where nobody reads now.
    #[inline]
    pub(crate) fn write(&self, offset: usize, message: &[u8]) {
        let pointer = self.at(offset, message.len());
        // SAFETY: in bounds (`at`); the message is memory of this process, so they do not overlap. The ring
        // lets one process alone at a slot at a time.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), pointer, message.len()) }
    }

    /// Copies a message out, where nobody writes now.
    #[inline]
    pub(crate) fn read(&self, offset: usize, message: &mut [u8]) {
        let pointer = self.at(offset, message.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(pointer, message.as_mut_ptr(), message.len()) }
    }

    /// A message where it lies, where nobody else reads or writes for as long as it is looked at.
    #[inline]
    pub(crate) fn slot(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let pointer = self.at(offset, len);
        // SAFETY: in bounds (`at`); this process has one mapping and lends it out exclusively, and the ring lets
        // one process alone at a slot at a time.
        unsafe { std::slice::from_raw_parts_mut(pointer, len) }
    }
}
