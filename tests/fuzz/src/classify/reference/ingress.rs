//! What comes to a pod: from the node's stack, from the underlay, from the tunnel.

use tombolo_abi::{ConfigFlags, Direction, DropReason, EndpointValue};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Case, Outcome, Way},
    Ends, Kind, Parsed, Reference, Seen,
    connections::Pods,
    may_fail,
    net_egress::in_ranges,
    pod_egress::{is_local_only, to_pod},
    rules::{Answer, Answers, answer, endpoint, is_own, is_remote, owner},
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
        if let Err(reason @ (DropReason::RewriteFailed | DropReason::SctpFragmented)) = outcome.way {
            self.connections.doubt(&Ends { to: outcome.ends.to, ..packet.ends });
            return assert!(may_fail(packet, outcome, reason), "it can be changed");
        }
        let Some(ends) = self.answered(world, packet, outcome) else { return };
        let Some(pod) = endpoint(world, &ends.to.0) else {
            assert_eq!((outcome.way, outcome.ends.from), (Ok(Way::Pass), ends.from));
            return assert_eq!(outcome.ends.to, ends.to, "the receiver");
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

    /// Answers to masqueraded connections are given back to their pods, nothing else is changed. None when it is not known
    /// to which of a pod's ports one comes.
    fn answered(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) -> Option<Ends> {
        let (config, to) = (&world.config, packet.ends.to);
        let to_node = to.0 == *config.node(packet.v6) && config.flags().contains(ConfigFlags::MASQUERADE);
        let without_port = to.1 == 0 && packet.kind() == Kind::Other && !packet.is_error();
        let mut ends = packet.ends;
        if to_node && (in_ranges(config, to.1) || without_port) {
            if let Ok(behind) = self.nat.behind(packet, world.now.get()) {
                // What a pod that is gone has asked concerns nobody.
                let pod = behind.filter(|(pod, number)| {
                    endpoint(world, &pod.0).is_some_and(|endpoint| endpoint.endpoint() == *number)
                });
                ends.to = pod.map_or(to, |(pod, _)| pod);
                assert_eq!(outcome.ends.to.0, ends.to.0, "whose connection it answers");
            } else {
                ends.to = outcome.ends.to;
                if self.connections.are_changed(&ends.to.0, &ends.from) {
                    self.connections.doubt_between(&ends.to.0, &ends.from);
                    return None;
                }
            }
        }
        if packet.kind() == Kind::Echo {
            // Both ends of an echo have its identifier.
            ends.from.1 = ends.to.1;
        }
        Some(ends)
    }

    fn enter_pod(
        &mut self,
        world: &Memory,
        packet: &Parsed,
        outcome: &Outcome,
        (pod, ends, way): (&EndpointValue, Ends, Way),
    ) {
        let pods = Pods { sender: 0, receiver: pod.endpoint() };
        let seen = self.seen(world, &ends, None, packet, pods);
        let known = seen != Seen::New;
        // An error comes from anybody on the way, its connection from the other end.
        let follows = packet.is_error() && (known || ends.to.0 != packet.ends.to.0);
        let peer = if follows { &ends.from.0 } else { &packet.sender };
        let back = answer(world, pod, Direction::Egress, peer, (packet, ends.from.1, true));
        if !known && ends.to.0 != packet.ends.to.0 {
            return self.answers_pod(world, packet, outcome, (&ends, pods, way), back);
        }
        let forward = answer(world, pod, Direction::Ingress, peer, (packet, ends.to.1, known));
        let answers = Answers { forward, back };
        let passed = self.decided(world, (&ends, None, pods), (seen, answers), packet, outcome);
        if passed {
            assert_eq!(outcome.way, Ok(way));
            assert_eq!(outcome.ends.to.0, ends.to.0, "the receiver");
        }
    }

    /// An answer to what was masqueraded is one however long ago the pod has asked: if the pod may ask, it comes in, and the
    /// pod stays the opener.
    fn answers_pod(
        &mut self,
        world: &Memory,
        packet: &Parsed,
        outcome: &Outcome,
        (ends, pods, way): (&Ends, Pods, Way),
        rules: Answer,
    ) {
        let now = world.now.get();
        match outcome.way {
            Ok(went) => {
                assert_eq!((went, outcome.ends.to), (way, ends.to));
                assert_ne!(rules, Answer::Deny, "the pod may not ask any more");
                let asked = Ends { from: ends.to, to: ends.from, ..*ends };
                self.connections.open(&asked, None, false, packet, (now, pods.turned()));
                let seen = self.seen(world, ends, None, packet, pods);
                self.connections.note(ends, packet, (seen, pods), true, now);
            }
            Err(DropReason::PolicyDenied) => assert_ne!(rules, Answer::Allow, "the pod may ask"),
            Err(reason) => assert!(reason == DropReason::FlowTableFull && world.full, "{reason:?}"),
        }
    }
}
