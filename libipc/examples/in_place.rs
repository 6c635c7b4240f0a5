//! Messages without copies, and in runs: written where they will be read, sent and received many at a time.

mod stage;

use libipc::{Client, MailboxOptions};
use stage::{Outcome, check, fresh, part, start};

const FRAMES: &str = "guide/frames";
const SAMPLES: &str = "guide/samples";
const FRAME_BYTES: usize = 1 << 20;
const COUNT: u32 = 10_000;

fn main() -> Outcome {
    if part() == "viewer" { view() } else { record() }
}

fn record() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, FRAMES, &MailboxOptions::new().capacity_bytes(4 << 20))?;
    fresh(&client, SAMPLES, &MailboxOptions::new())?;
    let viewer = start("viewer")?;

    let mut frames = client.sender(FRAMES)?;
    for number in 0..8 {
        let mut frame = frames.reserve(FRAME_BYTES)?;
        frame.bytes_mut().fill(number); // straight into the lane: there is no buffer of our own
        frame.commit()?;
    }
    let mut frame = frames.reserve(FRAME_BYTES)?;
    frame.bytes_mut()[..4].copy_from_slice(b"last");
    frame.truncate(4);
    frame.commit()?;
    drop(frames.reserve(FRAME_BYTES)?); // not committed, so nothing is sent

    let samples: Vec<_> = (0..COUNT).map(u32::to_le_bytes).collect();
    client.sender(SAMPLES)?.send_batch(&samples)?;
    viewer.ends_well()?;
    client.delete(FRAMES)?;
    client.delete(SAMPLES)?;
    Ok(())
}

fn view() -> Outcome {
    let client = Client::connect()?;
    let mut frames = client.receiver(FRAMES)?;
    for number in 0..8 {
        let frame = frames.receive()?;
        check(&format!("frame {number} has come whole"), frame.bytes() == [number; FRAME_BYTES])?;
        frame.acknowledge();
    }
    check("the last one is as short as it was made", frames.receive()?.into_bytes() == b"last")?;
    check("what was reserved and not committed never comes", frames.try_receive().is_err())?;

    let mut samples = client.receiver(SAMPLES)?;
    let (mut next, mut claims) = (0, 0);
    while next < COUNT {
        let batch = samples.receive_batch(500)?;
        for sample in batch.iter() {
            check_silently(sample.bytes() == next.to_le_bytes())?;
            next += 1;
        }
        batch.acknowledge();
        claims += 1;
    }
    println!("{COUNT} samples were received in {claims} batches");
    check("that is less than one step a message", claims < COUNT)
}

fn check_silently(holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err("a sample is out of order".into()) }
}
