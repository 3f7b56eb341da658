//! Pure logic of the node agent: IPAM, policy, services, routes, reconciling.
