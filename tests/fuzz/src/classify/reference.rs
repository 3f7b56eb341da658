//! What must never happen to a packet, and what must: a model of the datapath that looks at every entry of every map and
//! remembers what it has seen. It is written from the design, not from the programs, and panics where they differ.
//!
//! What the product does not hold yet is not asserted. What should be, and is not:
//! - A masqueraded connection finds a port while one is free. Only some are tried.
//! - A peer that is not described yet does not slip past a rule that denies others. It does.
//! - A part of an SCTP packet reaches services and the outside. Nobody knows the length that its checksum covers.
//! - A fragment that comes before the first one is delivered. It is dropped, and so are those of ICMP errors.

mod bytes;
mod classified;
mod client;
mod connections;
mod ingress;
mod nat;
mod net_egress;
mod pod_egress;
mod read;
mod refusals;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{Address, DropReason, Hook, protocol};
use tombolo_datapath::testing::Memory;

use super::drive::{Case, Outcome, Way};
use connections::{Connections, Meant, Pods, Seen};
use nat::Nat;
pub use read::{End, Ends};
use read::{Kind, Parsed, Part};
use rules::{Answer, Answers};
pub use rules::{backends, service};

/// Who talks to whom in a packet that begins with its IP header.
pub fn ends(ip: &[u8]) -> Option<Ends> {
    read::read(ip, true).ok().flatten().map(|packet| packet.ends)
}

/// What identifies a datagram.
type Datagram = (Address, Address, u32, u8);

/// The model.
#[derive(Default)]
pub struct Reference {
    connections: Connections,
    nat: Nat,
    /// The backend of a client's packets to a frontend, and the version of the services when that backend was last among
    /// them.
    chosen: BTreeMap<Ends, (End, u64)>,
    /// The port that a client was given in the place of its own, by its packets.
    given: BTreeMap<Ends, u16>,
    /// Those of both about which nothing is said.
    chosen_is_doubtful: BTreeSet<Ends>,
    /// Ports of first fragments.
    fragments: BTreeMap<Datagram, (u16, u16)>,
    /// Version of the services.
    services: u64,
}

impl Reference {
    /// Services or backends were changed.
    pub fn services_changed(&mut self) {
        self.services += 1;
    }

    /// The version of the services.
    pub const fn services(&self) -> u64 {
        self.services
    }

    /// Somebody has changed the entry of a connection in the map.
    pub fn connection_changed(&mut self, ends: &Ends) {
        self.connections.doubt(ends);
    }

    /// Somebody has changed the backend of a client in the map.
    pub fn choice_changed(&mut self, ends: Ends) {
        self.chosen_is_doubtful.insert(ends);
    }

    /// Somebody has changed the translations of connections to an outside address.
    pub fn nat_changed(&mut self, outside: Address, protocol: u8) {
        self.nat.doubt(outside, protocol);
    }

    /// Somebody has set the ports of a datagram.
    pub fn fragment_changed(&mut self, datagram: Datagram, ports: (u16, u16)) {
        self.fragments.insert(datagram, ports);
    }

    /// Judges what became of a packet. `world` has the maps of before; of connections it may have those of afterwards,
    /// they are not looked at.
    pub fn judge(&mut self, world: &Memory, case: &Case, packet: &Parsed, outcome: &Outcome) {
        if let Ok(way) = outcome.way {
            bytes::check(packet, &case.bytes, &outcome.bytes);
            let after = read::read(&outcome.bytes, case.hook == Hook::MeshIngress);
            let after = after.expect("it can still be read").expect("it is still IP");
            if packet.part != Part::Later {
                assert_eq!(after.ends, outcome.ends, "headers and packet differ");
            }
            let taken = u8::from(way != Way::Pass);
            assert_eq!(after.hops, packet.hops.wrapping_sub(taken), "hops");
            assert!(after.hops > 0 || way == Way::Pass, "it goes on without a hop left");
        }
        if let Some(refusal) = &outcome.refusal {
            refusals::check(world, case, packet, refusal);
        }
        match case.hook {
            Hook::PodEgress => self.pod_egress(world, case, packet, outcome),
            Hook::PodIngress => self.pod_ingress(world, case, packet, outcome),
            Hook::NetIngress => self.net_ingress(world, packet, outcome),
            Hook::NetEgress => self.net_egress(world, packet, outcome),
            Hook::MeshIngress => self.mesh_ingress(world, packet, outcome),
        }
    }

    fn seen(&self, world: &Memory, ends: &Ends, meant: Option<Meant>, packet: &Parsed, pods: Pods) -> Seen {
        self.connections.seen(ends, meant, packet, world.now.get(), pods)
    }

    /// Checks that a packet passed, or did not, as connections and rules want it, and notes it. Returns whether it passed.
    fn decided(
        &mut self,
        world: &Memory,
        (ends, meant, pods): (&Ends, Option<Meant>, Pods),
        (seen, rules): (Seen, Answers),
        packet: &Parsed,
        outcome: &Outcome,
    ) -> bool {
        let wanted = match seen {
            Seen::Reply { .. } => rules.back,
            // An error is judged otherwise when it follows nothing.
            Seen::Unsure if !packet.is_error() && rules.both_allow() => Answer::Allow,
            Seen::Unsure => Answer::Either,
            Seen::New | Seen::Original | Seen::Conflict => rules.forward,
        };
        let now = world.now.get();
        match outcome.way {
            Ok(_) => {
                assert_ne!(wanted, Answer::Deny, "it was let through: {seen:?}");
                let begins = matches!(seen, Seen::New | Seen::Conflict);
                if begins {
                    self.connections.open(ends, meant, false, packet, (now, pods));
                }
                self.connections.note(ends, packet, (seen, pods), true, now);
                self.restored(seen, ends, outcome);
                return true;
            }
            Err(DropReason::PolicyDenied) => {
                assert_ne!(wanted, Answer::Allow, "it was refused: {seen:?}");
                self.connections.note(ends, packet, (seen, pods), false, now);
            }
            Err(DropReason::FlowTableFull) => {
                assert!(world.full, "there is room for it");
                assert_ne!(wanted, Answer::Deny, "rules come first: {seen:?}");
            }
            Err(reason @ (DropReason::RewriteFailed | DropReason::SctpFragmented)) => {
                assert!(may_fail(packet, outcome, reason), "it can be changed");
                self.connections.doubt(ends);
            }
            Err(reason) => {
                assert_ne!(wanted, Answer::Deny, "it was dropped for something else: {reason:?}");
                self.connections.doubt(ends);
                return true;
            }
        }
        false
    }

    /// An answer comes from whom the client means, to the port that it has for itself; everything else is between its ends.
    fn restored(&self, seen: Seen, ends: &Ends, outcome: &Outcome) {
        let (from, port) = match seen {
            Seen::Reply { meant: Some(meant), .. } => (meant.frontend, meant.port),
            Seen::Reply { meant: None, .. } | Seen::New | Seen::Original | Seen::Conflict => {
                (ends.from, ends.to.1)
            }
            Seen::Unsure => return,
        };
        assert_eq!(
            (outcome.ends.from, outcome.ends.to.1),
            (from, port),
            "the sender, and the receiver's port"
        );
    }
}

/// The packet is as it was and the stack goes on with it.
fn untouched(packet: &Parsed, outcome: &Outcome) {
    assert_eq!(outcome.way, Ok(Way::Pass));
    assert_eq!(outcome.ends, packet.ends, "it is not to be changed");
}

/// Whether changing a packet may fail: a part of an SCTP packet does not tell what the checksum covers, a header that is cut
/// has no room for one, and an error says too little of what it is about.
fn may_fail(packet: &Parsed, outcome: &Outcome, reason: DropReason) -> bool {
    if reason == DropReason::SctpFragmented {
        return packet.protocol == protocol::SCTP && packet.part != Part::Whole;
    }
    let cut = match packet.protocol {
        protocol::SCTP => !bytes::has_sctp_header(packet, &outcome.bytes),
        number => bytes::checksum_of(number)
            .is_some_and(|(field, _)| packet.place.transport + field + 2 > outcome.bytes.len()),
    };
    packet.is_error() || cut
}
