//! What the node is: the one entry of the array `CONFIG`.

use bytemuck::{Pod, Zeroable};

use crate::{Address, NatPorts, NatTimeouts, record::room};

flags! {
    /// Which parts are on.
    ConfigFlags: u32 {
        /// The entry has been written; without it pods' packets are dropped.
        READY = 1;
        /// Packets of pods to the outside get the node's address.
        MASQUERADE = 2;
        /// Services are translated per packet.
        SERVICES = 4;
        /// Programs of the version before run, too, and open connections: so do they with what is not known here.
        BEFORE_OPENS = 8;
        /// Programs of the version before run, too, and know connections that are not known here; new ones are opened here.
        BEFORE_KNOWS = 16;
    }
}

impl ConfigFlags {
    /// The flags of a handover from the version before.
    pub const HANDOVER: Self = Self::BEFORE_OPENS.with(Self::BEFORE_KNOWS);
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
    nat_ports: NatPorts,
    nat_timeouts: NatTimeouts,
    connection_limit: u32,
    reserved: [u8; room(0)],
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
    /// Ports that masquerading may take. The agent keeps the kernel from giving them to the host
    /// (`ip_local_reserved_ports`).
    pub nat_ports: NatPorts,
    /// For how long it keeps them.
    pub nat_timeouts: NatTimeouts,
    /// How many connections a pod may have in `FLOW`; 0 for as many as there is room.
    pub connection_limit: u32,
    /// Which parts are on; [`ConfigFlags::READY`] is added.
    pub flags: ConfigFlags,
}

impl ConfigBuilder {
    /// The value for the map.
    pub const fn build(&self) -> Config {
        Config {
            node_v4: self.node_v4,
            node_v6: self.node_v6,
            gateway_v4: self.gateway_v4,
            gateway_v6: self.gateway_v6,
            flags: self.flags.with(ConfigFlags::READY),
            tunnel_ifindex: self.tunnel_ifindex,
            nat_ports: self.nat_ports,
            nat_timeouts: self.nat_timeouts,
            connection_limit: self.connection_limit,
            reserved: [0; room(0)],
        }
    }
}

impl Config {
    /// The node's address of the family.
    #[inline(always)]
    pub const fn node(&self, v6: bool) -> &Address {
        if v6 { &self.node_v6 } else { &self.node_v4 }
    }

    /// How many connections a pod may have in `FLOW`; 0 for as many as there is room.
    #[inline(always)]
    pub const fn connection_limit(&self) -> u32 {
        self.connection_limit
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

    /// The same in this phase of a handover: one of the flags of [`ConfigFlags::HANDOVER`], or none.
    #[must_use]
    pub const fn in_handover(mut self, phase: ConfigFlags) -> Self {
        self.flags = self.flags.without(ConfigFlags::HANDOVER).with(phase);
        self
    }

    /// Index of the tunnel device, 0 while there is none.
    #[inline(always)]
    pub const fn tunnel_ifindex(&self) -> u32 {
        self.tunnel_ifindex
    }

    /// Ports that masquerading may take.
    #[inline(always)]
    pub const fn nat_ports(&self) -> &NatPorts {
        &self.nat_ports
    }

    /// For how long it keeps them.
    #[inline(always)]
    pub const fn nat_timeouts(&self) -> &NatTimeouts {
        &self.nat_timeouts
    }
}

record!(Config { node_v4, node_v6, gateway_v4, gateway_v6, flags, tunnel_ifindex, nat_ports, nat_timeouts, connection_limit; reserved });

const _: () = assert!(size_of::<Config>() == room(112));
