//! Real Kubernetes clusters in namespaces of one machine.
//!
//! A node is a set of namespaces (network, mount, UTS, cgroup) in which containerd, runc and kubelet
//! run as they do on a machine; the control plane of each cluster has a network namespace of its own.
//! Clusters are segments of an underlay router, itself a network namespace, where the link between two
//! clusters can be cut, slowed or shrunk.
//!
//! Every namespace is held by a process and every process is in a cgroup below
//! [`cgroup::ROOT_NAME`]: ending that cgroup ends the playground, whoever started it and however that
//! one died. No namespace is bound to a file, so there is no mount to leave behind.

pub mod address;
pub mod api_forwarder;
pub mod binaries;
pub mod bpf;
pub mod certificates;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod control_plane;
pub mod device;
pub mod dns;
pub mod error;
pub mod forwarder;
pub mod image;
pub mod images;
pub mod inotify;
pub mod kube_proxy;
mod kubeconfig;
pub mod layout;
pub mod lifecycle;
pub mod link;
pub mod lock;
pub mod namespace;
pub mod node;
pub mod outside;
pub mod place;
pub mod playground;
pub mod product;
pub mod progress;
pub mod runc;
pub mod spec;
mod syscall;
pub mod teardown;
pub mod underlay;
pub mod unit;

pub use cluster::Cluster;
pub use device::Device;
pub use error::{Error, Result};
pub use link::LinkState;
pub use outside::Outside;
pub use playground::Playground;
pub use spec::{Cni, IpFamily, KubeProxy, Spec};
pub use teardown::{Snapshot, down, leftovers};
