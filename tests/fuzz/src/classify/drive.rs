//! A packet through one of the hooks.

use tombolo_abi::{DropReason, EndpointValue, Hook};
use tombolo_datapath::{
    Headers, Link, Packet, Report, Translation, Tuple, Verdict, classify, hook, refuse,
    testing::{Frame, Memory, Summed},
};

use super::reference::{Ends, Reference};

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Case {
    pub hook: Hook,
    /// The device of a pod's hook.
    pub ifindex: u32,
    pub bytes: Vec<u8>,
    /// Whether the node has a route for it, and whether it fits the tunnel.
    pub routed: bool,
    pub fits: bool,
}

/// Where a packet that is not dropped goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Pass,
    ToPod(EndpointValue),
    ToUnderlay,
    ToTunnel(u32),
}

/// What became of a packet.
#[derive(Debug)]
pub struct Outcome {
    pub way: Result<Way, DropReason>,
    /// The connection as the datapath has it afterwards.
    pub ends: Ends,
    pub bytes: Vec<u8>,
    /// What is said about a packet that came from a pod and has no backend to go to.
    pub refusal: Option<Refusal>,
}

/// Whether a packet is answered, and what it has become by that.
#[derive(Debug)]
pub struct Refusal {
    pub answered: bool,
    pub bytes: Vec<u8>,
}

/// Sends a packet through its hook and has it judged; returns what came out when it goes on.
pub fn drive(case: &Case, world: &Memory, reference: &mut Reference) -> Option<(Way, Vec<u8>)> {
    let link = if case.hook == Hook::MeshIngress { Link::Raw } else { Link::Ethernet };
    let (routed, fits) = (case.routed, case.fits);
    let frame = Summed::new(Frame(case.bytes.clone()), link);
    let mut packet = Carried { frame, routed, fits };
    let mut headers = Headers::default();
    let classified = classify(&packet, world, link, &mut headers);
    let before = reference.classified(case, &headers, classified)?;
    let (p, h, r) = (&mut packet, &mut headers, &mut Report::default());
    let verdict = match case.hook {
        Hook::PodEgress => hook::pod_egress(p, world, h, r, &mut Translation::none(), case.ifindex),
        Hook::PodIngress => hook::pod_ingress(p, world, h, r, case.ifindex),
        Hook::NetIngress => hook::net_ingress(p, world, h, r),
        Hook::NetEgress => hook::net_egress(p, world, h, r),
        Hook::MeshIngress => hook::mesh_ingress(p, world, h, r),
    };
    let way = verdict.map(|verdict| match verdict {
        Verdict::Pass => Way::Pass,
        Verdict::ToPod(pod) => Way::ToPod(*pod),
        Verdict::ToUnderlay => Way::ToUnderlay,
        Verdict::ToTunnel(device) => Way::ToTunnel(device),
    });
    assert!(way.is_err() || packet.frame.is_right(), "the sum over the whole packet");
    let bytes = packet.frame.frame.0.clone();
    let refusal = (way == Err(DropReason::NoBackend))
        .then(|| Refusal { answered: refuse(&mut packet, world, &headers), bytes: packet.frame.frame.0 });
    let outcome = Outcome { way, ends: Ends::of(&headers), bytes, refusal };
    reference.judge(world, case, &before, &outcome);
    Some((way.ok()?, outcome.bytes))
}

/// A frame, and what the node would say about its way.
struct Carried {
    frame: Summed,
    routed: bool,
    fits: bool,
}

impl Packet for Carried {
    fn len(&self) -> u32 {
        self.frame.len()
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.load(offset)
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.frame.store(offset, bytes)
    }

    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.frame.store_summed(offset, bytes)
    }

    fn add_checksum(&mut self, offset: usize, difference: u32, pseudo: bool, zero: bool) -> Option<()> {
        self.frame.add_checksum(offset, difference, pseudo, zero)
    }

    fn route(&mut self, _: &Tuple, _: bool) -> bool {
        self.routed
    }

    fn has_socket(&mut self, _: &Tuple, _: bool) -> bool {
        false
    }

    fn set_len(&mut self, len: usize) -> Option<()> {
        self.frame.set_len(len)
    }

    fn take_out(&mut self, count: usize) -> Option<()> {
        self.frame.take_out(count)
    }

    fn fits(&mut self, _: u32) -> bool {
        self.fits
    }
}
