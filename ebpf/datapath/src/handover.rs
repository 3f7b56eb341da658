//! While the programs of two versions run side by side, packets of one connection may meet both. Connections that this
//! version knows are its own; the others are left to the version before, until what that one knows has been carried over.

use tombolo_abi::{ConfigFlags, FlowKey, Scope, protocol};

use crate::{Headers, Tables, flow, service, snat, tables::same};

/// Whether the program of the version before is to decide about a packet.
#[inline(always)]
pub fn is_of_before<T: Tables>(tables: &T, headers: &Headers) -> bool {
    let Some(config) = tables.config() else { return false };
    if !config.flags().intersects(ConfigFlags::HANDOVER) || is_known(tables, headers) {
        return false;
    }
    if config.flags().contains(ConfigFlags::BEFORE_OPENS) {
        return true;
    }
    // It goes on with a connection, or answers one, that began before.
    let goes_on = headers.tuple.protocol == protocol::TCP && !headers.opens();
    goes_on || headers.is_error() || same(&headers.tuple.destination, config.node(headers.is_v6()))
}

/// Whether the program of the version before is to decide about a packet that no policy of this version lets through: it may
/// be the first answer to a connection that began before.
#[inline(always)]
pub fn is_denied_before<T: Tables>(tables: &T, headers: &Headers) -> bool {
    tables.config().is_some_and(|config| config.flags().intersects(ConfigFlags::HANDOVER))
        && !is_known(tables, headers)
}

#[inline(never)]
fn is_known<T: Tables>(tables: &T, headers: &Headers) -> bool {
    let t = &headers.tuple;
    let answer =
        FlowKey::new(Scope::Reverse, t.source, t.source_port, t.destination, t.destination_port, t.protocol);
    flow::is_known(tables, t)
        || tables.flow(&service::sticky_key(t), |_| ()).is_some()
        || tables.snat(&snat::forward(t), |_| ()).is_some()
        || tables.snat(&answer, |_| ()).is_some()
}

#[cfg(test)]
mod tests {
    use tombolo_abi::{ConfigBuilder, FlowFlags, FlowValue, NatPorts, NatTimeouts, v4_mapped};

    use super::*;
    use crate::{
        Link, classify,
        testing::{Frame, Memory},
    };

    const POD: [u8; 16] = v4_mapped([10, 1, 0, 1]);
    const NODE: [u8; 16] = v4_mapped([192, 168, 0, 1]);
    const OUTSIDE: [u8; 16] = v4_mapped([203, 0, 113, 9]);

    fn node(flags: ConfigFlags) -> Memory {
        let gateway = [0; 16];
        let (nat_ports, nat_timeouts) = (NatPorts::DEFAULT, NatTimeouts::DEFAULT);
        let config = ConfigBuilder {
            node_v4: NODE,
            node_v6: gateway,
            gateway_v4: gateway,
            gateway_v6: gateway,
            tunnel_ifindex: 0,
            nat_ports,
            nat_timeouts,
            connection_limit: 0,
            flags,
        };
        Memory { config: config.build(), ..Memory::default() }
    }

    fn of_before(memory: &Memory, number: u8, from: [u8; 16], to: [u8; 16], tcp_flags: u8) -> bool {
        let mut frame = Frame::new(number, (from, 1000), (to, 53), b"");
        if number == protocol::TCP {
            frame.0[47] = tcp_flags;
        }
        let mut headers = Headers::default();
        assert_eq!(classify(&frame, memory, Link::Ethernet, &mut headers), Ok(true));
        is_of_before(memory, &headers)
    }

    #[test]
    fn nothing_is_of_before_when_there_is_no_handover() {
        assert!(!of_before(&node(ConfigFlags::NONE), protocol::TCP, POD, OUTSIDE, 0x10));
    }

    #[test]
    fn what_is_not_known_is_of_before_until_this_version_opens() {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let before = node(ConfigFlags::BEFORE_OPENS);
        let after = node(ConfigFlags::BEFORE_KNOWS);
        for (number, from, to, flags, also_then) in [
            (protocol::TCP, POD, OUTSIDE, SYN, false),
            (protocol::TCP, POD, OUTSIDE, ACK, true),
            (protocol::TCP, OUTSIDE, POD, SYN | ACK, true),
            (protocol::UDP, POD, OUTSIDE, 0, false),
            (protocol::UDP, OUTSIDE, NODE, 0, true),
        ] {
            assert!(of_before(&before, number, from, to, flags), "{number} {flags}");
            assert_eq!(of_before(&after, number, from, to, flags), also_then, "{number} {flags}");
        }
    }

    #[test]
    fn what_is_known_is_not_of_before() {
        for scope in [Scope::Connection, Scope::Service] {
            let memory = node(ConfigFlags::BEFORE_OPENS);
            let key = FlowKey::new(scope, POD, 1000, OUTSIDE, 53, protocol::UDP);
            assert!(memory.set_flow(&key, &FlowValue::new(1, FlowFlags::FROM_SOURCE)));
            let turned = FlowKey::new(scope, OUTSIDE, 53, POD, 1000, protocol::UDP);
            assert!(memory.set_flow(&turned, &FlowValue::new(1, FlowFlags::FROM_SOURCE)));
            assert!(!of_before(&memory, protocol::UDP, POD, OUTSIDE, 0));
            assert!(of_before(&memory, protocol::UDP, POD, NODE, 0));
        }
    }
}
