//! Services at the socket: a connection is made to a backend at once, so that its packets need no translation.

use tombolo_abi::{
    Address, BackendKey, BackendValue, Metric, OriginValue, ServiceKey, ServiceValue, SocketBackendValue,
    SocketKey, protocol,
};

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

/// Chooses for the socket with this cookie, which wants to reach `address` and `port`. A datagram socket keeps the
/// backend that it got, for as long as that serves.
#[inline(always)]
pub fn target<T: Tables>(tables: &T, cookie: u64, address: &Address, port: u16, protocol: u8) -> Target {
    let Some(service) = tables.service(&ServiceKey::new(*address, port, protocol)) else {
        return Target::Unchanged;
    };
    let asked = SocketKey::new(cookie, *address, port, protocol);
    let Some(backend) = kept(tables, &asked).or_else(|| choose(tables, service, &asked, protocol)) else {
        tables.count(Metric::SocketRefused, 0);
        return Target::Refused;
    };
    show_frontend(tables, cookie, backend, &OriginValue::new(*address, port), protocol);
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
    tables.origin(&SocketKey::new(cookie, *address, port, protocol))
}

/// The backend that the socket got before, unless it does not serve any more: numbers of backends belong to one
/// frontend and do not come back.
#[inline(always)]
fn kept<'t, T: Tables>(tables: &'t T, asked: &SocketKey) -> Option<&'t BackendValue> {
    tables.backend(&BackendKey::new(tables.socket_backend(asked)?.backend()))
}

/// A random backend. A stream socket connects once, so only those of datagrams are remembered.
#[inline(always)]
fn choose<'t, T: Tables>(
    tables: &'t T,
    service: &ServiceValue,
    asked: &SocketKey,
    protocol: u8,
) -> Option<&'t BackendValue> {
    let (id, backend) = service::pick(tables, service.id(), service.count())?;
    if protocol == protocol::UDP {
        // Without the entry the next datagram may go to another backend.
        tables.set_socket_backend(asked, &SocketBackendValue::new(id));
    }
    Some(backend)
}

/// Lets the socket see the frontend as its peer. Most datagrams find the entry as it should be, and a look-up is cheaper
/// than an update.
#[inline(always)]
fn show_frontend<T: Tables>(
    tables: &T,
    cookie: u64,
    backend: &BackendValue,
    frontend: &OriginValue,
    protocol: u8,
) {
    let peer = SocketKey::new(cookie, backend.address(), backend.port(), protocol);
    if tables.origin(&peer) != Some(*frontend) {
        // Without the entry the socket only sees the backend's address as its peer.
        tables.set_origin(&peer, frontend);
    }
}

#[cfg(test)]
mod tests {
    use tombolo_abi::{BackendFlags, ServiceFlags, SlotKey, SlotValue, v4_mapped};

    use super::*;
    use crate::testing::Memory;

    const VIP: Address = v4_mapped([10, 96, 0, 10]);

    fn backend(number: u32) -> BackendValue {
        BackendValue::new(v4_mapped([10, 1, 0, number as u8]), 9000, 1, BackendFlags::NONE)
    }

    /// The service of each protocol has these backends.
    fn serve(memory: &mut Memory, numbers: &[u32]) {
        for number in [protocol::TCP, protocol::UDP] {
            let value = ServiceValue::new(1, numbers.len() as u32, ServiceFlags::NONE);
            memory.services.insert(ServiceKey::new(VIP, 53, number), value);
        }
        memory.backends = numbers.iter().map(|&number| (BackendKey::new(number), backend(number))).collect();
        memory.slots =
            (0..).zip(numbers).map(|(slot, &n)| (SlotKey::new(1, slot), SlotValue::new(n))).collect();
    }

    fn ask(memory: &Memory, cookie: u64, protocol: u8) -> Target {
        target(memory, cookie, &VIP, 53, protocol)
    }

    #[test]
    fn a_datagram_socket_keeps_its_backend_while_that_serves() {
        let mut memory = Memory::default();
        serve(&mut memory, &[1, 2, 3]);
        let first = ask(&memory, 7, protocol::UDP);
        let others: Vec<_> = (100..110).map(|cookie| ask(&memory, cookie, protocol::UDP)).collect();
        assert!(others.iter().any(|other| *other != first), "each socket chooses for itself");
        for _ in 0..10 {
            assert_eq!(ask(&memory, 7, protocol::UDP), first);
        }
        let Target::Backend(gone) = first else { panic!("{first:?}") };
        let left: Vec<u32> = (1..=3).filter(|&number| backend(number) != gone).collect();
        serve(&mut memory, &left);
        let second = ask(&memory, 7, protocol::UDP);
        assert_ne!(second, first, "it does not serve any more");
        for _ in 0..10 {
            assert_eq!(ask(&memory, 7, protocol::UDP), second);
        }
        serve(&mut memory, &[]);
        assert_eq!(ask(&memory, 7, protocol::UDP), Target::Refused);
    }

    #[test]
    fn a_stream_socket_that_connects_again_chooses_again() {
        let mut memory = Memory::default();
        serve(&mut memory, &[1, 2]);
        let all: Vec<_> = (0..10).map(|_| ask(&memory, 7, protocol::TCP)).collect();
        assert!(all.iter().any(|one| *one != all[0]) && memory.socket_backends.borrow().is_empty());
    }

    #[test]
    fn a_socket_sees_the_frontend_that_it_asked_last_for() {
        let mut memory = Memory::default();
        serve(&mut memory, &[1]);
        memory
            .services
            .insert(ServiceKey::new(VIP, 54, protocol::UDP), ServiceValue::new(1, 1, ServiceFlags::NONE));
        for port in [53, 54, 53, 53] {
            assert_eq!(target(&memory, 7, &VIP, port, protocol::UDP), Target::Backend(backend(1)));
            let shown = origin(&memory, 7, &backend(1).address(), 9000, protocol::UDP);
            assert_eq!(shown, Some(OriginValue::new(VIP, port)));
        }
    }
}
