//! Prometheus metrics of the agent.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Seconds of a CNI call.
const CNI_BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// Labels of a CNI call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CniLabels {
    /// The command.
    pub command: &'static str,
    /// The error code; 0 for success.
    pub code: u32,
}

/// Labels of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableLabels {
    /// Its name.
    pub table: String,
}

/// Labels of drops.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    /// Why.
    pub reason: String,
}

/// All metrics; cheap to clone parts of.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// CNI calls by command and code.
    pub cni_calls: Family<CniLabels, Counter>,
    /// How long they took.
    pub cni_duration: Family<CniLabels, Histogram>,
    /// Endpoints of this node.
    pub endpoints: Gauge,
    /// Failing writes by table.
    pub table_failures: Family<TableLabels, Gauge>,
    /// Packets dropped by the datapath.
    pub drops: Family<DropLabels, Counter<u64, AtomicU64>>,
    /// Connections that the datapath follows.
    pub connections: Gauge,
    /// Of these, those of the pod that has the most.
    pub busiest_pod_connections: Gauge,
    /// Programs that somebody had removed from devices.
    pub filters_reattached: Counter<u64, AtomicU64>,
    /// Packets that pods' devices carried between the last two looks when programs were missing.
    pub unjudged_packets: Counter<u64, AtomicU64>,
    /// Connections of pods to the outside that have a port of the node.
    pub nat_connections: Gauge,
    /// The part of the ports that the destination which needs the most has in use, 0 to 1.
    pub nat_port_usage: Gauge<f64, AtomicU64>,
    /// 1 when the cluster's state has been received in full.
    pub synced: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tombolo"),
            cni_calls: Family::default(),
            cni_duration: Family::new_with_constructor(|| Histogram::new(CNI_BUCKETS)),
            endpoints: Gauge::default(),
            table_failures: Family::default(),
            drops: Family::default(),
            connections: Gauge::default(),
            busiest_pod_connections: Gauge::default(),
            filters_reattached: Counter::default(),
            unjudged_packets: Counter::default(),
            nat_connections: Gauge::default(),
            nat_port_usage: Gauge::default(),
            synced: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("cni_calls", "CNI calls by command and error code", metrics.cni_calls.clone());
        registry.register_with_unit(
            "cni_call_duration",
            "Time that CNI calls took",
            Unit::Seconds,
            metrics.cni_duration.clone(),
        );
        registry.register("endpoints", "Pods of this node", metrics.endpoints.clone());
        registry.register("table_failures", "Failing writes by table", metrics.table_failures.clone());
        registry.register("dropped_packets", "Packets dropped, by reason", metrics.drops.clone());
        let (name, help) = ("connections", "Connections that the datapath follows");
        registry.register(name, help, metrics.connections.clone());
        registry.register(
            "busiest_pod_connections",
            "Connections of the pod that has the most",
            metrics.busiest_pod_connections.clone(),
        );
        registry.register(
            "filter_reattached",
            "Programs put back on devices that somebody had removed them from",
            metrics.filters_reattached.clone(),
        );
        registry.register(
            "unjudged_packets",
            "Packets that pods' devices carried since the last look when programs were missing",
            metrics.unjudged_packets.clone(),
        );
        registry.register(
            "nat_connections",
            "Connections of pods behind ports of the node",
            metrics.nat_connections.clone(),
        );
        registry.register(
            "nat_port_usage_ratio",
            "Part of the ports (0 to 1) in use towards the destination that needs the most",
            metrics.nat_port_usage.clone(),
        );
        registry.register("synced", "Whether the cluster's state is known in full", metrics.synced.clone());
        metrics
    }
}

impl Metrics {
    /// In the OpenMetrics text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_prefix_and_unit() {
        let metrics = Metrics::default();
        let labels = CniLabels { command: "ADD", code: 0 };
        metrics.cni_calls.get_or_create(&labels).inc();
        metrics.cni_duration.get_or_create(&labels).observe(0.02);
        metrics.endpoints.set(3);
        metrics.synced.set(1);
        metrics.connections.set(9);
        metrics.busiest_pod_connections.set(8);
        metrics.nat_connections.set(7);
        metrics.filters_reattached.inc_by(2);
        metrics.unjudged_packets.inc_by(40);
        metrics.nat_port_usage.set(0.5);
        metrics.table_failures.get_or_create(&TableLabels { table: "route".into() }).set(2);
        metrics.drops.get_or_create(&DropLabels { reason: "policy-denied".into() }).inc();
        let text = metrics.text().unwrap();
        for line in [
            "tombolo_cni_calls_total{command=\"ADD\",code=\"0\"} 1",
            "tombolo_cni_call_duration_seconds_bucket{le=\"0.01\",command=\"ADD\",code=\"0\"} 0",
            "tombolo_cni_call_duration_seconds_bucket{le=\"0.025\",command=\"ADD\",code=\"0\"} 1",
            "tombolo_endpoints 3",
            "tombolo_synced 1",
            "tombolo_connections 9",
            "tombolo_busiest_pod_connections 8",
            "tombolo_nat_connections 7",
            "tombolo_filter_reattached_total 2",
            "tombolo_unjudged_packets_total 40",
            "tombolo_nat_port_usage_ratio 0.5",
            "tombolo_table_failures{table=\"route\"} 2",
            "tombolo_dropped_packets_total{reason=\"policy-denied\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
