//! What the end-to-end suites share: clusters of the playground, namespaces that clean up, workloads, exec.

mod cluster;
mod retry;
mod workload;

pub use cluster::{Cluster, Scope};
pub use retry::eventually;
pub use workload::{IMAGE, Output, pod_ip};
