//! What people use instead, beyond what the kernel offers.

use measure::system::System;

/// All of them that were built.
pub(crate) fn all() -> Vec<Box<dyn System>> {
    vec![]
}
