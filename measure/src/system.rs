//! What carries the messages of a measurement.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::job::Job;
use crate::load::Load;
use crate::stage::Stage;

/// How a system stands to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Ours,
    /// Something that people use instead.
    Rival,
    /// What the machine gives at best, with nothing around it.
    Floor,
    /// Shown for comparison only: it works between threads, say.
    Reference,
}

/// What the parent process has made for one channel of a measurement; gone when dropped.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The name, if it is not the one that was proposed.
    pub name: Option<String>,
    /// Descriptors that every process of the measurement inherits, in the system's own order.
    pub descriptors: Vec<OwnedFd>,
    /// What the reader of the figures should know about how they were made.
    pub note: Option<String>,
}

/// What carries messages: one of ours, a rival, or a floor.
///
/// Within a message nothing of this is called: [`System::work`] opens a process's ends and hands them, of a
/// type that the compiler knows, to [`Stage::run`].
pub trait System {
    /// Its name in options and in JSON.
    fn key(&self) -> &str;

    /// Its name, as we show it.
    fn name(&self) -> &str {
        self.key()
    }

    /// The key by which the processes that do the work know it.
    fn peer_key(&self) -> &str {
        self.key()
    }

    /// How it stands to us.
    fn standing(&self) -> Standing {
        Standing::Rival
    }

    /// Whether it can carry a load.
    fn suits(&self, load: &Load) -> bool;

    /// Whether one process does it all, in threads.
    fn is_in_one_process(&self) -> bool {
        false
    }

    /// Makes, in the process that measures, what a channel needs before any process can open it. What is found
    /// by its name is better made by the first process that opens it, which has a deadline ([`Job::first`]).
    ///
    /// # Errors
    /// What the machine refuses.
    fn prepare(&self, _load: &Load, _name: &str) -> Result<Prepared> {
        Ok(Prepared::default())
    }

    /// Opens the ends of a job, and does it on a stage; in a process of its own.
    ///
    /// # Errors
    /// What goes wrong: it becomes this system's result.
    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()>;

    /// Takes away what a channel of this name may have left, in the process that measures.
    fn clean_up(&self, _name: &str) {}

    /// The program whose processes do the work, if it is not this one.
    fn program(&self) -> Option<&Path> {
        None
    }

    /// Where the daemon listens that it needs.
    fn socket(&self) -> Option<PathBuf> {
        None
    }
}

impl fmt::Debug for dyn System + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}
