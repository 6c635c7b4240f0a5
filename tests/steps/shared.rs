//! What the program that is stepped through and the test that steps through it agree on.

/// Exit code of the program where it may not be traced.
pub(crate) const NOT_TRACED: i32 = 77;

/// Capacity of the lanes, in bytes.
pub(crate) const CAPACITY_BYTES: usize = 4096;

/// Messages of [`ROOM_BYTES`] that fill a lane.
pub(crate) const ROOM_MESSAGES: usize = 4;

/// Length of a message that takes its share of a lane, with the 16 bytes in front of it.
pub(crate) const ROOM_BYTES: usize = CAPACITY_BYTES / ROOM_MESSAGES - 16;

/// What whoever is called answers.
pub(crate) const ANSWER: &[u8] = b"an answer";
