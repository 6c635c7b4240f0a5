//! The heart: how messages lie in shared memory, how receivers take them, who sleeps and who wakes
//! whom. No system call is made in this folder: memory and sleeping come in through two small
//! traits ([`record::Storage`], [`park::Park`]), so that the models check the very code that ships.
//!
//! - [`layout`] the byte map of the regions and the words in them
//! - [`position`] how far a lane has come
//! - [`record`] what stands in front of a payload, and where records lie
//! - [`ring`] one sender writes records, and finds out where there is room
//! - [`beside`] a short message once more, beside the tail
//! - [`run`] what was claimed in one step, and how it is handed out
//! - [`reader`] one lane as a receiver sees it
//! - `lag` how far a receiver stays behind a stream
//! - [`claim`] receivers take records, acknowledge and return
//! - `quick` the same where nothing else is to be seen to
//! - [`order`] which lane a receiver takes from next
//! - `takeover` what is offered is taken over, or put aside
//! - [`repair`] what a receiver's death leaves, and how it is mended
//! - [`tidy`] what else those that are gone may have left, honest or not
//! - [`turn`] who receives where one receives at a time
//! - [`hints`] which of many lanes may have something
//! - [`park`] who sleeps and who wakes whom
//! - [`fencing`] whether senders fence, so that sleepers need no barrier
//! - [`withdraw`] how a message is taken back, and how far it has come
//! - [`fate`] what became of a message that was freed without having been acknowledged
//! - `memory` records in mapped memory, and what is in hand of them
//! - `models` every interleaving of small cases, under loom; the same on threads elsewhere

pub mod beside;
pub mod claim;
pub mod fate;
pub mod fencing;
pub mod hints;
mod lag;
pub mod layout;
#[cfg(not(loom))]
pub mod memory;
#[cfg(test)]
mod models;
pub mod order;
pub mod park;
pub mod position;
mod quick;
pub mod reader;
pub mod record;
pub mod repair;
pub mod ring;
pub mod run;
pub(crate) mod takeover;
pub mod tidy;
pub mod turn;
pub mod withdraw;
