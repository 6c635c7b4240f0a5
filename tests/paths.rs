//! Goes down one path of the library so many times: for a tool that counts instructions.
//!
//! `paths SOCKET PATH COUNT [MAILBOX]`, in a mailbox of its own unless one is named, with nothing else in it. What is
//! counted is what the functions do that are called `measured_...`; the lane is made, filled and drained outside of them.

#![expect(
    unsafe_code,
    reason = "stands in for two system calls that the counting tool does not know"
)]

use std::hint::black_box;
use std::process::ExitCode;

use libipc::{Client, ClientOptions, MailboxOptions, Receiver, Sender, TryReceiveError};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Messages at a time: a lane holds as many.
const ROUND: usize = 1000;
/// Messages of a batch.
const BATCH: usize = 250;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (socket, path, count, mailbox) = match &arguments[..] {
        [socket, path, count] => (socket, path, count, None),
        [socket, path, count, mailbox] => (socket, path, count, Some(mailbox)),
        _ => {
            eprintln!("usage: paths SOCKET PATH COUNT [MAILBOX]");
            return ExitCode::from(2);
        }
    };
    let gone = count.parse().map_err(Into::into).and_then(|count| go(socket, path, count, mailbox));
    match gone {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What one path is.
struct Path {
    /// Bytes of a message.
    bytes: usize,
    /// Receivers that the mailbox admits.
    receivers_max: u16,
    /// Receivers there are, beside the one that receives.
    others: usize,
    measured: Measured,
}

#[derive(Clone, Copy, PartialEq)]
enum Measured {
    Send,
    Receive,
    SendBatch,
    ReceiveBatch,
    /// A look that finds nothing.
    Empty,
    /// A message that was sent just before.
    Awaited,
}

fn path(name: &str) -> Option<Path> {
    let plain = Path { bytes: 8, receivers_max: 64, others: 0, measured: Measured::Send };
    Some(match name {
        "send-8" => plain,
        "send-64" => Path { bytes: 64, ..plain },
        "receive-8" => Path { measured: Measured::Receive, ..plain },
        "receive-64" => Path { bytes: 64, measured: Measured::Receive, ..plain },
        "send-batch-8" => Path { measured: Measured::SendBatch, ..plain },
        "receive-batch-8" => Path { measured: Measured::ReceiveBatch, ..plain },
        "receive-8-single" => Path { receivers_max: 1, measured: Measured::Receive, ..plain },
        "receive-8-competing" => Path { others: 1, measured: Measured::Receive, ..plain },
        "receive-8-awaited" => Path { measured: Measured::Awaited, ..plain },
        "try-receive-nothing" => Path { measured: Measured::Empty, ..plain },
        _ => return None,
    })
}

fn go(socket: &str, name: &str, count: usize, there: Option<&String>) -> Outcome {
    let Path { bytes, receivers_max, others, measured } = path(name).ok_or("no such path")?;
    let client: Client = ClientOptions::new().socket(socket).connect()?;
    let own = format!("paths-{}", std::process::id());
    let mailbox = there.unwrap_or(&own);
    if there.is_none() {
        let options = MailboxOptions::new().capacity_bytes(256 << 10).receivers_max(receivers_max);
        client.create(mailbox, &options)?;
    }
    let mut sender = client.sender(mailbox)?;
    let mut receiver = client.receiver(mailbox)?;
    let others: Vec<_> = (0..others).map(|_| client.receiver(mailbox)).collect::<Result<_, _>>()?;
    let message = vec![7; bytes];
    // The first lap has memory allocated, and each receives once before it counts.
    for round in 0..300_usize.div_ceil(bytes / 8) + count.div_ceil(ROUND) {
        let warm = round >= 300_usize.div_ceil(bytes / 8);
        match measured {
            Measured::Send if warm => measured_send(&mut sender, &message, ROUND)?,
            Measured::SendBatch if warm => measured_send_batch(&mut sender, &message, ROUND)?,
            Measured::Awaited => {
                for _ in 0..ROUND {
                    sender.send(&message)?;
                    match warm {
                        true => measured_receive(&mut receiver, bytes, 1)?,
                        false => receive(&mut receiver, 1)?,
                    }
                }
                continue;
            }
            _ => (0..ROUND).try_for_each(|_| sender.send(&message))?,
        }
        match measured {
            Measured::Receive if warm => measured_receive(&mut receiver, bytes, ROUND)?,
            Measured::ReceiveBatch if warm => {
                measured_receive_batch(&mut receiver, bytes, ROUND)?;
            }
            _ => receive(&mut receiver, ROUND)?,
        }
        if measured == Measured::Empty && warm {
            measured_empty(&mut receiver, ROUND)?;
        }
    }
    drop((sender, receiver, others));
    if there.is_none() {
        client.delete(mailbox)?;
    }
    Ok(())
}

fn receive(receiver: &mut Receiver, count: usize) -> Outcome {
    (0..count).try_for_each(|_| receiver.receive().map(|delivery| delivery.acknowledge()))?;
    Ok(())
}

#[inline(never)]
fn measured_send(sender: &mut Sender, message: &[u8], count: usize) -> Outcome {
    for _ in 0..count {
        sender.send(black_box(message))?;
    }
    Ok(())
}

#[inline(never)]
fn measured_receive(receiver: &mut Receiver, bytes: usize, count: usize) -> Outcome {
    for _ in 0..count {
        let delivery = receiver.receive()?;
        if black_box(delivery.bytes()).len() != bytes {
            return Err("another message came".into());
        }
        delivery.acknowledge();
    }
    Ok(())
}

#[inline(never)]
fn measured_send_batch(sender: &mut Sender, message: &[u8], count: usize) -> Outcome {
    let messages = vec![message; BATCH];
    for _ in 0..count / BATCH {
        sender.send_batch(black_box(&messages))?;
    }
    Ok(())
}

#[inline(never)]
fn measured_receive_batch(receiver: &mut Receiver, bytes: usize, count: usize) -> Outcome {
    let mut left = count;
    while left > 0 {
        let batch = receiver.receive_batch(BATCH)?;
        for message in batch.iter() {
            if black_box(message.bytes()).len() != bytes {
                return Err("another message came".into());
            }
        }
        left -= batch.len();
        batch.acknowledge();
    }
    Ok(())
}

#[inline(never)]
fn measured_empty(receiver: &mut Receiver, count: usize) -> Outcome {
    for _ in 0..count {
        if !matches!(receiver.try_receive(), Err(TryReceiveError::Empty)) {
            return Err("something came".into());
        }
    }
    Ok(())
}

/// The C library's `syscall`, for this program: valgrind knows neither `futex_waitv` nor `membarrier`, and nobody here
/// sleeps. Anything else goes to the kernel.
#[cfg(target_arch = "x86_64")]
// Sound: of the same calling convention as the one that it takes the place of, whose arguments are integers and
// pointers; no other object defines the symbol for this program's own code.
#[unsafe(no_mangle)]
extern "C" fn syscall(
    number: libc::c_long,
    a: libc::c_long,
    b: libc::c_long,
    c: libc::c_long,
    d: libc::c_long,
    e: libc::c_long,
    f: libc::c_long,
) -> libc::c_long {
    let fail = |error: i32| {
        nix::errno::Errno::set_raw(error);
        -1
    };
    match number {
        libc::SYS_futex_waitv => return fail(libc::EAGAIN),
        libc::SYS_membarrier => return 0,
        _ => {}
    }
    let result: libc::c_long;
    // SAFETY: the caller's own system call, as it is; the kernel changes rcx, r11 and rax, and memory.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) { fail(-(result as i32)) } else { result }
}
