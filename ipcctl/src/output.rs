//! What people and programs see: results to stdout, talk to stderr, and nothing dangerous to a terminal.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use serde::Serialize;

use crate::cli::Common;
use crate::exit_code::{Failure, Stop};

/// Where results and talk go, and in which form.
pub(crate) struct Output {
    /// Results are JSON, one object a line.
    pub(crate) json: bool,
    quiet: bool,
    stdout: Box<dyn Write>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    colour: bool,
}

impl Output {
    /// The output of this process.
    pub(crate) fn new(common: &Common) -> Self {
        // A descriptor of our own, unbuffered: a result is written when we say so, in one piece.
        let stdout: Box<dyn Write> = match io::stdout().as_fd().try_clone_to_owned() {
            Ok(fd) => Box::new(File::from(fd)),
            Err(_) => Box::new(io::stdout()),
        };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json: common.json,
            quiet: common.quiet,
            stdout,
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            colour: !no_colour && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    /// Brings bytes to stdout, all of them before it returns.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        match self.stdout.write_all(bytes).and_then(|()| self.stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stop::ReaderGone),
            Err(error) => Err(Failure::io("cannot write to stdout", &error).into()),
        }
    }

    /// Brings a line of text to stdout.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Stop> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Brings one JSON object to stdout, on a line of its own.
    pub(crate) fn object(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        let text = serde_json::to_string(value).map_err(|error| {
            Failure::new(crate::exit_code::ExitCode::Failed, "cannot write JSON", error)
        })?;
        self.line(&text)
    }

    /// Brings a message to stdout: as it is, or escaped where a terminal would obey it.
    pub(crate) fn message(&mut self, bytes: &[u8], newline: bool) -> Result<(), Stop> {
        let mut shown = match self.stdout_is_terminal {
            true => escape(bytes, Newlines::Keep).into_bytes(),
            false => bytes.to_vec(),
        };
        if newline {
            shown.push(b'\n');
        }
        self.bytes(&shown)
    }

    /// Tells on stderr what was done, unless `--quiet` or `--json` says all there is to say.
    pub(crate) fn tell(&self, text: &str) {
        if !self.quiet && !self.json {
            // Talk that nobody hears is no error.
            let _ = writeln!(io::stderr(), "{}", escape(text.as_bytes(), Newlines::Keep));
        }
    }

    /// Tells on stderr why it failed, and what to do.
    pub(crate) fn complain(&self, failure: &Failure) {
        let colour = self.colour && self.stderr_is_terminal;
        let (red, dim, plain) =
            if colour { ("\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let what = escape(failure.what.as_bytes(), Newlines::Escape);
        let why = escape(failure.why.as_bytes(), Newlines::Escape);
        let mut text = format!("{red}ipcctl:{plain} {what}: {why}\n");
        if let Some(hint) = &failure.hint {
            let hint = escape(hint.as_bytes(), Newlines::Escape);
            let _ = writeln!(text, "{dim}hint:{plain} {hint}");
        }
        // As above: nobody hears it, and the exit code says it too.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Whether long work may draw its progress: on a terminal, and not hushed.
    pub(crate) fn draws_progress(&self) -> bool {
        self.stderr_is_terminal && !self.quiet
    }

    /// A word of a result in a colour, where stdout is a terminal that wants one.
    pub(crate) fn coloured(&self, word: &str, colour: Colour) -> String {
        if !(self.colour && self.stdout_is_terminal) {
            return word.to_owned();
        }
        format!("\x1b[{}m{word}\x1b[0m", colour as u8)
    }
}

/// The colours we use, by the number that a terminal knows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    /// Something is wrong.
    Red = 31,
    /// All is well.
    Green = 32,
    /// Something may go wrong.
    Yellow = 33,
}

/// What becomes of newlines and tabs in [`escape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newlines {
    /// They stay.
    Keep,
    /// They are escaped like every control character.
    Escape,
}

/// Text without anything that a terminal would obey: control characters, what turns the direction of
/// writing, and bytes that are no UTF-8 become visible escapes.
pub(crate) fn escape(bytes: &[u8], newlines: Newlines) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' if newlines == Newlines::Keep => text.push(c),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_ascii_control() => write_escape(&mut text, c as u8),
                c if c.is_control() || misleads(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write_escape(&mut text, *byte);
        }
    }
    text
}

fn write_escape(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Invisible characters that make text look other than it is.
fn misleads(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_what_a_terminal_obeys_is_shown() {
        assert_eq!(escape("Grüße, 世界 🎉".as_bytes(), Newlines::Escape), "Grüße, 世界 🎉");
        assert_eq!(escape(b"\x1b[2J\x07", Newlines::Keep), "\\x1b[2J\\x07");
        assert_eq!(escape(b"a\nb\tc\r", Newlines::Keep), "a\nb\tc\\r");
        assert_eq!(escape(b"a\nb\tc\r", Newlines::Escape), "a\\nb\\tc\\r");
        assert_eq!(escape("\u{9b}31m".as_bytes(), Newlines::Keep), "\\u{9b}31m");
        assert_eq!(escape("x\u{202e}gpj".as_bytes(), Newlines::Keep), "x\\u{202e}gpj");
        assert_eq!(escape(b"\xff\xfeok\x7f", Newlines::Keep), "\\xff\\xfeok\\x7f");
    }
}
