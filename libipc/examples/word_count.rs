//! Counts the words of every file in a folder with a crew of processes, and checks the total against
//! `wc -w`.
//!
//! ```text
//!                 demo/files                 demo/counts
//! producer ──▶ [one message a file] ──▶ worker ──▶ [one count a message] ──▶ collector
//!                                   ──▶ worker ──▶
//!                                   ──▶ worker ──▶
//! ```
//!
//! `word_count [--workers COUNT] [FOLDER]` is the driver: it creates the two mailboxes, starts the
//! other roles as processes of their own (this very program again), waits for them and prints the
//! table. Exit code 1 if the total is not what `wc -w` says.
//!
//! The workers compete: each message goes to exactly one of them. An empty message means "no more";
//! the producer sends one a worker, each worker passes one on to the collector. Which worker counted
//! what, the collector knows from the identity that comes with each message.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, Sender};

const FILES: &str = "demo/files";
const COUNTS: &str = "demo/counts";
const FOLDERS_LEFT_OUT: [&str; 2] = ["target", ".git"];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["producer", workers, rule] => produce(workers, WordRule::named(rule)),
        ["worker", rule] => work(WordRule::named(rule)),
        ["collector", workers] => collect(workers),
        ["--workers", count] => drive(count, "."),
        ["--workers", count, folder] => drive(count, folder),
        [] => drive("3", "."),
        [folder] if !folder.starts_with('-') => drive("3", folder),
        _ => Err("usage: word_count [--workers COUNT] [FOLDER]".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- driver ----

fn drive(workers: &str, folder: &str) -> Result<bool> {
    let count: usize =
        workers.parse().map_err(|_| format!("{workers:?} is no count of workers"))?;
    if count == 0 {
        return Err("at least one worker is needed".into());
    }
    let files = files_below(Path::new(folder))?;
    let rule = WordRule::of_this_wc()?;
    let client = Client::connect()?;
    client.create(FILES, &MailboxOptions::new().capacity_bytes(1 << 20))?;
    client.create(COUNTS, &MailboxOptions::new())?;

    let begun = Instant::now();
    let report = run_crew(workers, count, rule, &files);
    let elapsed = begun.elapsed();
    // Also after a failure: whoever of the crew still waits at a mailbox ends when it is deleted.
    client.delete(FILES)?;
    client.delete(COUNTS)?;

    let shares = parse_report(&report?)?;
    print_table(&shares, files.len(), elapsed);
    let total = shares.values().map(|share| share.words).sum();
    compare(total, wc_words(&files)?, rule)
}

/// Starts everybody, waits for everybody; what the collector reports.
fn run_crew(workers: &str, count: usize, rule: WordRule, files: &[PathBuf]) -> Result<String> {
    let mut collector = start(&["collector", workers], Stdio::null(), Stdio::piped())?;
    let crew: Vec<Child> = (0..count)
        .map(|_| start(&["worker", rule.name()], Stdio::null(), Stdio::null()))
        .collect::<Result<_>>()?;
    let mut producer = start(&["producer", workers, rule.name()], Stdio::piped(), Stdio::null())?;
    let mut list = producer.stdin.take().ok_or("the producer has no standard input")?;
    list.write_all(&file_list(files))?;
    drop(list);
    finish("producer", producer)?;
    for worker in crew {
        finish("worker", worker)?;
    }
    let mut report = String::new();
    let mut output = collector.stdout.take().ok_or("the collector has no standard output")?;
    std::io::Read::read_to_string(&mut output, &mut report)?;
    finish("collector", collector)?;
    Ok(report)
}

fn start(role: &[&str], input: Stdio, output: Stdio) -> Result<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args(role).stdin(input).stdout(output).spawn()?)
}

fn finish(role: &str, mut child: Child) -> Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the {role} failed: {status}").into()) }
}

/// Every regular file below a folder, in order of their paths; links are not followed.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let left_out = FOLDERS_LEFT_OUT.iter().any(|name| entry.file_name() == *name);
            if kind.is_dir() && !left_out {
                folders.push(entry.path());
            } else if kind.is_file() && !left_out {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The paths as the producer and `wc` get them: each ends with a zero byte.
fn file_list(files: &[PathBuf]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    files.iter().flat_map(|file| [file.as_os_str().as_bytes(), b"\0"].concat()).collect()
}

/// What one worker did.
#[derive(Default)]
struct Share {
    messages: u64,
    bytes: u64,
    words: u64,
}

fn parse_report(report: &str) -> Result<BTreeMap<u32, Share>> {
    let mut shares = BTreeMap::new();
    for line in report.lines() {
        let numbers: Vec<u64> =
            line.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        let [pid, messages, bytes, words] = numbers[..] else {
            return Err(format!("the collector reported {line:?}").into());
        };
        shares.insert(u32::try_from(pid)?, Share { messages, bytes, words });
    }
    Ok(shares)
}

fn print_table(shares: &BTreeMap<u32, Share>, files: usize, elapsed: Duration) {
    let sum = |field: fn(&Share) -> u64| shares.values().map(field).sum::<u64>();
    let (messages, bytes, words) = (sum(|s| s.messages), sum(|s| s.bytes), sum(|s| s.words));
    println!("{:<18} {:>10} {:>14} {:>12} {:>7}", "process", "messages", "bytes", "words", "share");
    for (pid, share) in shares {
        let percent = 100.0 * share.messages as f64 / messages.max(1) as f64;
        println!(
            "{:<18} {:>10} {:>14} {:>12} {percent:>6.1}%",
            format!("worker {pid}"),
            share.messages,
            share.bytes,
            share.words
        );
    }
    println!("{:<18} {messages:>10} {bytes:>14} {words:>12} {:>6.1}%", "all", 100.0);
    let seconds = elapsed.as_secs_f64();
    println!(
        "{files} files in {seconds:.3} s, starting {} processes and reading the files included: \
         {:.0} messages/s, {:.1} MB/s",
        shares.len() + 2,
        messages as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
}

fn compare(ours: u64, theirs: u64, rule: WordRule) -> Result<bool> {
    let rule = match rule {
        WordRule::AnyByte => "any run of bytes between white space is a word here",
        WordRule::OnePrintable => "a word has a printable byte here",
    };
    println!("words: {ours} counted by the workers, {theirs} by LC_ALL=C wc -w ({rule})");
    if ours == theirs {
        println!("equal");
    } else {
        println!("NOT EQUAL");
    }
    Ok(ours == theirs)
}

/// What `wc -w` counts in all the files together.
fn wc_words(files: &[PathBuf]) -> Result<u64> {
    if files.is_empty() {
        return Ok(0);
    }
    let output = run_wc(&["--files0-from=-"], file_list(files))?;
    // With several files the last line is their total; with one there is but that file's line.
    let last = output.lines().last().and_then(|line| line.split_whitespace().next());
    Ok(last.ok_or("wc printed nothing")?.parse()?)
}

fn run_wc(options: &[&str], input: Vec<u8>) -> Result<String> {
    let mut wc = Command::new("wc")
        .arg("-w")
        .args(options)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run wc: {error}"))?;
    let mut pipe = wc.stdin.take().ok_or("wc has no standard input")?;
    // Beside the reading: wc answers while it is still being fed.
    let feeder = std::thread::spawn(move || pipe.write_all(&input));
    let output = wc.wait_with_output()?;
    feeder.join().map_err(|_| "the thread that feeds wc panicked")??;
    if !output.status.success() {
        return Err(format!("wc failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

// ---- what a word is ----

/// What `wc` takes for a word in the C locale. It always lies between white space; but versions of
/// coreutils differ about a run of nothing but unprintable bytes, as they occur in binary files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WordRule {
    /// Any run of bytes that are not white space.
    AnyByte,
    /// A run in which at least one byte is a printable ASCII character.
    OnePrintable,
}

impl WordRule {
    /// Asks the `wc` of this machine about a run of one unprintable byte.
    fn of_this_wc() -> Result<Self> {
        match run_wc(&[], b"\x01".to_vec())?.trim() {
            "0" => Ok(Self::OnePrintable),
            "1" => Ok(Self::AnyByte),
            other => Err(format!("wc -w counts {other:?} words in one byte").into()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AnyByte => "any-byte",
            Self::OnePrintable => "one-printable",
        }
    }

    fn named(name: &str) -> Self {
        if name == "any-byte" { Self::AnyByte } else { Self::OnePrintable }
    }

    /// Words that begin in `text`, and whether its last one, already counted, may go on behind it.
    /// `in_word`: `text` begins inside a word that is counted already.
    fn count(self, text: &[u8], in_word: bool) -> (u64, bool) {
        let (mut words, mut counted) = (0, in_word);
        for &byte in text {
            if is_white_space(byte) {
                counted = false;
            } else if !counted && (self == Self::AnyByte || byte.is_ascii_graphic()) {
                counted = true;
                words += 1;
            }
        }
        (words, counted)
    }
}

fn is_white_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

// ---- producer ----

/// First byte of a message with text: where the text begins.
const AT_A_WORD: u8 = 0;
const IN_A_COUNTED_WORD: u8 = 1;

fn produce(workers: &str, rule: WordRule) -> Result<bool> {
    use std::os::unix::ffi::OsStringExt;
    let client = Client::connect()?;
    let mut sender = client.sender(FILES)?;
    let mut list = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut list)?;
    for path in list.split(|&byte| byte == 0).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        let text = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        send_text(&mut sender, &text, rule)?;
    }
    for _ in 0..workers.parse::<usize>()? {
        sender.send(b"")?;
    }
    Ok(true)
}

/// Sends a file's text, in as few messages as it fits in, cut at white space. A word longer than any
/// message is cut too; then the message behind the cut says that its first word is counted.
fn send_text(sender: &mut Sender, text: &[u8], rule: WordRule) -> Result<()> {
    let text_bytes_max = sender.message_bytes_max() - 1;
    let mut message = Vec::with_capacity(text.len().min(text_bytes_max) + 1);
    let (mut rest, mut in_word) = (text, false);
    loop {
        let (piece, behind) = rest.split_at(cut(rest, text_bytes_max));
        message.clear();
        message.push(if in_word { IN_A_COUNTED_WORD } else { AT_A_WORD });
        message.extend_from_slice(piece);
        sender.send(&message)?;
        if behind.is_empty() {
            return Ok(());
        }
        in_word = rule.count(piece, in_word).1;
        rest = behind;
    }
}

/// Bytes of the next message: all, or up to and with the last white space, or what fits.
fn cut(text: &[u8], text_bytes_max: usize) -> usize {
    if text.len() <= text_bytes_max {
        return text.len();
    }
    let last = text[..text_bytes_max].iter().rposition(|&byte| is_white_space(byte));
    last.map_or(text_bytes_max, |index| index + 1)
}

// ---- worker ----

fn work(rule: WordRule) -> Result<bool> {
    let client = Client::connect()?;
    let mut files = client.receiver(FILES)?;
    let mut counts = client.sender(COUNTS)?;
    loop {
        let delivery = files.receive()?;
        let Some((&begin, text)) = delivery.bytes().split_first() else {
            delivery.acknowledge();
            counts.send(b"")?;
            return Ok(true);
        };
        let (words, _) = rule.count(text, begin == IN_A_COUNTED_WORD);
        let mut count = [0; 16];
        count[..8].copy_from_slice(&words.to_le_bytes());
        count[8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
        // Acknowledged after the count is sent: a worker that dies in between leaves the file to
        // another, and no file is left out.
        counts.send(&count)?;
        delivery.acknowledge();
    }
}

// ---- collector ----

fn collect(workers: &str) -> Result<bool> {
    let mut at_work: usize = workers.parse()?;
    let client = Client::connect()?;
    let mut counts = client.receiver(COUNTS)?;
    let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
    while at_work > 0 {
        let delivery = counts.receive()?;
        let share = shares.entry(delivery.sender().pid).or_default();
        match delivery.bytes().split_at_checked(8) {
            Some((words, bytes)) => {
                share.messages += 1;
                share.words += u64::from_le_bytes(words.try_into()?);
                share.bytes += u64::from_le_bytes(bytes.try_into()?);
            }
            None => at_work -= 1,
        }
        delivery.acknowledge();
    }
    for (pid, Share { messages, bytes, words }) in shares {
        println!("{pid} {messages} {bytes} {words}");
    }
    Ok(true)
}
