//! `send`: an argument, all of stdin or of a file, or its lines, as messages.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use libipc::TicketState;
use libipc::lane::layout::LANE_CAPACITY_BYTES_MAX;
use libipc::{Client, DirectAddress, MailboxName, SendError, Sender, Ticket, TicketError};

use crate::cli::Send;
use crate::exit_code::{ExitCode, Failure, Outcome, Stop};
use crate::json;
use crate::output::Output;

/// How soon a state of a tracked message is seen that is not its last.
const STATE_LATENCY: Duration = Duration::from_millis(20);

/// Sends what was asked for, and tells how much it was.
pub(crate) fn run(client: &Client, args: &Send, output: &mut Output) -> Outcome {
    let (target, text) = target_and_text(args)?;
    // First the input, then the mailbox: a file that is not there shall not make a lane.
    let input = Input::of(args, text, output)?;
    let mut sending = Sending::begin(client, args, &target)?;
    match input {
        Input::Text(bytes) => sending.send(&bytes, output)?,
        Input::Whole(reader) => sending.send_whole(reader, output)?,
        Input::Lines(reader, progress) => sending.send_lines(reader, &progress, output)?,
    }
    let (messages, bytes) = (sending.messages, sending.bytes);
    if output.json {
        let (messages, bytes) = (Some(messages), Some(bytes));
        let name = target.name();
        let to = match &target {
            Target::Mailbox(_) => json::Target::Mailbox(&name),
            Target::Process(_) => json::Target::Process(&name),
        };
        output.object(&json::Done { to, done: "sent", messages, bytes })?;
    }
    let plural = if messages == 1 { "message" } else { "messages" };
    output.tell(&format!("sent {messages} {plural} ({bytes} bytes) to {target}"));
    Ok(ExitCode::Done)
}

/// Whom the messages are for.
enum Target {
    /// Whoever receives from a mailbox.
    Mailbox(MailboxName),
    /// A process that has registered.
    Process(DirectAddress),
}

impl Target {
    /// As it was typed.
    fn name(&self) -> String {
        match self {
            Self::Mailbox(name) => name.to_string(),
            Self::Process(DirectAddress::Name(name)) => name.clone(),
            Self::Process(DirectAddress::Pid(pid)) => pid.to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Process(_)) { "process " } else { "" };
        write!(f, "{kind}{}", self.name())
    }
}

/// The words that stand for themselves: a mailbox and a message, or behind `--to` a message alone.
fn target_and_text(args: &Send) -> Result<(Target, Option<&OsStr>), Stop> {
    let usage = |why: &str| Failure::new(ExitCode::Usage, "cannot send", why);
    let (first, second) = (args.name.as_deref(), args.text.as_deref());
    let Some(process) = &args.to else {
        let name = first.and_then(OsStr::to_str).unwrap_or_default();
        let name =
            MailboxName::new(name).map_err(|error| Failure::refused("cannot send", &error))?;
        return Ok((Target::Mailbox(name), second));
    };
    if second.is_some() {
        return Err(usage("--to says who receives, so no mailbox can be named besides").into());
    }
    if first.is_some() && (args.lines || args.file.is_some()) {
        return Err(usage("the message is an argument, so --lines and --file have no use").into());
    }
    Ok((Target::Process(process.clone()), first))
}

/// Where the messages come from.
enum Input {
    /// The argument.
    Text(Vec<u8>),
    /// All of it is one message.
    Whole(Box<dyn Read>),
    /// Each line is one.
    Lines(Box<dyn BufRead>, ProgressBar),
}

impl Input {
    fn of(args: &Send, text: Option<&OsStr>, output: &Output) -> Result<Self, Stop> {
        if let Some(text) = text {
            return Ok(Self::Text(text.as_bytes().to_vec()));
        }
        let (reader, len): (Box<dyn Read>, Option<u64>) = match &args.file {
            Some(path) => {
                let what = || format!("cannot read {}", path.display());
                let file = File::open(path).map_err(|error| Failure::io(what(), &error))?;
                let len = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
                (Box::new(file), len)
            }
            None => {
                if io::stdin().is_terminal() {
                    output.tell("reading from the terminal: end with Ctrl-D");
                }
                (Box::new(io::stdin()), None)
            }
        };
        if !args.lines {
            return Ok(Self::Whole(reader));
        }
        let typed = args.file.is_none() && io::stdin().is_terminal();
        let progress = progress(len, output.draws_progress() && !typed);
        Ok(Self::Lines(Box::new(BufReader::with_capacity(64 << 10, reader)), progress))
    }
}

/// A bar where the length is known, a count where it is not, nothing where nobody looks.
fn progress(len: Option<u64>, draws: bool) -> ProgressBar {
    if !draws {
        return ProgressBar::hidden();
    }
    let (bar, style) = match len {
        Some(len) => (
            ProgressBar::new(len),
            "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec} {msg}"),
    };
    // The templates are constants; a wrong one would only look dull.
    bar.with_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()))
}

/// The link over which messages go, and how.
enum Link<'a> {
    /// A lane of our own.
    Mailbox(Box<Sender>),
    /// The same; each message is waited for.
    Synchronous(Box<Sender>),
    /// The same; what becomes of each message is told.
    Tracked(Box<Sender>),
    /// The client's, made by the first message.
    Process(&'a Client, DirectAddress),
}

/// A sender at work, and what it has sent.
struct Sending<'a> {
    link: Link<'a>,
    timeout: Option<Duration>,
    what: String,
    messages: u64,
    bytes: u64,
}

impl<'a> Sending<'a> {
    fn begin(client: &'a Client, args: &Send, target: &Target) -> Result<Self, Stop> {
        let what = format!("cannot send to {target}");
        let failed = |error| Failure::request(what.clone(), &error);
        let link = match target {
            Target::Mailbox(name) => {
                let mut sender = client.sender(name.as_str()).map_err(failed)?;
                if let Some(priority) = args.priority {
                    sender.set_priority(priority).map_err(failed)?;
                }
                let sender = Box::new(sender);
                match (args.sync, args.tracked) {
                    (true, _) => Link::Synchronous(sender),
                    (_, true) => Link::Tracked(sender),
                    _ => Link::Mailbox(sender),
                }
            }
            Target::Process(address) => Link::Process(client, address.clone()),
        };
        Ok(Self { link, timeout: args.timeout, what, messages: 0, bytes: 0 })
    }

    fn send(&mut self, message: &[u8], output: &mut Output) -> Result<(), Stop> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let what = self.what();
        let failed = |error| Stop::from(Failure::send(what.clone(), &error));
        match &mut self.link {
            Link::Mailbox(sender) => match deadline {
                Some(deadline) => sender.send_deadline(message, deadline),
                None => sender.send(message),
            }
            .map_err(failed)?,
            Link::Synchronous(sender) => match deadline {
                Some(deadline) => sender.send_sync_deadline(message, deadline),
                None => sender.send_sync(message),
            }
            .map_err(failed)?,
            Link::Tracked(sender) => {
                let ticket = match deadline {
                    Some(deadline) => sender.send_tracked_deadline(message, deadline),
                    None => sender.send_tracked(message),
                };
                follow(&ticket.map_err(failed)?, deadline, &what, output)?;
            }
            Link::Process(client, address) => match deadline {
                Some(deadline) => client.send_to_deadline(address.clone(), message, deadline),
                None => client.send_to(address.clone(), message),
            }
            .map_err(|error| Failure::send_to(what, &error))?,
        }
        self.messages += 1;
        self.bytes += message.len() as u64;
        Ok(())
    }

    /// The longest message that is worth reading; a process's inbox says itself what it takes.
    fn message_bytes_max(&self) -> usize {
        match &self.link {
            Link::Mailbox(sender) | Link::Synchronous(sender) | Link::Tracked(sender) => {
                sender.message_bytes_max()
            }
            Link::Process(..) => LANE_CAPACITY_BYTES_MAX as usize,
        }
    }

    /// What failed, and how far it came before.
    fn what(&self) -> String {
        match self.messages {
            0 => self.what.clone(),
            sent => format!("{} (the first {sent} messages are sent)", self.what),
        }
    }

    fn send_whole(&mut self, reader: Box<dyn Read>, output: &mut Output) -> Result<(), Stop> {
        let max = self.message_bytes_max();
        let mut message = Vec::new();
        // One byte more than may be: that tells too long from just long enough.
        reader
            .take(max as u64 + 1)
            .read_to_end(&mut message)
            .map_err(|error| Failure::io("cannot read the message", &error))?;
        if message.len() > max {
            return Err(self.too_long("the message", max));
        }
        self.send(&message, output)
    }

    fn send_lines(
        &mut self,
        mut reader: Box<dyn BufRead>,
        progress: &ProgressBar,
        output: &mut Output,
    ) -> Result<(), Stop> {
        let max = self.message_bytes_max();
        let mut line = Vec::new();
        loop {
            line.clear();
            // The longest message, its newline, and one byte that tells that it goes on.
            let len = reader
                .by_ref()
                .take(max as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(|error| Failure::io(self.what(), &error))?;
            if len == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if line.len() > max {
                return Err(self.too_long(&format!("line {}", self.messages + 1), max));
            }
            self.send(&line, output)?;
            progress.inc(len as u64);
            if self.messages.is_multiple_of(1024) {
                progress.set_message(format!("{} messages", self.messages));
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn too_long(&self, what: &str, max: usize) -> Stop {
        let why = format!("{what} is longer than the {max} bytes that this mailbox takes");
        Failure::new(ExitCode::Failed, self.what(), why)
            .hint("create the mailbox with a larger --capacity")
            .into()
    }
}

/// Prints each state of a message that we see, until it is settled. Looking no longer leaves it where it is.
fn follow(
    ticket: &Ticket,
    deadline: Option<Instant>,
    what: &str,
    output: &mut Output,
) -> Result<(), Stop> {
    let failed = |error: TicketError| Failure::new(ExitCode::Failed, what, error);
    let mut state = ticket.state().map_err(failed)?;
    print_state(state, output)?;
    while !state.is_settled() {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Failure::new(ExitCode::TimedOut, what, "the message is not done yet")
                .hint("it stays where it is; allow more --timeout to see what becomes of it")
                .into());
        }
        let look = Instant::now() + STATE_LATENCY;
        let until = deadline.map_or(look, |deadline| deadline.min(look));
        let next = ticket.wait_deadline(until).map_err(failed)?;
        if next != state {
            state = next;
            print_state(state, output)?;
        }
        if !state.is_settled() && Instant::now() < until {
            let why = "the mailbox is gone, and a receiver has the message in hand";
            return Err(Failure::new(ExitCode::InHand, what, why).into());
        }
    }
    match state {
        TicketState::Returned(_) => {
            let why = format!("the message is {}: nobody has received it", json::state(state));
            Err(Failure::new(ExitCode::NoSuchMailbox, what, why).into())
        }
        TicketState::DeadLettered => Err(Failure::send(what, &SendError::DeadLettered).into()),
        TicketState::Dropped => Err(Failure::send(what, &SendError::Dropped).into()),
        TicketState::Done | TicketState::Queued | TicketState::InHand => Ok(()),
    }
}

fn print_state(state: TicketState, output: &mut Output) -> Result<(), Stop> {
    let state = json::state(state);
    if output.json { output.object(&json::State { state }) } else { output.line(state) }
}
