//! What comes to a pod: from the node's stack, from the underlay, from the tunnel.

use tombolo_abi::{ConfigFlags, Direction, DropReason, EndpointValue};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Case, Outcome, Way},
    Ends, Kind, Parsed, Reference, may_fail,
    pod_egress::{is_local_only, to_pod},
    rules::{answer, endpoint, is_own, is_remote, owner},
    untouched,
};

impl Reference {
    pub(super) fn pod_ingress(&mut self, world: &Memory, case: &Case, packet: &Parsed, outcome: &Outcome) {
        let to = packet.ends.to.0;
        if packet.v6 && is_local_only(&to) {
            return untouched(packet, outcome);
        }
        match endpoint(world, &to).filter(|pod| pod.ifindex() == case.ifindex) {
            Some(pod) => self.enter_pod(world, packet, outcome, (pod, packet.ends, Way::Pass)),
            None => assert_eq!(outcome.way, Err(DropReason::NoRoute), "another pod's device"),
        }
    }

    pub(super) fn net_ingress(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) {
        if outcome.way == Err(DropReason::RewriteFailed) {
            self.connections.doubt(&Ends { to: outcome.ends.to, ..packet.ends });
            return assert!(may_fail(packet, outcome), "it can be changed");
        }
        let ends = self.answered(world, packet, outcome);
        let Some(pod) = endpoint(world, &ends.to.0) else {
            assert_eq!((outcome.way, outcome.ends.from), (Ok(Way::Pass), ends.from));
            return;
        };
        let from = owner(world, &packet.sender);
        if is_own(from) || is_remote(from) || endpoint(world, &packet.sender).is_some() {
            // Pods and addresses of this node, and other clusters, are not on the underlay.
            return assert_eq!(outcome.way, Err(DropReason::SourceSpoofed));
        }
        self.enter_pod(world, packet, outcome, (pod, ends, to_pod(pod, packet)));
    }

    pub(super) fn mesh_ingress(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) {
        if !is_remote(owner(world, &packet.sender)) {
            return assert_eq!(outcome.way, Err(DropReason::SourceSpoofed), "it is not behind the tunnel");
        }
        if let Some(pod) = endpoint(world, &packet.ends.to.0) {
            return self.enter_pod(world, packet, outcome, (pod, packet.ends, to_pod(pod, packet)));
        }
        if is_own(owner(world, &packet.ends.to.0)) {
            return untouched(packet, outcome);
        }
        assert_eq!(outcome.way, Err(DropReason::NoRoute), "a node is no way from cluster to cluster");
    }

    /// Answers to masqueraded connections are given back to their pods, nothing else is changed.
    fn answered(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) -> Ends {
        let (config, to) = (&world.config, packet.ends.to);
        let (first, last) = config.snat_ports();
        let to_node = to.0 == *config.node(packet.v6) && config.flags().contains(ConfigFlags::MASQUERADE);
        let without_port = to.1 == 0 && packet.kind() == Kind::Other && !packet.is_error();
        let mut ends = Ends { to: outcome.ends.to, ..packet.ends };
        if packet.kind() == Kind::Echo {
            // Both ends of an echo have its identifier.
            ends.from.1 = ends.to.1;
        }
        if to_node && ((first..=last).contains(&to.1) || without_port) {
            if let Ok(pod) = self.nat.behind(&packet.ends, world.now.get()) {
                assert_eq!(ends.to, pod.unwrap_or(to), "whose connection it answers");
            }
        } else {
            assert_eq!(ends.to, to, "the receiver");
        }
        ends
    }

    fn enter_pod(
        &mut self,
        world: &Memory,
        packet: &Parsed,
        outcome: &Outcome,
        (pod, ends, way): (&EndpointValue, Ends, Way),
    ) {
        let peer = owner(world, &packet.sender).identity();
        let answer = answer(world, pod, Direction::Ingress, peer, packet, ends.to.1);
        let seen = self.seen(world, &ends, None, packet);
        let passed = self.decided(world, (&ends, None), (seen, answer), packet, outcome);
        if passed {
            assert_eq!(outcome.way, Ok(way));
            assert_eq!(outcome.ends.to, ends.to, "the receiver");
        }
    }
}
