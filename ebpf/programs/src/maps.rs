//! The maps. All but the scratch entry are shared between the programs through pins of the same name.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use tombolo_abi::{
    AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, Config, Direction, DropEvent, DropReason,
    EndpointValue, FlowKey, FlowValue, FragmentKey, FragmentValue, Metric, OriginValue, PodConnections,
    PodKey, PolicyKey, PolicyValue, PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue,
    SocketBackendValue, SocketKey, TrieKey, for_each_map, map as spec,
};
use tombolo_datapath::Tables;

macro_rules! define {
    (Hash $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: HashMap<$key, $value> = HashMap::pinned(spec::$name.entries, BPF_F_NO_PREALLOC);
    };
    (LruHash $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: LruHashMap<$key, $value> = LruHashMap::pinned(spec::$name.entries, 0);
    };
    (LpmTrie $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: LpmTrie<<$key as TrieKey>::Data, $value> =
            LpmTrie::pinned(spec::$name.entries, BPF_F_NO_PREALLOC);
    };
    (Array $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: Array<$value> = Array::pinned(spec::$name.entries, 0);
    };
    (PerCpuArray $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: PerCpuArray<$value> = PerCpuArray::pinned(spec::$name.entries, 0);
    };
    (RingBuf $name:ident $key:ty, $value:ty) => {
        #[map]
        static $name: RingBuf = RingBuf::pinned(spec::$name.entries, 0);
    };
}

macro_rules! statics {
    ($($(#[$doc:meta])* $name:ident $method:ident: $kind:ident<$key:ty, $value:ty>,
       entries $entries:expr, version $version:literal;)*) => {
        $(define! { $kind $name $key, $value })*
    };
}

for_each_map!(statics);

/// Access to the maps.
pub struct Maps;

impl Maps {
    /// Counts a dropped packet.
    #[inline(always)]
    pub fn count_drop(reason: DropReason, direction: Direction, bytes: u32) {
        if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: an entry of this CPU; the program is not interrupted by another one that counts.
            unsafe { (*count).add(direction, bytes) };
        }
    }

    /// Reports a dropped packet, unless the ring is full.
    #[inline(always)]
    pub fn report(event: DropEvent) {
        if let Some(mut entry) = EVENTS.reserve::<DropEvent>(0) {
            entry.write(event);
            entry.submit(0);
        }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn now(&self) -> u64 {
        // The time of the last tick is exact enough for connections, and much cheaper to read.
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn policy_epoch(&self) -> u32 {
        POLICY_EPOCH.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn endpoint(&self, key: &AddressKey) -> Option<&EndpointValue> {
        // SAFETY: the memory stays until the program returns. The kernel may give an entry that user space removes to another
        // key meanwhile: then single fields may be those of the other.
        unsafe { ENDPOINT.get(key) }
    }

    #[inline(always)]
    fn address(&self, key: &AddressKey) -> Option<&AddressValue> {
        // SAFETY: as above.
        unsafe { ADDRESS.get(key) }
    }

    #[inline(always)]
    fn prefix(&self, key: &PrefixKey) -> Option<&AddressValue> {
        PREFIX.get(Key::new(key.prefix_len(), key.address()))
    }

    #[inline(always)]
    fn identity(&self, identity: u32) -> Option<&Bitmap> {
        // SAFETY: as above.
        unsafe { IDENTITY.get(identity) }
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyValue> {
        POLICY.get(Key::new(key.prefix_len(), key.data()))
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&ServiceValue> {
        // SAFETY: as above.
        unsafe { SERVICE.get(key) }
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<&SlotValue> {
        // SAFETY: as above.
        unsafe { BACKEND_SLOT.get(key) }
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<&BackendValue> {
        // SAFETY: as above.
        unsafe { BACKEND.get(key) }
    }

    #[inline(always)]
    fn flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        // SAFETY: two CPUs may write one entry; each field is whole, and the last writer's time and flags stand.
        FLOW.get_ptr_mut(key).map(|flow| f(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, value: &FlowValue) -> bool {
        FLOW.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn pod_connections<R>(&self, key: &PodKey, f: impl FnOnce(&mut PodConnections) -> R) -> Option<R> {
        // SAFETY: two CPUs may write one entry; the one number in it is whole.
        POD_CONNECTIONS.get_ptr_mut(key).map(|connections| f(unsafe { &mut *connections }))
    }

    #[inline(always)]
    fn set_pod_connections(&self, key: &PodKey, value: &PodConnections) {
        // A pod that cannot be counted is not limited.
        let _ = POD_CONNECTIONS.insert(key, value, 0);
    }

    #[inline(always)]
    fn snat<R>(&self, key: &FlowKey, f: impl FnOnce(&mut SnatValue) -> R) -> Option<R> {
        // SAFETY: as for flows.
        SNAT.get_ptr_mut(key).map(|entry| f(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn set_snat(&self, key: &FlowKey, value: &SnatValue, replace: bool) -> bool {
        SNAT.insert(key, value, if replace { 0 } else { u64::from(BPF_NOEXIST) }).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: as above.
        unsafe { FRAGMENT.get(key).copied() }
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // A failure shows as drops of the fragments that follow.
        let _ = FRAGMENT.insert(key, value, 0);
    }

    #[inline(always)]
    fn set_origin(&self, key: &SocketKey, value: &OriginValue) -> bool {
        ORIGIN.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn origin(&self, key: &SocketKey) -> Option<OriginValue> {
        // SAFETY: as above.
        unsafe { ORIGIN.get(key).copied() }
    }

    #[inline(always)]
    fn set_socket_backend(&self, key: &SocketKey, value: &SocketBackendValue) -> bool {
        SOCKET_BACKEND.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn socket_backend(&self, key: &SocketKey) -> Option<SocketBackendValue> {
        // SAFETY: as above.
        unsafe { SOCKET_BACKEND.get(key).copied() }
    }

    #[inline(always)]
    fn count(&self, metric: Metric, bytes: u32) {
        if let Some(counter) = METRICS.get_ptr_mut(metric as u32) {
            // SAFETY: as for drops.
            unsafe { (*counter).add(bytes) };
        }
    }
}
