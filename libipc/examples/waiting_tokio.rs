//! Waiting in tokio: receive and send as futures, on the runtime's own threads, in any number.

mod stage;

use std::time::Duration;

use libipc::tokio::{AsyncReceiver, AsyncSender};
use libipc::{Client, MailboxOptions};
use stage::{Outcome, check, fresh, part, start};
use tokio::runtime::Builder;
use tokio::time::timeout;

const QUESTIONS: &str = "guide/tokio/questions";
const ANSWERS: &str = "guide/tokio/answers";

fn main() -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if part() == "oracle" { runtime.block_on(answer()) } else { runtime.block_on(ask()) }
}

async fn ask() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, QUESTIONS, &MailboxOptions::new())?;
    fresh(&client, ANSWERS, &MailboxOptions::new())?;
    let mut questions = AsyncSender::new(client.sender(QUESTIONS)?)?;
    let mut answers = AsyncReceiver::new(client.receiver(ANSWERS)?)?;

    let early = timeout(Duration::from_millis(20), answers.receive()).await;
    check("a receive that is dropped has taken nothing", early.is_err())?;
    drop(early);

    let oracle = start("oracle")?;
    questions.send(b"how many?").await?;
    let answer = answers.receive().await?;
    check("the answer comes while the thread serves others", answer.bytes() == b"42")?;
    answer.acknowledge();
    oracle.ends_well()?;
    client.delete(QUESTIONS)?;
    client.delete(ANSWERS)?;
    Ok(())
}

async fn answer() -> Outcome {
    let client = Client::connect()?;
    let mut questions = AsyncReceiver::new(client.receiver(QUESTIONS)?)?;
    let mut answers = AsyncSender::new(client.sender(ANSWERS)?)?;
    let question = questions.receive().await?;
    answers.send(b"42").await?;
    question.acknowledge();
    Ok(())
}
