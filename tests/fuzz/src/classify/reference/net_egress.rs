//! What is about to leave on the underlay: nothing for other clusters, and nothing to the outside with a pod's address,
//! but for answers to who has called it by that.

use tombolo_abi::{AddressFlags, Config, ConfigFlags, DropReason, EndpointValue, identity};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Outcome, Way},
    Kind, Parsed, Reference, Seen,
    connections::Pods,
    may_fail,
    rules::{endpoint, is_own, is_remote, owner},
    untouched,
};

/// So many ports are tried before a connection is refused, one after the other.
const TRIED: usize = 48;

impl Reference {
    pub(super) fn net_egress(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) {
        let to = owner(world, &packet.ends.to.0);
        let pod = endpoint(world, &packet.sender);
        if is_remote(to) {
            if pod.is_none() && to.identity() == identity::REMOTE_NODE {
                return untouched(packet, outcome);
            }
            return assert_eq!(outcome.way, Err(DropReason::Unencrypted), "to another cluster in clear");
        }
        let (config, node) = (&world.config, *world.config.node(packet.v6));
        let is_known = is_own(to) || to.flags().contains(AddressFlags::NO_MASQUERADE);
        let hides = config.flags().contains(ConfigFlags::MASQUERADE) && node != [0; 16];
        if pod.is_none() || is_known || !hides {
            return untouched(packet, outcome);
        }
        if packet.is_error() && packet.ends.from.0 != packet.sender {
            // No pod gets such a packet past `pod_egress`.
            return;
        }
        let number = pod.map_or(0, EndpointValue::endpoint);
        let seen = self.seen(world, &packet.ends, None, packet, Pods { sender: number, receiver: 0 });
        self.connections.note(&packet.ends, packet, (seen, Pods::NONE), outcome.way.is_ok(), world.now.get());
        match seen {
            Seen::Reply { .. } => untouched(packet, outcome),
            Seen::Unsure if outcome.way == Ok(Way::Pass) && outcome.ends == packet.ends => {}
            _ => self.hidden(world, packet, outcome, number),
        }
    }

    /// The packet has the node's address and a port of the range.
    fn hidden(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome, number: u32) {
        let (outside, kind) = (packet.ends.to, packet.kind());
        let ports = world
            .config
            .nat_ports()
            .ranges()
            .map(|(first, last)| (usize::from(last) + 1).saturating_sub(first.into()));
        let doubtful = self.nat.is_doubtful(outside.0, packet.ends.protocol);
        match outcome.way {
            Ok(way) => {
                let (from, to) = (outcome.ends.from, outcome.ends.to);
                assert_eq!(
                    (way, from.0),
                    (Way::Pass, *world.config.node(packet.v6)),
                    "the pod's address leaks"
                );
                let in_range = in_ranges(&world.config, from.1);
                assert!(in_range || kind == Kind::Other || doubtful, "port {}", from.1);
                let echo = if kind == Kind::Echo { (outside.0, from.1) } else { outside };
                assert_eq!(to, echo, "the receiver");
                if !doubtful {
                    let in_ranges = |port| kind == Kind::Other || in_ranges(&world.config, port);
                    self.nat.masqueraded(packet, number, from, in_ranges, world.now.get());
                }
            }
            Err(DropReason::SnatExhausted) => {
                let ports = if kind == Kind::Other { 1 } else { ports.iter().sum::<usize>().min(TRIED) };
                let used = self.nat.used(outside.0, packet.ends.protocol, world.now.get());
                assert!(world.full || doubtful || used >= ports, "{used} ports are taken");
            }
            Err(DropReason::NoRoute) => assert!(packet.is_error(), "there is a way"),
            Err(reason @ (DropReason::RewriteFailed | DropReason::SctpFragmented)) => {
                assert!(may_fail(packet, outcome, reason), "it can be changed");
                self.nat.doubt(outside.0, packet.ends.protocol);
            }
            Err(reason) => panic!("{reason:?}"),
        }
    }
}

/// Whether a port is one of those that masquerading may take.
pub(super) fn in_ranges(config: &Config, port: u16) -> bool {
    config.nat_ports().ranges().iter().any(|(first, last)| (*first..=*last).contains(&port))
}
