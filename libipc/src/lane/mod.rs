//! The heart: how messages lie in shared memory, how receivers take them, who sleeps and who wakes
//! whom. No system call is made in this folder: memory and sleeping come in through two small
//! traits, so that the models check the very code that ships.

pub mod layout;
pub mod position;
