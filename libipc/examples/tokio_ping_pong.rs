//! A message there and back between two processes, each in tokio: mailboxes against tokio's own Unix datagram
//! sockets. Both are measured in turns, and every message is checked.
//!
//! ```text
//! cargo run --release -p libipc --features tokio --example tokio_ping_pong [-- --never-spin] [--bytes N] [--rounds N]
//! ```
//!
//! Needs a daemon (`IPCD_SOCKET`, or a private one). Prints the medians of the turns, each the median of its round
//! trips.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use libipc::tokio::{AsyncReceiver, AsyncSender};
use libipc::{Client, MailboxOptions};
use tokio::net::UnixDatagram;

type Error = Box<dyn std::error::Error>;

const TURNS: usize = 9;
const WARM_UP: usize = 200;

struct Settings {
    bytes: usize,
    rounds: usize,
    never_spin: bool,
    /// In the second process: the folder of the first one's sockets.
    echo: Option<PathBuf>,
}

impl Settings {
    fn read() -> Result<Self, Error> {
        let mut settings = Self { bytes: 64, rounds: 5_000, never_spin: false, echo: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bytes" => settings.bytes = value()?.parse()?,
                "--rounds" => settings.rounds = value()?.parse()?,
                "--never-spin" => settings.never_spin = true,
                "--echo" => settings.echo = Some(value()?.into()),
                _ => return Err(format!("unknown word {word}").into()),
            }
        }
        Ok(settings)
    }

    fn end(&self, receiver: libipc::Receiver) -> Result<AsyncReceiver, Error> {
        let mut receiver = AsyncReceiver::new(receiver)?;
        if self.never_spin {
            receiver.get_mut().set_spin_max(Duration::ZERO);
        }
        Ok(receiver)
    }
}

fn main() -> Result<(), Error> {
    let settings = Settings::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &settings.echo {
        Some(folder) => runtime.block_on(echo(&settings, folder)),
        None => runtime.block_on(measure(&settings)),
    }
}

/// Mailboxes of this run: there and back.
fn names(folder: &Path) -> [String; 2] {
    let run = folder.file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
    [format!("{run}/there"), format!("{run}/back")]
}

/// The second process: sends back whatever comes, until an empty message, first over sockets, then over mailboxes.
async fn echo(settings: &Settings, folder: &Path) -> Result<(), Error> {
    let socket = UnixDatagram::bind(folder.join("echo"))?;
    let client = Client::connect()?;
    let [there, back] = names(folder);
    let mut receiver = settings.end(client.receiver(&there)?)?;
    let mut sender = AsyncSender::new(client.sender(&back)?)?;
    // It is ready: the first process waits for this.
    socket.connect(folder.join("asker"))?;
    socket.send(b"ready").await?;
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..TURNS {
        loop {
            let len = socket.recv(&mut buffer).await?;
            socket.send(&buffer[..len]).await?;
            if len == 0 {
                break;
            }
        }
        loop {
            let delivery = receiver.receive().await?;
            let len = delivery.bytes().len();
            sender.send(delivery.bytes()).await?;
            delivery.acknowledge();
            if len == 0 {
                break;
            }
        }
    }
    Ok(())
}

async fn measure(settings: &Settings) -> Result<(), Error> {
    let folder = std::env::temp_dir().join(format!("tokio-ping-pong.{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let client = Client::connect()?;
    let options = MailboxOptions::new().capacity_bytes(1 << 20).receivers_max(1);
    let [there, back] = names(&folder);
    client.create(&there, &options)?;
    client.create(&back, &options)?;
    let result = turns(settings, &folder, &client).await;
    let deleted = client.delete(&there).and(client.delete(&back));
    std::fs::remove_dir_all(&folder)?;
    result?;
    deleted?;
    Ok(())
}

/// The other process; killed if this one gives up early.
struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn turns(settings: &Settings, folder: &Path, client: &Client) -> Result<(), Error> {
    let socket = UnixDatagram::bind(folder.join("asker"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--echo").arg(folder).env("IPCD_SOCKET", client.socket_path());
    if settings.never_spin {
        command.arg("--never-spin");
    }
    let mut echo = Echo(command.spawn()?);
    let mut buffer = vec![0; 1 << 16];
    let ready = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await;
    ready.map_err(|_| "the other process does not come up")??;
    socket.connect(folder.join("echo"))?;
    let [there, back] = names(folder);
    let mut sender = AsyncSender::new(client.sender(&there)?)?;
    let mut receiver = settings.end(client.receiver(&back)?)?;
    let (mut datagram, mut mailbox) = (Vec::new(), Vec::new());
    let mut ping = vec![0u8; settings.bytes.max(8)];
    for _ in 0..TURNS {
        let mut times = Vec::new();
        for round in 0..settings.rounds + WARM_UP {
            ping[..8].copy_from_slice(&round.to_le_bytes());
            let start = Instant::now();
            socket.send(&ping).await?;
            let len = socket.recv(&mut buffer).await?;
            times.push(start.elapsed());
            check(&buffer[..len], &ping)?;
        }
        socket.send(b"").await?;
        socket.recv(&mut buffer).await?;
        datagram.push(median(times.split_off(WARM_UP)));
        for round in 0..settings.rounds + WARM_UP {
            ping[..8].copy_from_slice(&round.to_le_bytes());
            let start = Instant::now();
            sender.send(&ping).await?;
            let pong = receiver.receive().await?;
            times.push(start.elapsed());
            check(pong.bytes(), &ping)?;
            pong.acknowledge();
        }
        sender.send(b"").await?;
        receiver.receive().await?.acknowledge();
        mailbox.push(median(times.split_off(WARM_UP)));
        times.clear();
    }
    echo.0.wait()?;
    println!("round trip of {} bytes, median of {TURNS} turns of {}:", ping.len(), settings.rounds);
    println!("  tokio UnixDatagram  {:>10.2?}   {datagram:.2?}", median(datagram.clone()));
    println!("  libipc mailboxes    {:>10.2?}   {mailbox:.2?}", median(mailbox.clone()));
    Ok(())
}

fn check(pong: &[u8], ping: &[u8]) -> Result<(), Error> {
    if pong == ping { Ok(()) } else { Err("another message came back".into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
