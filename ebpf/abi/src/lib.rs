//! Layout of BPF map keys and values, drop reasons and events, shared by kernel and user space.
