//! The daemon that owns mailboxes. It decides who may map what, and mends what a death leaves; it is
//! never in the path of a message.
//!
//! One thread, one epoll loop. From the outside in: [`config`] settings, [`startup`] the socket and
//! what the kernel must have, [`detach`] the background, [`server`] the loop, [`arrivals`] who waits to be let in,
//! [`session`] one client, [`client_socket`] its socket, which [`closers`] close, [`on_the_way`] what clients have not
//! read, [`service`] what each request does, [`registry`] who has what (pure state), [`regions`] the shared memory, [`repair`] what
//! members leave behind, [`report`] what people are told.
//!
//! The daemon may die at any moment. What its successor needs lies in descriptors that others hold ([`store`]): systemd, or
//! a small parent of its own ([`keeper`]); what it knew is written in one of them ([`state`]), whose request
//! was in hand in another ([`progress`]), and [`recovery`] begins with that.

pub mod arrivals;
pub mod client_socket;
pub mod closers;
pub mod config;
pub mod detach;
pub mod keeper;
pub mod on_the_way;
pub mod progress;
pub mod recovery;
pub mod regions;
pub mod registry;
pub mod repair;
pub mod report;
pub mod server;
pub mod service;
pub mod session;
pub mod startup;
pub mod state;
pub mod store;

/// This build's version, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
