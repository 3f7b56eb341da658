//! The port of a client, which may use one for several connections to the same backend: where another connection has it
//! already, the later one is given another, for all its packets.

use tombolo_abi::{Address, DropReason};
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::Outcome,
    End, Ends, Kind, Parsed, Reference, Seen,
    connections::{Meant, Pods},
    may_fail,
};

/// No lower port is given to anybody.
const FIRST: u16 = 1024;

impl Reference {
    /// The ends of the connection of a pod's packet, and what the pod means by it. None when nothing more is said.
    pub(super) fn client(
        &mut self,
        world: &Memory,
        (packet, outcome): (&Parsed, &Outcome),
        (from, to, frontend): (Address, End, Option<End>),
        pods: Pods,
    ) -> Option<(Ends, Option<Meant>)> {
        let (own, port) = (packet.ends.from.1, outcome.ends.from.1);
        let asked = Ends { to: frontend.unwrap_or(to), ..packet.ends };
        let ends = |port| Ends { from: (from, port), to, ..packet.ends };
        let as_it_is = (ends(own), frontend.map(|frontend| Meant { frontend, port: own }));
        let changed = Meant { frontend: asked.to, port: own };
        let plain = self.seen(world, &as_it_is.0, as_it_is.1, packet, pods);
        if matches!(plain, Seen::Reply { .. }) {
            return Some(as_it_is);
        }
        match outcome.way {
            Err(reason @ (DropReason::RewriteFailed | DropReason::SctpFragmented)) => {
                assert!(may_fail(packet, outcome, reason), "it can be changed");
                self.chosen_is_doubtful.insert(asked);
                self.connections.doubt(&as_it_is.0);
                return None;
            }
            Err(DropReason::FlowTableFull) if plain == Seen::Conflict && port == own => {
                assert!(world.full, "there is room for it");
                return None;
            }
            _ => {}
        }
        if plain == Seen::Unsure || self.chosen_is_doubtful.contains(&asked) {
            if port == own {
                return Some(as_it_is);
            }
            self.chosen_is_doubtful.insert(asked);
            [own, port].iter().for_each(|port| self.connections.doubt(&ends(*port)));
            return None;
        }
        let at = |port| self.seen(world, &ends(port), Some(changed), packet, pods);
        let before = self.given.get(&asked).copied();
        let goes_on = match plain {
            _ if frontend.is_some() => true,
            Seen::New => !packet.opens(),
            plain => plain == Seen::Conflict,
        };
        let kept = before.filter(|port| goes_on && matches!(at(*port), Seen::New | Seen::Original));
        if let Some(kept) = kept {
            assert_eq!(port, kept, "it stays with its port");
        } else if port == own {
            let cannot = packet.is_error() || own == 0 || packet.kind() != Kind::Ports;
            let stays = plain != Seen::Conflict || cannot || before.is_some();
            assert!(stays, "another connection has its port: {:?}", outcome.way);
            return Some(as_it_is);
        } else {
            assert!(plain == Seen::Conflict || before.is_some(), "nothing is in its way: {plain:?}");
            assert!(port >= FIRST && matches!(at(port), Seen::New | Seen::Unsure), "{port} is not free");
            self.given.insert(asked, port);
        }
        Some((ends(port), Some(changed)))
    }
}
