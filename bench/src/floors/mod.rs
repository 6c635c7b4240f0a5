//! What the machine gives at best, with nothing around it.

mod futex;
mod line;
mod ring;
#[cfg(feature = "threads")]
mod threads;

use measure::system::System;

/// All of them.
pub(crate) fn all() -> Vec<Box<dyn System>> {
    vec![
        Box::new(line::Line),
        Box::new(futex::Futex),
        Box::new(ring::Ring),
        #[cfg(feature = "threads")]
        Box::new(threads::Crossbeam),
        #[cfg(feature = "threads")]
        Box::new(threads::Rtrb),
    ]
}
