//! What the end-to-end suites share: clusters of the playground, namespaces that clean up, workloads, exec.

mod address;
mod cluster;
pub mod command;
mod cuts;
pub mod machine;
mod members;
mod mesh;
mod progress;
mod retry;
mod traffic;
mod verdict;
mod workload;

pub use address::url;
pub use cluster::{Cluster, SYSTEM, Scope};
pub use cuts::Cuts;
pub use members::{addresses_of, member, members, mesh_status, no_problem, problem};
pub use mesh::{GLOBAL, Web, answers, web_url};
pub use progress::say;
pub use retry::eventually;
pub use traffic::{Bounds, Class, Flow, Harm, Recording, Traffic, UNHARMED, Window};
pub use verdict::Guard;
pub use workload::{IMAGE, Output, restarted_now};
