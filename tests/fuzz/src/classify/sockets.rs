//! Sockets that ask for services: they get one of the backends, and are shown the frontend that they asked for.

use std::collections::BTreeMap;

use tombolo_datapath::{
    socket::{Target, origin, target},
    testing::Memory,
};

use super::{
    build::ends,
    reference::{End, backends, service},
};
use crate::input::Input;

/// What each socket asked for, by its number, the backend and the protocol.
#[derive(Default)]
pub struct Sockets(BTreeMap<(u64, End, u8), End>);

impl Sockets {
    /// A socket asks for an address, or who its peer is.
    pub fn ask(&mut self, input: &mut Input<'_>, world: &Memory) {
        let cookie = u64::from(input.byte() % 4);
        let (ends, _) = ends(input);
        let ((address, port), protocol) = (ends.to, ends.protocol);
        let backends = service(world, &ends.to, protocol).map(|service| backends(world, service));
        match (target(world, cookie, &address, port, protocol), backends) {
            (Target::Unchanged, None) => {}
            (Target::Refused, Some(backends)) => {
                assert!(backends.is_empty() || backends.contains(&None), "it has backends");
            }
            (Target::Backend(backend), Some(backends)) => {
                let to = (backend.address(), backend.port());
                assert!(backends.contains(&Some(to)), "{to:?} is no backend");
                self.0.insert((cookie, to, protocol), ends.to);
            }
            (target, backends) => panic!("{target:?} among {backends:?}"),
        }
        for ((cookie, (address, port), protocol), asked) in &self.0 {
            let shown = origin(world, *cookie, address, *port, *protocol);
            assert_eq!(shown.map(|shown| (shown.address(), shown.port())), Some(*asked));
        }
        let (address, port) = ends.from;
        let known = self.0.contains_key(&(cookie, ends.from, protocol));
        assert_eq!(origin(world, cookie, &address, port, protocol).is_some(), known);
    }
}
