//! Positions: how far a lane has come, counted in granules of 16 bytes, for ever.
//!
//! A position has 48 bits and wraps; two positions of one lane are never further apart than the
//! lane's capacity, so their order is the sign of their 48-bit distance.

/// Bytes in a granule: the unit in which records are laid out and positions count.
pub const GRANULE_BYTES: usize = 16;

/// Granules in a cache line; the data of a lane begins with one.
pub const GRANULES_A_LINE: u64 = 4;

/// Bits in a position.
pub const POSITION_BITS: u32 = 48;

const MASK: u64 = (1 << POSITION_BITS) - 1;

/// A place in a lane's endless stream of granules, modulo 2^48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position(u64);

impl Position {
    /// The position `granules` from the start of time, modulo 2^48.
    #[inline]
    #[must_use]
    pub const fn new(granules: u64) -> Self {
        Self(granules & MASK)
    }

    /// The number itself, below 2^48.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `granules` further on.
    #[inline]
    #[must_use]
    pub const fn advance(self, granules: u64) -> Self {
        Self(self.0.wrapping_add(granules) & MASK)
    }

    /// The position `granules` further back.
    #[inline]
    #[must_use]
    pub const fn back(self, granules: u64) -> Self {
        Self(self.0.wrapping_sub(granules) & MASK)
    }

    /// Granules from `earlier` to this position; negative if `earlier` is in truth the later one.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        let difference = self.0.wrapping_sub(earlier.0) & MASK;
        // Sign-extends 48 bits: the half above 2^47 is negative.
        ((difference << (64 - POSITION_BITS)) as i64) >> (64 - POSITION_BITS)
    }
}

/// Granules of the data of a lane of so many bytes.
#[must_use]
pub const fn granules_of(capacity_bytes: u64) -> u64 {
    capacity_bytes / GRANULE_BYTES as u64
}

/// Bytes in front of a record's payload.
pub const RECORD_HEADER_BYTES: usize = 8;

/// Granules that a record with a payload of `len` bytes takes, padded; a stamp counts as payload here.
#[inline]
#[must_use]
pub const fn record_granules(len: usize) -> u64 {
    // A shift, for `div_ceil` costs three steps more on a path where they count. No payload is so long that the
    // sum overflows: it is a slice, or its length has 32 bits.
    (len as u64 + (RECORD_HEADER_BYTES + GRANULE_BYTES - 1) as u64)
        >> GRANULE_BYTES.trailing_zeros()
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn distance_survives_the_wrap() {
        let before = Position::new(MASK - 1);
        let after = before.advance(5);
        assert_eq!(after.get(), 3);
        assert_eq!(after.since(before), 5);
        assert_eq!(before.since(after), -5);
        assert_eq!(after.back(5), before);
    }

    #[test]
    fn a_record_is_its_header_and_its_padded_payload() {
        assert_eq!(record_granules(0), 1);
        assert_eq!(record_granules(8), 1);
        assert_eq!(record_granules(9), 2);
        assert_eq!(record_granules(24), 2);
        assert_eq!(record_granules(25), 3);
    }
}
