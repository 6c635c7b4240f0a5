//! A client that asks for descriptors, and reads no answer.

use std::path::Path;

use libipc::protocol::{Answer, Refresh, Request};
use libipc::{MailboxName, Role};
use tests::RawClient;

use crate::{Outcome, number, said};

/// Sessions that have asked, and have read nothing since they were greeted; and how often each has asked.
#[derive(Debug, Default)]
pub(crate) struct Hoard {
    sessions: Vec<RawClient>,
    asked: usize,
}

impl Hoard {
    /// Opens a mailbox to look at it, in so many sessions more, and has all that is in it handed over so often:
    /// `SESSIONS COUNT NAME`.
    pub(crate) fn gather<'a>(
        &mut self,
        socket: &Path,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let (sessions, count): (usize, usize) = (number(words.next())?, number(words.next())?);
        let name = MailboxName::new(words.next().ok_or("which mailbox?")?).map_err(said)?;
        for _ in 0..sessions {
            let mut client = RawClient::greet(socket);
            client.tell(&Request::Open { name: name.clone(), role: Role::Observe, group: None });
            for _ in 0..count {
                // The first link of a session has this number.
                client.tell(&Request::Fetch(Refresh { link: 1, after: 0 }));
            }
            self.sessions.push(client);
        }
        self.asked = count;
        Ok(())
    }

    /// Reads all answers; says how many descriptors came with them.
    pub(crate) fn read(&mut self) -> Outcome {
        let mut came = 0;
        for client in self.sessions.drain(..) {
            for nth in 0..=self.asked {
                match client.receive().ok_or("the session is over")? {
                    (Answer::Opened(_), descriptors) if nth == 0 => came += descriptors.len(),
                    (Answer::Fetched(_), descriptors) => came += descriptors.len(),
                    (other, _) => return Err(format!("{other:?}")),
                }
            }
        }
        Ok(came.to_string())
    }

    /// Has the sessions ended, and keeps what it was sent, unread.
    pub(crate) fn spoil(&mut self) {
        // Some may be over already.
        self.sessions.iter().for_each(|client| drop(client.send(b"nonsense", &[])));
    }
}
