//! The pods of this node: the map `ENDPOINT`, keyed by [`AddressKey`](crate::AddressKey).

use bytemuck::{Pod, Zeroable};

/// An Ethernet address.
pub type Mac = [u8; 6];

flags! {
    /// What is enforced for a pod.
    EndpointFlags: u32 {
        /// Only what a policy allows comes in.
        INGRESS_ENFORCED = 1;
        /// Only what a policy allows goes out.
        EGRESS_ENFORCED = 2;
    }
}

/// A local pod; one entry for each of its addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct EndpointValue {
    ifindex: u32,
    endpoint: u32,
    identity: u32,
    flags: EndpointFlags,
    pod_mac: Mac,
    host_mac: Mac,
}

impl EndpointValue {
    /// A pod behind the host-side veth `ifindex`: `endpoint` is its number in `POLICY` (unique on the node),
    /// `pod_mac` and `host_mac` are the Ethernet addresses of the two ends of the veth.
    pub const fn new(
        ifindex: u32,
        endpoint: u32,
        identity: u32,
        flags: EndpointFlags,
        pod_mac: Mac,
        host_mac: Mac,
    ) -> Self {
        Self { ifindex, endpoint, identity, flags, pod_mac, host_mac }
    }

    /// Index of the host-side veth.
    #[inline(always)]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Number of the pod in `POLICY`.
    #[inline(always)]
    pub const fn endpoint(&self) -> u32 {
        self.endpoint
    }

    /// Security identity.
    #[inline(always)]
    pub const fn identity(&self) -> u32 {
        self.identity
    }

    /// What is enforced.
    #[inline(always)]
    pub const fn flags(&self) -> EndpointFlags {
        self.flags
    }

    /// Ethernet address of the pod's end of the veth.
    #[inline(always)]
    pub const fn pod_mac(&self) -> Mac {
        self.pod_mac
    }

    /// Ethernet address of the host's end of the veth.
    #[inline(always)]
    pub const fn host_mac(&self) -> Mac {
        self.host_mac
    }
}

record!(EndpointValue { ifindex, endpoint, identity, flags, pod_mac, host_mac });

const _: () = assert!(size_of::<EndpointValue>() == 28);
