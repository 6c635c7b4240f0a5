//! The two ends for tokio: `receive().await`, `send().await`, and a stream of messages.
//!
//! They stand on the descriptors that [`Receiver::poll_fd`] and [`Sender::poll_fd`] give, so what is promised of
//! those holds here. Each first tries, then spins as its blocking twin does, within the handle's budget
//! ([`Receiver::set_spin_max`]: 50 µs unless told otherwise, less where it has not paid lately, and nothing where
//! the other end runs on this very processor), and only then lets the runtime wait. The spin keeps the runtime's thread
//! from its other tasks for that long; zero never does.
//!
//! **A future that is dropped loses nothing.** A message is taken only in the poll that hands it over, and sent only
//! in the poll that says so; `select!` and `timeout` may drop either at any other moment. In a rendezvous mailbox a
//! dropped send takes its message back, which fails if a receiver has it: [`AsyncSender::take_in_hand`] tells.
//!
//! ```no_run
//! use libipc::tokio::{AsyncReceiver, AsyncSender};
//!
//! # async fn demo(client: libipc::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mut orders = AsyncReceiver::new(client.receiver("orders")?)?;
//! let mut bills = AsyncSender::new(client.sender("bills")?)?;
//! loop {
//!     let order = orders.receive().await?;
//!     bills.send(order.bytes()).await?;
//!     order.acknowledge();
//! }
//! # }
//! ```

use std::future::poll_fn;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tokio::io::unix::AsyncFd;
use ::tokio::task::coop;
use futures_core::Stream;

use crate::delivery::Delivery;
use crate::error::{Fault, ReceiveError, SendError, TryReceiveError};
use crate::protocol::Identity;
use crate::receiver::Receiver;
use crate::receiver::wait::without_empty;
use crate::sender::Sender;
use crate::sender::meeting::Meeting;
use crate::sys::registration;
use crate::ticket::Ticket;

/// A descriptor of a handle, known to the runtime.
fn register(fd: BorrowedFd<'_>) -> Result<AsyncFd<OwnedFd>, Fault> {
    let fault = |error: std::io::Error| Fault::new("wait on a descriptor with tokio", error);
    let ours = fd.try_clone_to_owned().map_err(fault)?;
    registration::register(ours).map_err(fault)
}

fn runtime_fault(error: std::io::Error) -> Fault {
    Fault::new("wait with tokio", error)
}

/// A [`Receiver`] whose waiting is tokio's. Its `Stream` yields [`Message`]s.
#[derive(Debug)]
pub struct AsyncReceiver {
    readable: AsyncFd<OwnedFd>,
    receiver: Receiver,
}

impl AsyncReceiver {
    /// Hands a receiver's waiting to the runtime that this is called in.
    ///
    /// # Errors
    /// [`Fault`]: no descriptor is to be had, or this is the child of a fork.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O.
    pub fn new(mut receiver: Receiver) -> Result<Self, Fault> {
        let readable = register(receiver.poll_fd()?)?;
        Ok(Self { readable, receiver })
    }

    /// The receiver itself: for `try_receive`, or to bound its spinning.
    pub fn get_mut(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// The receiver, no longer the runtime's.
    #[must_use]
    pub fn into_inner(self) -> Receiver {
        self.receiver
    }

    /// Receives a message; waits for one if none is there. Dropping the future loses no message. The delivery is
    /// in hand as any other is: acknowledge it, or it goes back to the mailbox.
    ///
    /// # Errors
    /// [`ReceiveError`], never `TimedOut`.
    pub async fn receive(&mut self) -> Result<Delivery<'_>, ReceiveError> {
        poll_fn(|context| self.poll_take(context)).await?;
        Ok(Delivery::new(&mut self.receiver))
    }

    /// Takes a message into the receiver's hand, in the poll that says so.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ReceiveError>> {
        // Whoever finds a message each time still lets the runtime's other tasks run.
        let budget = ready!(coop::poll_proceed(context));
        let result = if self.receiver.take_quickly() {
            Ok(())
        } else {
            ready!(self.poll_take_slowly(context))
        };
        budget.made_progress();
        Poll::Ready(result)
    }

    fn poll_take_slowly(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ReceiveError>> {
        loop {
            // Asked for before the look, so that what becomes readable behind it is not taken for old.
            let mut readable = match ready!(self.readable.poll_read_ready(context)) {
                Ok(readable) => readable,
                Err(error) => return Poll::Ready(Err(runtime_fault(error).into())),
            };
            match self.receiver.take_or_spin_or_arm() {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(TryReceiveError::Empty) => readable.clear_ready(),
                Err(error) => return Poll::Ready(Err(without_empty(error))),
            }
        }
    }
}

/// A message that is its owner's: what the stream of an [`AsyncReceiver`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message: 0 bytes up to the mailbox's longest.
    pub bytes: Vec<u8>,
    /// Who sent it, as the kernel attested when the sender opened the mailbox.
    pub sender: Identity,
    /// How often it may have been handed out before.
    pub attempts: u32,
}

/// Messages as they come, each acknowledged when it is yielded: whoever must not lose one that it dies over takes it
/// with [`AsyncReceiver::receive`] instead.
///
/// The stream ends when the mailbox is closed and drained, or deleted; polled again after the mailbox was opened
/// again, it goes on. An error that is yielded is not its end.
impl Stream for AsyncReceiver {
    type Item = Result<Message, ReceiveError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.poll_take(context)) {
            Ok(()) => {
                let delivery = Delivery::new(&mut self.receiver);
                let (sender, attempts) = (delivery.sender(), delivery.attempts());
                Some(Ok(Message { bytes: delivery.into_bytes(), sender, attempts }))
            }
            Err(ReceiveError::Closed | ReceiveError::Deleted) => None,
            Err(error) => Some(Err(error)),
        })
    }
}

/// A [`Sender`] whose waiting is tokio's.
#[derive(Debug)]
pub struct AsyncSender {
    tells: AsyncFd<OwnedFd>,
    sender: Sender,
    /// What a dropped future has left behind.
    in_hand: Option<Ticket>,
}

impl AsyncSender {
    /// Hands a sender's waiting to the runtime that this is called in.
    ///
    /// # Errors
    /// [`Fault`]: no descriptor is to be had, or this is the child of a fork.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O.
    pub fn new(mut sender: Sender) -> Result<Self, Fault> {
        let tells = register(sender.poll_fd()?)?;
        Ok(Self { tells, sender, in_hand: None })
    }

    /// The sender itself: for `try_send`, or to bound its spinning.
    pub fn get_mut(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The sender, no longer the runtime's.
    #[must_use]
    pub fn into_inner(self) -> Sender {
        self.sender
    }

    /// Sends; waits for room if there is none, and in a rendezvous mailbox for the acknowledgement. It ends as
    /// [`Sender::send`] does.
    ///
    /// If the future is dropped before it is done, nothing of the message has been sent. One exception there is: a
    /// message of a rendezvous mailbox that a receiver has when the future is dropped cannot be taken back, and
    /// [`Self::take_in_hand`] says so.
    ///
    /// # Errors
    /// [`SendError`], never `TimedOut`; the message is still the caller's, but for `InHand`.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.in_hand = None;
        let mut sending = Sending { handle: self, meeting: None };
        poll_fn(|context| sending.poll(context, message)).await
    }

    /// The ticket of the message whose [`Self::send`] was dropped last, if a receiver had it by then: be it a
    /// `timeout` that dropped it, or a `select!`. `None`: it was taken back, and nobody receives it. Only in a rendezvous
    /// mailbox can it be anything else. It is told once, and the next send forgets it.
    ///
    /// ```no_run
    /// # async fn demo(hatch: &mut libipc::tokio::AsyncSender) -> Result<(), Box<dyn std::error::Error>> {
    /// # let soon = std::time::Duration::from_secs(1);
    /// match tokio::time::timeout(soon, hatch.send(b"soup")).await {
    ///     Ok(sent) => sent?,
    ///     Err(_) => match hatch.take_in_hand() {
    ///         Some(ticket) => println!("too late to take it back: {:?}", ticket.state()?),
    ///         None => println!("nobody has had it"),
    ///     },
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_in_hand(&mut self) -> Option<Ticket> {
        self.in_hand.take()
    }
}

/// A send that is under way.
struct Sending<'a> {
    handle: &'a mut AsyncSender,
    /// In a rendezvous mailbox, once the message was offered.
    meeting: Option<Meeting>,
}

impl Sending<'_> {
    fn poll(&mut self, context: &mut Context<'_>, message: &[u8]) -> Poll<Result<(), SendError>> {
        let budget = ready!(coop::poll_proceed(context));
        let result = if self.handle.sender.send_quickly(message) {
            Ok(())
        } else {
            ready!(self.poll_slowly(context, message))
        };
        budget.made_progress();
        Poll::Ready(result)
    }

    fn poll_slowly(
        &mut self,
        context: &mut Context<'_>,
        message: &[u8],
    ) -> Poll<Result<(), SendError>> {
        let AsyncSender { tells, sender, .. } = &mut *self.handle;
        loop {
            let mut told = match ready!(tells.poll_read_ready(context)) {
                Ok(told) => told,
                Err(error) => return Poll::Ready(Err(runtime_fault(error).into())),
            };
            let end = if sender.is_rendezvous() {
                sender.meet_or_arm(message, &mut self.meeting)
            } else {
                sender.send_or_spin_or_arm(message)
            };
            match end {
                Some(result) => return Poll::Ready(result),
                None => told.clear_ready(),
            }
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(meeting) = self.meeting.take() {
            self.handle.in_hand = self.handle.sender.leave_meeting(meeting);
        }
    }
}
