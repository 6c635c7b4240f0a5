//! Processes that others reach by name or pid, and answers to calls.

use libipc::lane::layout::Traffic;
use libipc::protocol::{Answer, DirectAddress, LaneTicket, MailboxAttributes, Refusal};
use tracing::{debug, info};

use super::{Asker, Reply, Service};

impl Service {
    pub(super) fn register(
        &mut self,
        asker: &Asker<'_>,
        name: Option<&str>,
        attributes: &MailboxAttributes,
    ) -> Result<Reply, Refusal> {
        let (session, caller) = (asker.session, &asker.caller);
        let (id, name) = self.registry.register(session, caller, name, attributes)?;
        self.settle_fences(id);
        info!(mailbox = %name, id, by = %asker.caller.identity, "registered");
        Ok(Answer::Registered { name }.into())
    }

    pub(super) fn open_direct(
        &mut self,
        asker: &Asker<'_>,
        to: &DirectAddress,
    ) -> Result<Reply, Refusal> {
        let id = self.registry.inbox(to)?.id;
        self.sweep(id);
        let admission = self.registry.open_direct(asker.session, &asker.caller, to)?;
        debug!(%to, link = admission.link, by = %asker.caller.identity, "opened directly");
        self.give(asker, &admission)
    }

    pub(super) fn find(&self, asker: &Asker<'_>, of: &DirectAddress) -> Result<Reply, Refusal> {
        let identity = self.registry.find_process(&asker.caller, of)?;
        Ok(Answer::Found { identity }.into())
    }

    pub(super) fn open_replies(&mut self, asker: &Asker<'_>, link: u32) -> Result<Reply, Refusal> {
        let admission = self.registry.open_replies(asker.session, &asker.caller, link)?;
        let id = admission.mailbox_id;
        self.settle_fences(id);
        let given = self.give(asker, &admission);
        if given.is_err() {
            // Its link goes as well: nobody was told of it.
            let _ = self.registry.close_link(asker.session, admission.link);
            self.remove(id, Traffic::Deleted);
        }
        given
    }

    pub(super) fn open_reply(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        lane: LaneTicket,
    ) -> Result<Reply, Refusal> {
        let id = self.registry.answered(asker.session, link, lane)?;
        self.sweep(id);
        let admission = self.registry.open_reply(asker.session, &asker.caller, link, lane)?;
        self.give(asker, &admission)
    }
}
