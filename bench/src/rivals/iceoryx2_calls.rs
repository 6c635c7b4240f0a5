//! iceoryx2's request and response; who waits, waits for its events.

use anyhow::{Result, anyhow};
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::{Node, ipc};
use measure::ends::{AnswerEnd, AskEnd};
use measure::job::{Channel, Job, Role};
use measure::load::{Kind, Load};
use measure::loops;
use measure::stage::Stage;
use measure::system::System;

use super::iceoryx2::{Events, clean_up, node};

/// iceoryx2's request and response.
#[derive(Debug)]
pub(crate) struct Iceoryx2Calls {
    polls: bool,
}

impl Iceoryx2Calls {
    /// It waits for events.
    pub(crate) fn waiting() -> Self {
        Self { polls: false }
    }

    /// It never sleeps.
    pub(crate) fn polling() -> Self {
        Self { polls: true }
    }
}

impl System for Iceoryx2Calls {
    fn key(&self) -> &str {
        if self.polls { "iceoryx2-rr-polling" } else { "iceoryx2-rr" }
    }

    fn name(&self) -> &str {
        if self.polls { "iceoryx2-rr, polling" } else { "iceoryx2-rr" }
    }

    fn suits(&self, load: &Load) -> bool {
        load.kind == Kind::Call
    }

    fn work(&self, job: &Job, stage: &mut Stage) -> Result<()> {
        let node = node(job)?;
        let out = job.channel_out.clone().unwrap_or_default();
        let in_ = job.channel_in.clone().unwrap_or_default();
        let asks = job.role == Role::Ping;
        // The first channel has the service; each way has its events.
        let service = service(&node, if asks { &out } else { &in_ })?;
        let (events_out, events_in) = (Events::open(&node, &out)?, Events::open(&node, &in_)?);
        let (notifier, listener) = match self.polls {
            true => (None, None),
            false => (Some(events_out.notifier()?), Some(events_in.listener()?)),
        };
        let events = Waiting { notifier, listener };
        let message = vec![0; job.load.bytes];
        if asks {
            let client = service.client_builder().initial_max_slice_len(job.load.bytes).create()?;
            let mut end = Asking { client, events, message };
            return stage.perform(job, || loops::ask(job, &mut end));
        }
        let server = service.server_builder().initial_max_slice_len(job.load.bytes).create()?;
        let mut end = Answering { server, events, message };
        stage.perform(job, || loops::answer(job, &mut end))
    }

    fn clean_up(&self, name: &str) {
        clean_up(name);
    }
}

type Service = iceoryx2::service::port_factory::request_response::PortFactory<
    ipc::Service,
    [u8],
    (),
    [u8],
    (),
>;

fn service(node: &Node<ipc::Service>, channel: &Channel) -> Result<Service> {
    Ok(node
        .service_builder(&channel.name.as_str().try_into()?)
        .request_response::<[u8], [u8]>()
        .open_or_create()?)
}

struct Waiting {
    notifier: Option<Notifier<ipc::Service>>,
    listener: Option<Listener<ipc::Service>>,
}

impl Waiting {
    fn notify(&self) -> Result<()> {
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        match &self.listener {
            Some(listener) => {
                let waited = listener.blocking_wait(|_| ());
                waited.map(|_| ()).map_err(|error| anyhow!("cannot wait: {error:?}"))
            }
            None => {
                std::hint::spin_loop();
                Ok(())
            }
        }
    }
}

struct Asking {
    client: Client<ipc::Service, [u8], (), [u8], ()>,
    events: Waiting,
    message: Vec<u8>,
}

impl AskEnd for Asking {
    fn ask<T>(
        &mut self,
        mut write: impl FnMut(&mut [u8]),
        mut look: impl FnMut(&[u8]) -> T,
    ) -> Result<T> {
        write(&mut self.message);
        let question = self.client.loan_slice_uninit(self.message.len())?;
        let pending = question.write_from_slice(&self.message).send()?;
        self.events.notify()?;
        loop {
            if let Some(answer) = pending.receive()? {
                return Ok(look(answer.payload()));
            }
            self.events.wait()?;
        }
    }
}

struct Answering {
    server: Server<ipc::Service, [u8], (), [u8], ()>,
    events: Waiting,
    message: Vec<u8>,
}

impl AnswerEnd for Answering {
    fn answer<T>(
        &mut self,
        mut look: impl FnMut(&[u8]) -> T,
        mut write: impl FnMut(&mut [u8]),
    ) -> Result<T> {
        let question = loop {
            if let Some(question) = self.server.receive()? {
                break question;
            }
            self.events.wait()?;
        };
        let seen = look(question.payload());
        write(&mut self.message);
        let answer = question.loan_slice_uninit(self.message.len())?;
        answer.write_from_slice(&self.message).send()?;
        self.events.notify()?;
        Ok(seen)
    }
}
