//! One function for each attach point. All expect [`Headers`](crate::Headers) as [`classify`](crate::classify) left
//! them.

mod mesh_ingress;
mod net_egress;
mod net_ingress;
mod pod_egress;
mod pod_ingress;
mod to_pod;

pub use mesh_ingress::mesh_ingress;
pub use net_egress::net_egress;
pub use net_ingress::net_ingress;
pub use pod_egress::pod_egress;
pub use pod_ingress::pod_ingress;

#[cfg(test)]
mod tests;
