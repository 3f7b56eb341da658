//! What the end-to-end suites share: clusters of the playground, namespaces that clean up, workloads, exec.

mod cluster;
pub mod command;
pub mod machine;
mod mesh;
mod retry;
mod traffic;
mod workload;

pub use cluster::{Cluster, Scope};
pub use mesh::{GLOBAL, Web, answers, web_url};
pub use retry::eventually;
pub use traffic::{Flow, Traffic};
pub use workload::{IMAGE, Output, pod_ip};
