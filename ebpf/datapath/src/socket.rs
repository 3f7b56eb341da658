//! Services at the socket: a connection is made to a backend at once, so that its packets need no translation.

use tombolo_abi::{Address, BackendValue, Metric, OriginKey, OriginValue, ServiceKey};

use crate::{Tables, service};

/// Where a socket is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// To where it asked for: that is no service.
    Unchanged,
    /// To this backend.
    Backend(BackendValue),
    /// Nowhere: the service has no backend.
    Refused,
}

/// Chooses for the socket with this cookie, which wants to reach `address` and `port`.
#[inline(always)]
pub fn target<T: Tables>(tables: &T, cookie: u64, address: &Address, port: u16, protocol: u8) -> Target {
    let Some(found) = tables.service(&ServiceKey::new(*address, port, protocol)) else {
        return Target::Unchanged;
    };
    let Some((_, backend)) = service::pick(tables, found.id(), found.count()) else {
        tables.count(Metric::SocketRefused, 0);
        return Target::Refused;
    };
    let key = OriginKey::new(cookie, backend.address(), backend.port(), protocol);
    // Without the entry the socket only sees the backend's address as its peer.
    tables.set_origin(&key, &OriginValue::new(*address, port));
    tables.count(Metric::SocketTranslated, 0);
    Target::Backend(*backend)
}

/// The frontend that the socket asked for when it got the peer `address` and `port`.
#[inline(always)]
pub fn origin<T: Tables>(
    tables: &T,
    cookie: u64,
    address: &Address,
    port: u16,
    protocol: u8,
) -> Option<OriginValue> {
    tables.origin(&OriginKey::new(cookie, *address, port, protocol))
}
