//! Removal of links.

use std::pin::pin;

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
};
use tokio::task::JoinHandle;

use super::{Batch, NetlinkError};

/// A link that is in no namespace any more, while the kernel may still wait for those who are just using it.
#[derive(Debug)]
pub struct Removal(Option<JoinHandle<Result<(), NetlinkError>>>);

impl Removal {
    /// Waits until the kernel is done with it.
    pub async fn gone(self) -> Result<(), NetlinkError> {
        match self.0 {
            Some(removing) => finished(removing.await),
            None => Ok(()),
        }
    }
}

/// Removes the link of this name from the namespace of the process, and with it the other end of a pair. Returns when
/// neither is anywhere to be found any more, nor their addresses and routes: the kernel announces that long before it
/// answers, as it waits for an RCU barrier. A link that does not exist is no error.
pub async fn remove(name: &str) -> Result<Removal, NetlinkError> {
    let (connection, _handle, mut announced) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(|source| {
            NetlinkError::Refused { what: format!("cannot delete the interface {name}"), source }
        })?;
    let mut listening = pin!(connection);
    let owned = name.to_owned();
    let mut removing = tokio::task::spawn_blocking(move || delete(&owned));
    loop {
        tokio::select! {
            result = &mut removing => return finished(result).map(|()| Removal(None)),
            // Deaf, as after too many announcements: the answer will do.
            () = &mut listening => return finished(removing.await).map(|()| Removal(None)),
            message = announced.next() => {
                if let Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))) =
                    message.map(|(message, _)| message.payload)
                    && is_named(&link, name)
                {
                    return Ok(Removal(Some(removing)));
                }
            }
        }
    }
}

fn delete(name: &str) -> Result<(), NetlinkError> {
    match Batch::default().delete_link(name).run() {
        Err(e) if !e.is_gone() => Err(e),
        _ => Ok(()),
    }
}

fn finished(result: Result<Result<(), NetlinkError>, tokio::task::JoinError>) -> Result<(), NetlinkError> {
    result.unwrap_or_else(|e| Err(NetlinkError::broken("cannot delete an interface", e.to_string())))
}

fn is_named(link: &LinkMessage, name: &str) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(n) if n == name))
}
