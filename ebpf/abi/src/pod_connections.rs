//! How many connections each pod has: the map `POD_CONNECTIONS`, so that no pod takes the entries of `FLOW` from others.
//! The programs add what is new, and the agent counts anew what is there.

use bytemuck::{Pod, Zeroable};

use crate::record::room;

/// Key of `POD_CONNECTIONS`: a pod of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PodKey {
    endpoint: u32,
}

impl PodKey {
    /// The pod with this number (of [`EndpointValue`](crate::EndpointValue)).
    #[inline(always)]
    pub const fn new(endpoint: u32) -> Self {
        Self { endpoint }
    }

    /// Its number.
    pub const fn endpoint(&self) -> u32 {
        self.endpoint
    }
}

/// Value of `POD_CONNECTIONS`: the connections that the pod has opened, and those from other nodes that were opened to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PodConnections {
    count: u32,
    reserved: [u8; room(4)],
}

impl PodConnections {
    /// So many.
    #[inline(always)]
    pub const fn new(count: u32) -> Self {
        Self { count, reserved: [0; room(4)] }
    }

    /// How many.
    #[inline(always)]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Adds one, unless there are as many as `limit` already (0 is none); whether it did. CPUs that add at the same time
    /// may lose some, until the agent counts anew.
    #[inline(always)]
    pub const fn admit(&mut self, limit: u32) -> bool {
        if limit != 0 && self.count >= limit {
            return false;
        }
        self.count = self.count.saturating_add(1);
        true
    }
}

record!(PodKey { endpoint });
record!(PodConnections { count; reserved });

const _: () = assert!(size_of::<PodConnections>() == room(8));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_limit_are_admitted() {
        let mut connections = PodConnections::default();
        assert_eq!([2, 2, 2, 0].map(|limit| connections.admit(limit)), [true, true, false, true]);
        assert_eq!(connections.count(), 3);
    }
}
