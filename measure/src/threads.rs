//! Systems that work between the threads of one process only.

use std::thread;

use anyhow::Result;

use crate::distance::join;
use crate::ends::{Ends, ReceiveEnd, SendEnd};
use crate::job::{Job, Role};
use crate::load::Kind;
use crate::loops;
use crate::stage::{Stage, pin};

/// Runs a load between two threads, one on each core; `channel` makes the two ends of one way.
///
/// # Errors
/// What the ends say.
pub fn run<S, R>(job: &Job, stage: &mut Stage, channel: impl Fn() -> (S, R)) -> Result<()>
where
    S: SendEnd + Send,
    R: ReceiveEnd + Send,
{
    let (forth, back) = (channel(), channel());
    let (start, follow) = match job.load.kind {
        Kind::PingPong | Kind::Call => (Role::Ping, Role::Pong),
        _ => (Role::Send(0), Role::Receive(0)),
    };
    let starter = Job { role: start, ..job.clone() };
    let follower = Job { role: follow, ..job.clone() };
    let mut starters = Ends { sender: Some(forth.0), receiver: Some(back.1) };
    let mut followers = Ends { sender: Some(back.0), receiver: Some(forth.1) };
    stage.perform_all(|| {
        thread::scope(|scope| {
            let this = scope.spawn(|| {
                pin(job.cores.0)?;
                loops::run(&starter, &mut starters)
            });
            let other = scope.spawn(|| {
                pin(job.cores.1)?;
                loops::run(&follower, &mut followers)
            });
            Ok(vec![(start, join(this)?), (follow, join(other)?)])
        })
    })
}
