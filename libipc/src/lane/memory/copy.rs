//! Copies in and out of memory that other processes write: of a few bytes without a call, of many by the processor itself.

#![expect(unsafe_code, reason = "copies between raw pointers")]

/// Payloads up to this many bytes are copied in place, without a call.
pub(super) const SHORT_BYTES: usize = 128;
/// Copies of up to so many bytes go through vector registers. The lines of longer ones the processor's own copying takes
/// over without reading them first; the C library does so too, but not for what it takes for larger than a cache, and that
/// is then three times as slow from one core to the other.
pub(super) const VECTOR_BYTES: usize = 2048;

/// Copies the first and the last `size_of::<T>()` bytes of `len`: all of them, and some of them twice.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, they do not overlap, and
/// `size_of::<T>() <= len <= 2 * size_of::<T>()`.
#[inline]
unsafe fn both_ends<T>(source: *const u8, target: *mut u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: the first size_of::<T>() bytes lie inside `len` (contract).
    let head = unsafe { source.cast::<T>().read_unaligned() };
    // SAFETY: so do the last ones.
    let tail = unsafe { source.wrapping_add(last).cast::<T>().read_unaligned() };
    // SAFETY: as for the source.
    unsafe { target.cast::<T>().write_unaligned(head) };
    // SAFETY: as for the source.
    unsafe { target.wrapping_add(last).cast::<T>().write_unaligned(tail) };
}

/// Copies `len` bytes; short ones in pieces that overlap, so that no byte outside is touched.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
pub(super) unsafe fn copy_in(source: *const u8, target: *mut u8, len: usize) {
    match len {
        // SAFETY: 8 <= len <= 16.
        8..=16 => unsafe { both_ends::<u64>(source, target, len) },
        // SAFETY: the contract.
        17.. => unsafe { copy_longer(source, target, len) },
        // SAFETY: 4 <= len <= 8.
        4..=7 => unsafe { both_ends::<u32>(source, target, len) },
        // SAFETY: 2 <= len <= 4.
        2..=3 => unsafe { both_ends::<u16>(source, target, len) },
        // SAFETY: len is 1.
        1 => unsafe { both_ends::<u8>(source, target, len) },
        0 => {}
    }
}

/// Copies `len` bytes, short ones with what pads them to a record's end.
///
/// # Safety
/// `source` is readable and `target` writable for `padded` bytes, and they do not overlap; `len <= padded`, which is a
/// multiple of 8.
#[inline]
pub(super) unsafe fn copy_padded(source: *const u8, target: *mut u8, padded: usize, len: usize) {
    match padded {
        // SAFETY: 8 bytes.
        8 => unsafe { both_ends::<u64>(source, target, 8) },
        // SAFETY: the contract.
        16..=SHORT_BYTES => unsafe { copy_longer(source, target, padded) },
        0 => {}
        // SAFETY: the contract.
        _ => unsafe { copy_longer(source, target, len) },
    }
}

/// Copies `len` bytes, as quickly as may be if they are 16 or more.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
pub(super) unsafe fn copy_longer(source: *const u8, target: *mut u8, len: usize) {
    match len {
        // SAFETY: 16 <= len <= 32.
        16..=32 => unsafe { both_ends::<u128>(source, target, len) },
        // SAFETY: 32 <= len <= 64.
        33..=64 => unsafe { both_ends::<[u128; 2]>(source, target, len) },
        // SAFETY: 64 <= len <= 128.
        65..=SHORT_BYTES => unsafe { both_ends::<[u128; 4]>(source, target, len) },
        // SAFETY: the contract.
        _ => unsafe { copy_long(source, target, len) },
    }
}

/// Copies `len` bytes, if they are many by the processor's own instruction, where that is quick.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
unsafe fn copy_long(source: *const u8, target: *mut u8, len: usize) {
    // Whoever counts instructions would count each byte.
    #[cfg(all(target_arch = "x86_64", not(any(miri, feature = "counted"))))]
    if len > VECTOR_BYTES && std::arch::is_x86_feature_detected!("ermsb") {
        // SAFETY: it reads and writes `len` bytes (contract) upwards: the direction flag is clear, as it is in all Rust
        // code.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rdi") target => _,
                inout("rsi") source => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    // SAFETY: the contract.
    unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_touch_what_they_should_and_nothing_else() {
        for len in (0..300usize).chain(VECTOR_BYTES - 1..VECTOR_BYTES + 3) {
            let source: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            let mut target = vec![0xee; len + 1];
            // SAFETY: both have `len` bytes.
            unsafe { copy_in(source.as_ptr(), target.as_mut_ptr(), len) };
            assert_eq!(target[..len], source[..]);
            assert_eq!(target[len], 0xee, "wrote behind {len} bytes");
        }
    }
}
