//! What the node is: the one entry of the array `CONFIG`.

use bytemuck::{Pod, Zeroable};

use crate::Address;

flags! {
    /// Which parts are on.
    ConfigFlags: u32 {
        /// The entry has been written; without it pods' packets are dropped.
        READY = 1;
        /// Packets of pods to the outside get the node's address.
        MASQUERADE = 2;
        /// Services are translated per packet.
        SERVICES = 4;
    }
}

/// Value of `CONFIG`; may be replaced at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Config {
    node_v4: Address,
    node_v6: Address,
    gateway_v4: Address,
    gateway_v6: Address,
    flags: ConfigFlags,
    tunnel_ifindex: u32,
    snat_first: u16,
    snat_last: u16,
    reserved: [u8; 4],
}

/// The parts of a [`Config`] by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigBuilder {
    /// The node's IPv4 address as v4-mapped, to which pods are masqueraded; zero when it has none.
    pub node_v4: Address,
    /// The same for IPv6.
    pub node_v6: Address,
    /// The link-local gateway of pods (169.254.1.1 as v4-mapped), which also hides a pod that reaches itself through
    /// a service.
    pub gateway_v4: Address,
    /// The same for IPv6; zero when there is none.
    pub gateway_v6: Address,
    /// Index of the tunnel device, 0 while there is none.
    pub tunnel_ifindex: u32,
    /// First and last port that masquerading may take (both included), outside of `ip_local_port_range`.
    pub snat_ports: (u16, u16),
    /// Which parts are on; [`ConfigFlags::READY`] is added.
    pub flags: ConfigFlags,
}

impl ConfigBuilder {
    /// The ports above Linux's own default range for outgoing connections.
    pub const DEFAULT_SNAT_PORTS: (u16, u16) = (61000, 65535);

    /// The value for the map. A range of ports that ends before it begins is taken the other way round.
    pub const fn build(&self) -> Config {
        let (a, b) = self.snat_ports;
        let (snat_first, snat_last) = if a <= b { (a, b) } else { (b, a) };
        Config {
            node_v4: self.node_v4,
            node_v6: self.node_v6,
            gateway_v4: self.gateway_v4,
            gateway_v6: self.gateway_v6,
            flags: self.flags.with(ConfigFlags::READY),
            tunnel_ifindex: self.tunnel_ifindex,
            snat_first,
            snat_last,
            reserved: [0; 4],
        }
    }
}

impl Config {
    /// The node's address of the family.
    #[inline(always)]
    pub const fn node(&self, v6: bool) -> &Address {
        if v6 { &self.node_v6 } else { &self.node_v4 }
    }

    /// The gateway of pods of the family.
    #[inline(always)]
    pub const fn gateway(&self, v6: bool) -> &Address {
        if v6 { &self.gateway_v6 } else { &self.gateway_v4 }
    }

    /// Which parts are on.
    #[inline(always)]
    pub const fn flags(&self) -> ConfigFlags {
        self.flags
    }

    /// Index of the tunnel device, 0 while there is none.
    #[inline(always)]
    pub const fn tunnel_ifindex(&self) -> u32 {
        self.tunnel_ifindex
    }

    /// First and last port that masquerading may take.
    #[inline(always)]
    pub const fn snat_ports(&self) -> (u16, u16) {
        (self.snat_first, self.snat_last)
    }
}

const _: () = assert!(size_of::<Config>() == 80);
