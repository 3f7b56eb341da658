//! What is about to leave on the underlay: nothing for other clusters, and nothing to the outside with a pod's address,
//! but for answers to who has called it by that.

use tombolo_abi::{AddressFlags, ConfigFlags, DropReason, identity};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Outcome, Way},
    Kind, Parsed, Reference, Seen, may_fail,
    rules::{endpoint, is_own, is_remote, owner},
    untouched,
};

/// So many ports are tried before a connection is refused, one after the other.
const TRIED: usize = 16;

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
        let seen = self.seen(world, &packet.ends, None, packet);
        self.connections.note(&packet.ends, packet, seen, outcome.way.is_ok(), world.now.get());
        match seen {
            Seen::Reply { .. } => untouched(packet, outcome),
            Seen::Unsure if outcome.way == Ok(Way::Pass) && outcome.ends == packet.ends => {}
            _ => self.hidden(world, packet, outcome),
        }
    }

    /// The packet has the node's address and a port of the range.
    fn hidden(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) {
        let (outside, kind) = (packet.ends.to, packet.kind());
        let (first, last) = world.config.snat_ports();
        let doubtful = self.nat.is_doubtful(outside.0, packet.ends.protocol);
        match outcome.way {
            Ok(way) => {
                let (from, to) = (outcome.ends.from, outcome.ends.to);
                assert_eq!(
                    (way, from.0),
                    (Way::Pass, *world.config.node(packet.v6)),
                    "the pod's address leaks"
                );
                let old = self.nat.port(&packet.ends);
                let in_range = (first..=last).contains(&from.1) || old == Some(from.1);
                assert!(in_range || kind == Kind::Other || doubtful, "port {}", from.1);
                let echo = if kind == Kind::Echo { (outside.0, from.1) } else { outside };
                assert_eq!(to, echo, "the receiver");
                if !doubtful {
                    self.nat.masqueraded(packet, from, world.now.get());
                }
            }
            Err(DropReason::SnatExhausted) => {
                let ports = if kind == Kind::Other { 1 } else { (usize::from(last - first) + 1).min(TRIED) };
                let used = self.nat.used(outside.0, packet.ends.protocol);
                assert!(world.full || doubtful || used >= ports, "{used} ports are taken");
            }
            Err(DropReason::NoRoute) => assert!(packet.is_error(), "there is a way"),
            Err(DropReason::RewriteFailed) => {
                assert!(may_fail(packet, outcome), "it can be changed");
                self.nat.doubt(outside.0, packet.ends.protocol);
            }
            Err(reason) => panic!("{reason:?}"),
        }
    }
}
