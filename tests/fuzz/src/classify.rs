//! The datapath on the host: any packets at any of its hooks, between any changes of the maps. Nothing panics, and a plain
//! reference agrees with every verdict and with every byte that was changed.

mod addresses;
mod build;
mod drive;
mod reference;
mod sockets;
mod world;

use tombolo_abi::{AddressKey, Hook, protocol};
use tombolo_datapath::testing::Memory;

use crate::input::Input;
use build::{Shape, ends, packet};
use drive::{Case, Way, drive};
use reference::{Ends, Reference};
use sockets::Sockets;

/// What may happen in one run.
const STEPS: usize = 64;

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut world = world::usual();
    let (mut reference, mut sockets) = (Reference::default(), Sockets::default());
    let mut last: Option<(Case, Way, Vec<u8>)> = None;
    for _ in 0..STEPS {
        if input.is_empty() {
            return;
        }
        let case = match input.byte() % 16 {
            0..4 => Some(built(&mut input)),
            4..6 => last.as_ref().and_then(|(_, way, bytes)| onward(*way, bytes, &world)),
            6..9 => last.as_ref().and_then(|(case, way, bytes)| answer(&mut input, case, *way, bytes)),
            9 => last.as_ref().map(|(case, ..)| case.clone()),
            10 => Some(garbage(&mut input)),
            11 => {
                sockets.ask(&mut input, &world, reference.services());
                None
            }
            _ => {
                world::change(&mut input, &mut world, &mut reference);
                None
            }
        };
        let Some(case) = case else { continue };
        if let Some((way, bytes)) = drive(&case, &world, &mut reference) {
            last = Some((case, way, bytes));
        }
    }
}

fn at(hook: Hook, ifindex: u32, ip: &[u8], v6: bool) -> Case {
    let link: &[u8] = match (hook, v6) {
        (Hook::MeshIngress, _) => &[],
        (_, false) => &[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x08, 0x00],
        (_, true) => &[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x86, 0xdd],
    };
    Case { hook, ifindex, bytes: [link, ip].concat(), routed: true, fits: true }
}

/// A packet with right headers, perhaps damaged.
fn built(input: &mut Input<'_>) -> Case {
    let place = input.byte();
    let (ends, v6) = ends(input);
    let shape = Shape::choose(input, v6);
    let hook = Hook::ALL[usize::from(place % 8) % 5];
    let pod = if hook == Hook::PodIngress { ends.to } else { ends.from };
    let device = addresses::PODS.iter().position(|who| addresses::address(*who, v6) == pod.0);
    let device = device.map_or(1, |pod| pod as u32 + 1);
    let ifindex = if place & 0x10 == 0 { device } else { u32::from(place >> 5 & 3) };
    let mut case = at(hook, ifindex, &packet(&ends, &shape), v6);
    if place & 0x08 != 0 {
        damage(input, &mut case);
    }
    case
}

fn damage(input: &mut Input<'_>, case: &mut Case) {
    let choices = input.byte();
    (case.routed, case.fits) = (choices & 1 == 0, choices & 2 == 0);
    for _ in 0..choices >> 2 & 3 {
        let at = usize::from(input.byte()) % case.bytes.len();
        case.bytes[at] = input.byte();
    }
    if choices & 0x10 != 0 {
        let len = usize::from(input.byte()) % case.bytes.len();
        case.bytes.truncate(len);
    }
    if choices & 0x20 != 0 && case.bytes.len() > 14 {
        // A tag that the kernel has not taken off.
        drop(case.bytes.splice(12..12, [0x81, 0, 0, 5]));
    }
}

/// Any bytes, in a frame of an IP family so that somebody looks at them.
fn garbage(input: &mut Input<'_>) -> Case {
    let (place, len) = (input.byte(), input.byte());
    let hook = Hook::ALL[usize::from(place & 7) % 5];
    at(hook, u32::from(place >> 5 & 3), input.bytes(len.into()), place & 8 != 0)
}

/// The packet that came out last, where it goes next.
fn onward(way: Way, bytes: &[u8], world: &Memory) -> Option<Case> {
    let (ip, v6) = without_link(bytes)?;
    match way {
        // From the stack, either out of the node or into a pod.
        Way::Pass => {
            let to = reference::ends(ip)?.to.0;
            let pod = world.endpoints.get(&AddressKey::new(to));
            Some(pod.map_or_else(
                || at(Hook::NetEgress, 0, ip, v6),
                |pod| at(Hook::PodIngress, pod.ifindex(), ip, v6),
            ))
        }
        Way::ToUnderlay => Some(at(Hook::NetEgress, 0, ip, v6)),
        Way::ToPod(_) | Way::ToTunnel(_) => None,
    }
}

/// An answer to the packet that came out last, or an ICMP error about it, from wherever it went.
fn answer(input: &mut Input<'_>, case: &Case, way: Way, bytes: &[u8]) -> Option<Case> {
    let (ip, v6) = without_link(bytes)?;
    let asked = reference::ends(ip)?;
    let icmp = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
    let protocol = if input.flag() { icmp } else { asked.protocol };
    let shape = Shape::choose(input, v6);
    let ends = Ends { from: asked.to, to: asked.from, protocol };
    let packet = packet(&ends, &shape);
    let (hook, device) = match (way, case.hook) {
        (Way::ToPod(pod), _) => (Hook::PodEgress, pod.ifindex()),
        (Way::ToTunnel(_), _) => (Hook::MeshIngress, 0),
        (Way::Pass, Hook::PodIngress) => (Hook::PodEgress, case.ifindex),
        (Way::Pass, Hook::PodEgress) => (Hook::PodIngress, case.ifindex),
        (Way::Pass | Way::ToUnderlay, _) => (Hook::NetIngress, 0),
    };
    Some(at(hook, device, &packet, v6))
}

/// The IP packet in what came out of a hook, and whether it is IPv6.
fn without_link(bytes: &[u8]) -> Option<(&[u8], bool)> {
    match (bytes.first()? >> 4, bytes.get(12..14)) {
        (_, Some([0x08, 0x00])) => Some((bytes.get(14..)?, false)),
        (_, Some([0x86, 0xdd])) => Some((bytes.get(14..)?, true)),
        (4, _) => Some((bytes, false)),
        (6, _) => Some((bytes, true)),
        _ => None,
    }
}
