//! The only unsafe code here: shared memory, the futex, and rivals whose interfaces want it.

pub(crate) mod futex;
pub(crate) mod shared;
