//! Counters of what the datapath did: the per-CPU array `METRICS`, indexed by [`Metric`].

use bytemuck::{Pod, Zeroable};

/// Packets and bytes (of the link layer where there is one; a segmented packet counts once with all its bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    packets: u64,
    bytes: u64,
}

impl Counter {
    /// Packets.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts a packet.
    #[inline(always)]
    pub const fn add(&mut self, bytes: u32) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    /// The sum, as over CPUs.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// A list of names with stable numbers from 0.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$item_doc])* $item = $number,)*
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];

            /// The name in metrics and messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                }
            }

            /// From the number; none when no name has it.
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|item| *item as u8 == number)
            }
        }
    };
}
pub(crate) use numbered;

numbered! {
    /// What was done to a packet or a socket. One packet can count under several.
    Metric {
        /// Handed to the network stack of the node.
        ToStack = 0, "to-stack";
        /// Handed to a local pod without passing the stack.
        ToPod = 1, "to-pod";
        /// Sent to the next hop on the underlay without passing the stack.
        ToUnderlay = 2, "to-underlay";
        /// Sent into the tunnel.
        ToTunnel = 3, "to-tunnel";
        /// Accepted from the tunnel.
        FromTunnel = 4, "from-tunnel";
        /// Destination changed from a frontend to a backend.
        ServiceTranslated = 5, "service-translated";
        /// Source of a reply changed back to the frontend.
        ReplyTranslated = 6, "reply-translated";
        /// Source changed to the node's address.
        Masqueraded = 7, "masqueraded";
        /// Destination of a reply changed back to the pod's address.
        Unmasqueraded = 8, "unmasqueraded";
        /// A socket's frontend replaced by a backend; bytes are not counted.
        SocketTranslated = 9, "socket-translated";
        /// A socket refused because its frontend has no backend; bytes are not counted.
        SocketRefused = 10, "socket-refused";
    }
}

numbered! {
    /// Where a packet was seen.
    Hook {
        /// Sent by a pod.
        PodEgress = 0, "pod-egress";
        /// On the way from the node's stack to a pod.
        PodIngress = 1, "pod-ingress";
        /// Arrived on a physical device.
        NetIngress = 2, "net-ingress";
        /// About to leave on a physical device.
        NetEgress = 3, "net-egress";
        /// Arrived from the tunnel.
        MeshIngress = 4, "mesh-ingress";
    }
}

numbered! {
    /// A program of a device. Its number is its place in [`PREVIOUS`](crate::map::PREVIOUS); the kernel takes 15 bytes of its
    /// name.
    DeviceProgram {
        /// See [`Hook::PodEgress`].
        PodEgress = 0, "pod_egress";
        /// See [`Hook::PodIngress`].
        PodIngress = 1, "pod_ingress";
        /// See [`Hook::NetIngress`].
        NetIngress = 2, "net_ingress";
        /// See [`Hook::NetEgress`].
        NetEgress = 3, "net_egress";
        /// See [`Hook::MeshIngress`].
        MeshIngress = 4, "mesh_ingress";
        /// The same as [`Self::NetIngress`] for devices without Ethernet header.
        NetIngressRaw = 5, "net_ingress_raw";
        /// The same as [`Self::NetEgress`] for devices without Ethernet header.
        NetEgressRaw = 6, "net_egress_raw";
    }
}

impl DeviceProgram {
    /// Where it sees packets.
    pub const fn hook(self) -> Hook {
        match self {
            Self::PodEgress => Hook::PodEgress,
            Self::PodIngress => Hook::PodIngress,
            Self::NetIngress | Self::NetIngressRaw => Hook::NetIngress,
            Self::NetEgress | Self::NetEgressRaw => Hook::NetEgress,
            Self::MeshIngress => Hook::MeshIngress,
        }
    }

    /// Whether its packets begin with the IP header.
    pub const fn is_raw(self) -> bool {
        matches!(self, Self::MeshIngress | Self::NetIngressRaw | Self::NetEgressRaw)
    }
}

record!(Counter { packets, bytes });

const _: () = assert!(size_of::<Counter>() == 16);
