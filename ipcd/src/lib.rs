//! The daemon that owns mailboxes. It decides who may map what, and mends what a death leaves; it is
//! never in the path of a message.
//!
//! One thread, one epoll loop. From the outside in: [`config`] settings, [`startup`] the socket and
//! what the kernel must have, [`detach`] the background, [`server`] the loop, [`session`] one client, [`service`] what each
//! request does, [`registry`] who has what (pure state), [`regions`] the shared memory, [`repair`] what
//! members leave behind, [`report`] what people are told.

pub mod config;
pub mod detach;
pub mod regions;
pub mod registry;
pub mod repair;
pub mod report;
pub mod server;
pub mod service;
pub mod session;
pub mod startup;

/// This build's version, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
