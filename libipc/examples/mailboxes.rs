//! Indirect naming: processes name a mailbox, not each other. Any number send, any number receive, each
//! message goes to one receiver, and nobody needs to know who the others are.

mod stage;

use std::collections::BTreeMap;

use libipc::{Client, MailboxOptions, ReceiveError};
use stage::{Outcome, check, fresh, part, start};

const JOBS: &str = "guide/jobs";
const RESULTS: &str = "guide/results";
const JOBS_EACH: u64 = 1000;

fn main() -> Outcome {
    match part().as_str() {
        "producer" => produce(),
        "worker" => work(),
        _ => direct(),
    }
}

fn direct() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, JOBS, &MailboxOptions::new())?;
    fresh(&client, RESULTS, &MailboxOptions::new())?;
    let workers = [start("worker")?, start("worker")?];
    for producer in [start("producer")?, start("producer")?, start("producer")?] {
        producer.ends_well()?;
    }
    client.close(JOBS)?; // nothing new; what is queued drains, and then the workers are told
    for worker in workers {
        worker.ends_well()?;
    }

    let mut results = client.receiver(RESULTS)?;
    let mut by_worker = BTreeMap::new();
    for _ in 0..2 {
        let result = results.receive()?;
        let worker = result.sender().pid;
        by_worker.insert(worker, u64::from_le_bytes(result.into_bytes()[..].try_into()?));
    }
    println!("the sums of the workers, by their pids: {by_worker:?}");
    let jobs_of_one = JOBS_EACH * (JOBS_EACH - 1) / 2;
    let total: u64 = by_worker.values().sum();
    check("each of 3000 jobs was done once, by one of two workers", total == 3 * jobs_of_one)?;
    client.delete(JOBS)?;
    client.delete(RESULTS)?;
    Ok(())
}

fn produce() -> Outcome {
    let mut jobs = Client::connect()?.sender(JOBS)?;
    for number in 0..JOBS_EACH {
        jobs.send(&number.to_le_bytes())?;
    }
    Ok(())
}

fn work() -> Outcome {
    let client = Client::connect()?;
    let mut jobs = client.receiver(JOBS)?;
    let mut sum = 0;
    loop {
        match jobs.receive() {
            Ok(job) => sum += u64::from_le_bytes(job.into_bytes()[..].try_into()?),
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    client.sender(RESULTS)?.send(&u64::to_le_bytes(sum))?;
    Ok(())
}
