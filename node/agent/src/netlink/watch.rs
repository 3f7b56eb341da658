//! Notice of changes.

use std::io;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

/// Wakes the receiver after links, addresses or routes of this namespace have changed; several changes may be one
/// wake-up. It is for looking again, not for learning what changed: netlink may lose messages.
pub fn watch() -> io::Result<mpsc::Receiver<()>> {
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
        while messages.next().await.is_some() {
            // A full channel holds a wake-up that is still to come.
            if let Err(mpsc::error::TrySendError::Closed(())) = wake.try_send(()) {
                return;
            }
        }
    });
    Ok(woken)
}
