//! What a pod sends: from its own address only, to where its rules and those of a local receiver let it; to a service by one
//! of its backends; to other clusters through the tunnel only.

use tombolo_abi::{Address, ConfigFlags, Direction, DropReason, EndpointValue, protocol};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Case, Outcome, Way},
    End, Ends, Kind, Parsed, Reference, Seen,
    connections::{Meant, Pods},
    may_fail,
    rules::{Answers, answer, backends, endpoint, is_own, is_remote, owner, service},
    untouched,
};

impl Reference {
    pub(super) fn pod_egress(&mut self, world: &Memory, case: &Case, packet: &Parsed, outcome: &Outcome) {
        let own = packet.sender;
        if packet.v6 && packet.protocol == protocol::ICMPV6 && (is_link_local(&own) || own == [0; 16]) {
            // Neighbour discovery is between the pod and the node's stack.
            return untouched(packet, outcome);
        }
        let sender = endpoint(world, &own);
        let Some(pod) = sender.filter(|pod| pod.ifindex() == case.ifindex && packet.ends.from.0 == own)
        else {
            return assert_eq!(outcome.way, Err(DropReason::SourceSpoofed), "not the pod's own address");
        };
        let flags = world.config.flags();
        if !flags.contains(ConfigFlags::READY) {
            return assert_eq!(outcome.way, Err(DropReason::NotConfigured));
        }
        let services = flags.contains(ConfigFlags::SERVICES) && packet.kind() == Kind::Ports;
        let direct = Some((packet.ends.to, None));
        let Some((to, frontend)) = (if services { self.service(world, packet, outcome) } else { direct })
        else {
            return;
        };
        let hairpin = frontend.filter(|_| to.0 == own);
        let from = if hairpin.is_some() { *world.config.gateway(packet.v6) } else { own };
        let receiver = endpoint(world, &to.0).map_or(0, EndpointValue::endpoint);
        let pods = Pods { sender: pod.endpoint(), receiver };
        let Some((ends, meant)) = self.client(world, (packet, outcome), (from, to, frontend), pods) else {
            return;
        };
        match meant.filter(|_| hairpin.is_some()) {
            Some(meant) => self.hairpin(world, packet, outcome, pod, (ends, meant)),
            None => self.onward(world, case, packet, outcome, (pod, ends, meant)),
        }
    }

    /// A packet to a frontend goes to a backend, and all packets of a connection to the same one. Returns where the packet
    /// goes, and the frontend that it went to; none when nothing more is said about it.
    fn service(&mut self, world: &Memory, packet: &Parsed, outcome: &Outcome) -> Option<(End, Option<End>)> {
        let frontend = packet.ends.to;
        let Some(service) = service(world, &frontend, packet.ends.protocol) else {
            return Some((frontend, None));
        };
        if packet.is_error() {
            // It follows its connection; without one, it is about nothing and can do no harm.
            return None;
        }
        let backends = backends(world, service);
        let doubtful = self.chosen_is_doubtful.contains(&packet.ends);
        let before = self.chosen.get(&packet.ends).copied().filter(|_| !doubtful);
        let may_move = packet.opens() || packet.ends.protocol == protocol::UDP;
        let stays = before.filter(|(_, services)| !may_move || *services == self.services);
        if stays.is_none() && self.given.get(&packet.ends) != Some(&outcome.ends.from.1) {
            // Whoever gets a backend anew begins with the client's own port.
            self.given.remove(&packet.ends);
        }
        let to = outcome.ends.to;
        let is_hairpin = to.0 == packet.sender;
        let moved = to != frontend;
        match outcome.way {
            Err(DropReason::NoBackend) => {
                assert!(backends.is_empty() || backends.contains(&None), "it has backends");
                assert!(stays.is_none(), "its backend is {stays:?}");
                return None;
            }
            Err(DropReason::FlowTableFull) if !moved => {
                assert!(world.full, "there is room for it");
                return None;
            }
            Err(reason @ (DropReason::RewriteFailed | DropReason::SctpFragmented))
                if !moved || is_hairpin =>
            {
                assert!(may_fail(packet, outcome, reason), "it can be changed");
                self.chosen_is_doubtful.insert(packet.ends);
                return None;
            }
            _ => assert!(moved || doubtful, "it goes on to the frontend"),
        }
        let known = backends.contains(&Some(to)) || before.is_some_and(|(before, _)| before == to);
        assert!(known || doubtful, "{to:?} is no backend");
        assert!(stays.is_none_or(|(before, _)| before == to), "from {stays:?} to {to:?} in midstream");
        // Only who may move is asked whether the backend is still there.
        let since = before.filter(|_| !may_move).map_or(self.services, |(_, since)| since);
        self.chosen.insert(packet.ends, (to, since));
        Some((to, Some(frontend)))
    }

    /// A pod always reaches itself through a service, and sees the gateway as the client.
    fn hairpin(
        &mut self,
        world: &Memory,
        packet: &Parsed,
        outcome: &Outcome,
        pod: &EndpointValue,
        (ends, meant): (Ends, Meant),
    ) {
        let pods = Pods { sender: pod.endpoint(), receiver: pod.endpoint() };
        let seen = self.seen(world, &ends, Some(meant), packet, pods);
        match outcome.way {
            Ok(way) => {
                if matches!(seen, Seen::Reply { .. } | Seen::Unsure) {
                    return self.connections.doubt(&ends);
                }
                assert_eq!(way, to_pod(pod, packet));
                assert_eq!(outcome.ends.from, ends.from, "it is seen as another client");
                if seen == Seen::New {
                    let at = (world.now.get(), pods);
                    self.connections.open(&ends, Some(meant), true, packet, at);
                }
                self.connections.note(&ends, packet, (seen, Pods::NONE), true, world.now.get());
            }
            Err(DropReason::FlowTableFull) => assert!(world.full, "there is room for it"),
            Err(DropReason::TranslationConflict) => {
                assert!(matches!(seen, Seen::Conflict | Seen::Unsure), "nothing is in the way: {seen:?}");
            }
            // The answer of another connection of the gateway: by rules.
            Err(DropReason::PolicyDenied) => assert!(matches!(seen, Seen::Reply { .. } | Seen::Unsure)),
            Err(reason) => panic!("{reason:?}"),
        }
    }

    fn onward(
        &mut self,
        world: &Memory,
        case: &Case,
        packet: &Parsed,
        outcome: &Outcome,
        (pod, ends, meant): (&EndpointValue, Ends, Option<Meant>),
    ) {
        let to = ends.to;
        let (other, owner) = (endpoint(world, &to.0), owner(world, &to.0));
        let pods = Pods { sender: pod.endpoint(), receiver: other.map_or(0, EndpointValue::endpoint) };
        let seen = self.seen(world, &ends, meant, packet, pods);
        if let (Seen::Reply { hairpin: true, meant }, Ok(way)) = (seen, outcome.way) {
            self.connections.note(&ends, packet, (seen, Pods::NONE), true, world.now.get());
            self.restored(seen, &ends, outcome);
            assert_eq!(way, to_pod(pod, packet), "an answer to itself");
            let port = meant.map_or(to.1, |meant| meant.port);
            return assert_eq!(outcome.ends.to, (packet.sender, port), "the client of an answer to itself");
        }
        let (there, back) = ((packet, to.1, seen != Seen::New), (packet, ends.from.1, true));
        let mut rules = Answers {
            forward: answer(world, pod, Direction::Egress, &to.0, there),
            back: answer(world, pod, Direction::Ingress, &to.0, back),
        };
        if let Some(other) = other {
            let own = &packet.sender;
            rules = rules.and(Answers {
                forward: answer(world, other, Direction::Ingress, own, there),
                back: answer(world, other, Direction::Egress, own, back),
            });
        }
        let in_tunnel = other.is_none() && is_remote(owner) && !is_own(owner);
        match outcome.way {
            Err(DropReason::TranslationConflict) => {
                let wanted = matches!(seen, Seen::Conflict | Seen::Unsure);
                assert!(wanted, "nothing is in the way: {seen:?}");
                if seen == Seen::Unsure {
                    self.connections.doubt(&ends);
                }
                return;
            }
            Err(DropReason::NoRoute) => {
                assert!(in_tunnel && world.config.tunnel_ifindex() == 0, "there is a way");
            }
            Ok(_)
            | Err(
                DropReason::PolicyDenied
                | DropReason::FlowTableFull
                | DropReason::RewriteFailed
                | DropReason::SctpFragmented,
            ) => {}
            Err(reason) => panic!("{reason:?}"),
        }
        if !self.decided(world, (&ends, meant, pods), (seen, rules), packet, outcome) {
            return;
        }
        let Ok(way) = outcome.way else { return };
        if seen != Seen::Unsure {
            assert_eq!(outcome.ends.to.0, to.0, "the receiver");
        } else if outcome.ends.to != to {
            return;
        }
        if is_remote(owner) && other.is_none() {
            assert_ne!(way, Way::ToUnderlay, "to another cluster in clear");
        }
        let alive = packet.hops > 1;
        let wanted = match other {
            Some(other) => to_pod(other, packet),
            None if is_own(owner) => Way::Pass,
            None if in_tunnel && case.fits && alive => Way::ToTunnel(world.config.tunnel_ifindex()),
            None if !in_tunnel && case.routed && alive => Way::ToUnderlay,
            None => Way::Pass,
        };
        assert_eq!(way, wanted);
    }
}

/// Into a pod; without a hop left, to the stack, which answers.
pub(super) fn to_pod(pod: &EndpointValue, packet: &Parsed) -> Way {
    if packet.hops > 1 { Way::ToPod(*pod) } else { Way::Pass }
}

const fn is_link_local(address: &Address) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// Link-local or multicast: only neighbours are meant.
pub(super) const fn is_local_only(address: &Address) -> bool {
    address[0] == 0xff || is_link_local(address)
}
