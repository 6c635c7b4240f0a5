//! Loads on mailboxes and on what else carries messages, the same for all of them.
//!
//! - [`load`]: what is measured. [`system`]: what carries the messages; [`systems`]: those that every machine has.
//! - [`sampler`] takes one sample of a load on a system, with a process for each end ([`mod@peer`], and [`mod@stage`]
//!   on the other side), which do what [`loops`] says through [`ends`], each message checked ([`check`]).
//! - [`run`] takes all samples, contenders in turns, with the [`distance`] of the cores beside each.
//! - [`results`] are what came of it: [`table`] and [`figure`] show them to people, [`raw`] to programs, beside the
//!   facts of the [`machine`].
//!
//! `ipcctl bench` and the comparison with the rivals (`bench/`) both stand on this.

pub mod check;
pub mod distance;
pub mod ends;
pub mod figure;
pub mod inherited;
pub mod job;
pub mod load;
pub mod loops;
pub mod machine;
pub mod peer;
pub mod raw;
pub mod results;
pub mod run;
pub mod sampler;
pub mod spread;
pub mod stage;
pub mod system;
pub mod systems;
pub mod table;
pub mod threads;
