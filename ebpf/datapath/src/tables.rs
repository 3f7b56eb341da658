//! The maps, the clock and chance.

use tombolo_abi::{
    Address, AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, Config, EndpointValue, FlowKey,
    FlowValue, FragmentKey, FragmentValue, Metric, OriginValue, PodConnections, PodKey, PolicyKey,
    PolicyValue, PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue, SocketBackendValue,
    SocketKey,
};

/// Everything that is not the packet. The names are those of the maps.
#[expect(missing_docs, reason = "one lookup per map, documented with its key")]
pub trait Tables {
    /// Nanoseconds since boot.
    fn now(&self) -> u64;
    /// 32 random bits.
    fn random(&self) -> u32;
    fn config(&self) -> Option<&Config>;
    /// The policy epoch.
    fn policy_epoch(&self) -> u32;
    fn endpoint(&self, key: &AddressKey) -> Option<&EndpointValue>;
    fn address(&self, key: &AddressKey) -> Option<&AddressValue>;
    fn prefix(&self, key: &PrefixKey) -> Option<&AddressValue>;
    fn identity(&self, identity: u32) -> Option<&Bitmap>;
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyValue>;
    fn service(&self, key: &ServiceKey) -> Option<&ServiceValue>;
    fn slot(&self, key: &SlotKey) -> Option<&SlotValue>;
    fn backend(&self, key: &BackendKey) -> Option<&BackendValue>;
    /// Calls `f` on the entry in place.
    fn flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R>;
    /// Adds or replaces; false when the map refuses.
    fn set_flow(&self, key: &FlowKey, value: &FlowValue) -> bool;
    /// Calls `f` on the entry in place.
    fn pod_connections<R>(&self, key: &PodKey, f: impl FnOnce(&mut PodConnections) -> R) -> Option<R>;
    fn set_pod_connections(&self, key: &PodKey, value: &PodConnections);
    /// Calls `f` on the entry in place.
    fn snat<R>(&self, key: &FlowKey, f: impl FnOnce(&mut SnatValue) -> R) -> Option<R>;
    /// Adds, or replaces when told so; false when the map refuses or, without `replace`, when there is one already.
    fn set_snat(&self, key: &FlowKey, value: &SnatValue, replace: bool) -> bool;
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    fn set_origin(&self, key: &SocketKey, value: &OriginValue) -> bool;
    fn origin(&self, key: &SocketKey) -> Option<OriginValue>;
    fn set_socket_backend(&self, key: &SocketKey, value: &SocketBackendValue) -> bool;
    fn socket_backend(&self, key: &SocketKey) -> Option<SocketBackendValue>;
    /// Counts a packet of `bytes`.
    fn count(&self, metric: Metric, bytes: u32);
}

/// Who has an address and how it is reached.
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, address: &Address) -> AddressValue {
    match tables.address(AddressKey::of(address)).or_else(|| by_prefix(tables, address)) {
        Some(value) => *value,
        None => AddressValue::WORLD,
    }
}

#[inline(never)]
fn by_prefix<'t, T: Tables>(tables: &'t T, address: &Address) -> Option<&'t AddressValue> {
    tables.prefix(&PrefixKey::new(*address, 128))
}

/// Whether two addresses are the same. The last bytes differ most often; and the compiler makes a call of a loop out of
/// `==` on bytes that it does not know to be aligned, which the verifier cannot follow.
#[inline(always)]
pub fn same(a: &Address, b: &Address) -> bool {
    let mut i = a.len();
    while i > 0 {
        i -= 1;
        if a[i] != b[i] {
            return false;
        }
    }
    true
}
