//! Another honest process, of a third uid, which comes, sends and goes at any moment.

use arbitrary::Arbitrary;
use libipc::{Client, Sender};

use crate::NAME;
use crate::book::{Book, Fate};

const SENDERS_MAX: usize = 3;

/// What it does.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Go {
    Come,
    Send { sender: u8, len: u8 },
    Leave { sender: u8 },
}

pub struct Others {
    client: Client,
    senders: Vec<Sender>,
    book: Book,
}

impl Others {
    pub fn new(client: Client, book: Book) -> Self {
        Self { client, senders: Vec::new(), book }
    }

    pub fn act(&mut self, go: Go) {
        let count = self.senders.len();
        match go {
            Go::Come if count < SENDERS_MAX => self.senders.extend(self.client.sender(NAME)),
            Go::Send { sender, len } if count > 0 => {
                let (number, message) = self.book.write(len.into());
                if self.senders[usize::from(sender) % count].try_send(&message).is_ok() {
                    self.book.note(number, Fate::Sent);
                }
            }
            Go::Leave { sender } if count > 0 => {
                self.senders.swap_remove(usize::from(sender) % count);
                // What was asked without waiting is done before anything else is.
                self.client.status().expect("the daemon answers");
            }
            _ => {}
        }
    }
}
