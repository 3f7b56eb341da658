//! Notice of changes.

use std::io;

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        link::{LinkAttribute, LinkMessage},
        route::RouteMessage,
    },
};
use tokio::sync::mpsc;

use super::ROUTE_PROTOCOL;

/// Wakes the receiver after links, addresses or routes of this namespace have changed; several changes may be one
/// wake-up. It is for looking again, not for learning what changed: netlink may lose messages. Pods come and go
/// unnoticed: their links, whose names begin with `pods`, and the agent's routes to single addresses.
pub fn watch(pods: &'static str) -> io::Result<mpsc::Receiver<()>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let (wake, woken) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let of_a_pod = match &message.payload {
                NetlinkPayload::InnerMessage(Message::NewLink(link) | Message::DelLink(link)) => {
                    is_named(link, pods)
                }
                NetlinkPayload::InnerMessage(Message::NewRoute(route) | Message::DelRoute(route)) => {
                    is_to_a_pod(route)
                }
                _ => false,
            };
            // A full channel holds a wake-up that is still to come.
            if !of_a_pod && matches!(wake.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    });
    Ok(woken)
}

/// Wakes the receiver after somebody has removed filters, or what holds them, from a device of this namespace. Messages may be
/// lost: who must not miss one looks now and then.
pub fn watch_removals() -> io::Result<mpsc::Receiver<()>> {
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Tc])?;
    tokio::spawn(connection);
    let (wake, woken) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let removed = matches!(
                message.payload,
                NetlinkPayload::InnerMessage(
                    Message::DelTrafficFilter(_)
                        | Message::DelQueueDiscipline(_)
                        | Message::DelTrafficChain(_)
                ) | NetlinkPayload::Overrun(_)
            );
            // A full channel holds a wake-up that is still to come.
            if removed && matches!(wake.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    });
    Ok(woken)
}

fn is_named(link: &LinkMessage, prefix: &str) -> bool {
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(name) if name.starts_with(prefix)))
}

fn is_to_a_pod(route: &RouteMessage) -> bool {
    let bits = if route.header.address_family == AddressFamily::Inet { 32 } else { 128 };
    u8::from(route.header.protocol) == ROUTE_PROTOCOL && route.header.destination_prefix_length == bits
}
