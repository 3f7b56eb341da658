//! Real Kubernetes clusters in namespaces of one machine.
