//! Sockets that ask for services: they get one of the backends, keep it when they send datagrams, and are shown the frontend
//! that they asked for.

use std::collections::BTreeMap;

use tombolo_abi::{BackendValue, protocol::UDP};
use tombolo_datapath::{
    socket::{Target, origin, target},
    testing::Memory,
};

use super::{
    build::ends,
    reference::{End, backends, service},
};
use crate::input::Input;

#[derive(Default)]
pub struct Sockets {
    /// What each socket asked for, by its number, the backend and the protocol.
    asked: BTreeMap<(u64, End, u8), End>,
    /// The backend of a datagram socket, by its number and the frontend, and the version of the services then.
    kept: BTreeMap<(u64, End), (End, u64)>,
}

impl Sockets {
    /// A socket asks for an address, or who its peer is. The services are those of version `services`.
    pub fn ask(&mut self, input: &mut Input<'_>, world: &Memory, services: u64) {
        let cookie = u64::from(input.byte() % 4);
        let (ends, _) = ends(input);
        let ((address, port), protocol) = (ends.to, ends.protocol);
        let backends = service(world, &ends.to, protocol).map(|service| backends(world, service));
        let kept = self.kept.get(&(cookie, ends.to)).filter(|(_, then)| protocol == UDP && *then == services);
        match (target(world, cookie, &address, port, protocol), backends) {
            (Target::Unchanged, None) => {}
            (Target::Refused, Some(backends)) => {
                assert!(backends.is_empty() || backends.contains(&None), "it has backends");
                assert_eq!(kept, None, "its backend serves");
            }
            (Target::Backend(backend), Some(backends)) => {
                let to = (backend.address(), backend.port());
                // Between two changes of the maps a number may still lead to a backend that has no slot any more.
                let known = |backend: &BackendValue| (backend.address(), backend.port()) == to;
                let stays = protocol == UDP && world.backends.values().any(known);
                assert!(backends.contains(&Some(to)) || stays, "{to:?} is no backend");
                assert!(kept.is_none_or(|(before, _)| *before == to), "from {kept:?} to {to:?}");
                self.asked.insert((cookie, to, protocol), ends.to);
                if protocol == UDP {
                    self.kept.insert((cookie, ends.to), (to, services));
                }
            }
            (target, backends) => panic!("{target:?} among {backends:?}"),
        }
        for ((cookie, (address, port), protocol), asked) in &self.asked {
            let shown = origin(world, *cookie, address, *port, *protocol);
            assert_eq!(shown.map(|shown| (shown.address(), shown.port())), Some(*asked));
        }
        let (address, port) = ends.from;
        let known = self.asked.contains_key(&(cookie, ends.from, protocol));
        assert_eq!(origin(world, cookie, &address, port, protocol).is_some(), known);
    }
}
