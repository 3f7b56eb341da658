//! One source of configuration, with every field optional.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;
use tombolo_abi::map;
use tombolo_model::{ClusterId, ClusterName};

use super::{
    Config, ConfigError, LogFormat,
    nat::{self, PortRange, Timeouts},
};

/// The fields that a file, or flags and environment, set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layer {
    /// The name of the cluster.
    #[arg(long, global = true, env = "TOMBOLO_CLUSTER_NAME")]
    pub cluster_name: Option<ClusterName>,
    /// The id of the cluster in its mesh, 1 to 4095.
    #[arg(long, global = true, env = "TOMBOLO_CLUSTER_ID", value_parser = cluster_id)]
    pub cluster_id: Option<ClusterId>,
    /// The name of this node.
    #[arg(long, global = true, env = "TOMBOLO_NODE_NAME")]
    pub node_name: Option<String>,
    /// Addresses of clustermesh replicas; without any, the leader is found by its Lease.
    #[arg(long, global = true, env = "TOMBOLO_DAEMON_ADDRESSES", value_delimiter = ',')]
    pub daemon_addresses: Option<Vec<SocketAddr>>,
    /// The namespace that tombolo runs in.
    #[arg(long, global = true, env = "TOMBOLO_NAMESPACE")]
    pub namespace: Option<String>,
    /// Where BPF maps and links are pinned.
    #[arg(long, global = true, env = "TOMBOLO_PIN_DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Where the tunnel's key is kept.
    #[arg(long, global = true, env = "TOMBOLO_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the state of pods is kept until the node reboots.
    #[arg(long, global = true, env = "TOMBOLO_RUNTIME_DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Where the CNI plugin asks.
    #[arg(long, global = true, env = "TOMBOLO_CNI_SOCKET")]
    pub cni_socket: Option<PathBuf>,
    /// Where the command line asks.
    #[arg(long, global = true, env = "TOMBOLO_API_SOCKET")]
    pub api_socket: Option<PathBuf>,
    /// Where the runtime finds CNI configurations.
    #[arg(long, global = true, env = "TOMBOLO_CNI_CONF_DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the runtime finds CNI plugins.
    #[arg(long, global = true, env = "TOMBOLO_CNI_BIN_DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The CNI plugin to install.
    #[arg(long, global = true, env = "TOMBOLO_CNI_BINARY")]
    pub cni_binary: Option<PathBuf>,
    /// The cgroup whose sockets are balanced.
    #[arg(long, global = true, env = "TOMBOLO_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// Devices that pods' packets may leave by; without any, all that routes lead to.
    #[arg(long, global = true, env = "TOMBOLO_DEVICES", value_delimiter = ',')]
    pub devices: Option<Vec<String>>,
    /// Where the tunnel is configured.
    #[arg(long, global = true, env = "TOMBOLO_TUNNEL_SOCKET")]
    pub tunnel_socket: Option<PathBuf>,
    /// The device of the tunnel.
    #[arg(long, global = true, env = "TOMBOLO_TUNNEL_DEVICE")]
    pub tunnel_device: Option<String>,
    /// The UDP port of the tunnel.
    #[arg(long, global = true, env = "TOMBOLO_TUNNEL_PORT")]
    pub tunnel_port: Option<u16>,
    /// Where metrics and health are served; [::] means all addresses, those of IPv4 too.
    #[arg(long, global = true, env = "TOMBOLO_METRICS_ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// MTU of pods, bytes; derived from the underlay if not given.
    #[arg(long, global = true, env = "TOMBOLO_MTU")]
    pub mtu: Option<u32>,
    /// text or json.
    #[arg(long, global = true, env = "TOMBOLO_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log filter, as of the crate tracing: info, debug, tombolo_node=debug,....
    #[arg(long, global = true, env = "TOMBOLO_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Whether traffic that leaves the cluster gets the node's address.
    #[arg(long, global = true, env = "TOMBOLO_MASQUERADE")]
    pub masquerade: Option<bool>,
    /// Ports behind which pods are hidden, one range or two: 1024-29999,61000-65535 by default.
    #[arg(long, global = true, env = "TOMBOLO_NAT_PORTS", value_delimiter = ',')]
    pub nat_ports: Option<Vec<PortRange>>,
    /// For how long they are kept; only in the file.
    #[arg(skip)]
    pub nat_timeouts: Option<Timeouts>,
    /// How many connections a pod may have, 131072 by default; 0 for as many as there is room.
    #[arg(long, global = true, env = "TOMBOLO_CONNECTIONS_PER_POD")]
    pub connections_per_pod: Option<u32>,
    /// The API server's --service-node-port-range, 30000-32767 by default; natPorts must leave it out.
    #[arg(long, global = true, env = "TOMBOLO_NODE_PORTS")]
    pub node_ports: Option<PortRange>,
    /// The certificate of the cluster's CA.
    #[arg(long, global = true, env = "TOMBOLO_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// The service account token that introduces this node.
    #[arg(long, global = true, env = "TOMBOLO_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl Layer {
    /// This layer, with the fields that it does not set from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            cluster_name: self.cluster_name.or(below.cluster_name),
            cluster_id: self.cluster_id.or(below.cluster_id),
            node_name: self.node_name.or(below.node_name),
            daemon_addresses: self.daemon_addresses.or(below.daemon_addresses),
            namespace: self.namespace.or(below.namespace),
            pin_dir: self.pin_dir.or(below.pin_dir),
            state_dir: self.state_dir.or(below.state_dir),
            runtime_dir: self.runtime_dir.or(below.runtime_dir),
            cni_socket: self.cni_socket.or(below.cni_socket),
            api_socket: self.api_socket.or(below.api_socket),
            cni_conf_dir: self.cni_conf_dir.or(below.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(below.cni_bin_dir),
            cni_binary: self.cni_binary.or(below.cni_binary),
            cgroup_root: self.cgroup_root.or(below.cgroup_root),
            devices: self.devices.or(below.devices),
            tunnel_socket: self.tunnel_socket.or(below.tunnel_socket),
            tunnel_device: self.tunnel_device.or(below.tunnel_device),
            tunnel_port: self.tunnel_port.or(below.tunnel_port),
            metrics_address: self.metrics_address.or(below.metrics_address),
            mtu: self.mtu.or(below.mtu),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
            masquerade: self.masquerade.or(below.masquerade),
            nat_ports: self.nat_ports.or(below.nat_ports),
            nat_timeouts: self.nat_timeouts.or(below.nat_timeouts),
            connections_per_pod: self.connections_per_pod.or(below.connections_per_pod),
            node_ports: self.node_ports.or(below.node_ports),
            ca_file: self.ca_file.or(below.ca_file),
            token_file: self.token_file.or(below.token_file),
        }
    }

    /// The configuration that this layer and the defaults make.
    pub(super) fn resolve(self) -> Result<Config, ConfigError> {
        let missing = |field, variable| ConfigError::Missing { field, variable };
        Config {
            cluster_name: self.cluster_name.ok_or_else(|| missing("clusterName", "TOMBOLO_CLUSTER_NAME"))?,
            cluster_id: self.cluster_id.ok_or_else(|| missing("clusterId", "TOMBOLO_CLUSTER_ID"))?,
            node_name: self.node_name.ok_or_else(|| missing("nodeName", "TOMBOLO_NODE_NAME"))?,
            daemon_addresses: self.daemon_addresses.unwrap_or_default(),
            namespace: self.namespace.unwrap_or_else(|| "tombolo-system".into()),
            pin_dir: self.pin_dir.unwrap_or_else(|| "/sys/fs/bpf/tombolo".into()),
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/tombolo".into()),
            runtime_dir: self.runtime_dir.unwrap_or_else(|| "/run/tombolo".into()),
            cni_socket: self.cni_socket.unwrap_or_else(|| "/run/tombolo/cni.sock".into()),
            api_socket: self.api_socket.unwrap_or_else(|| "/run/tombolo/agent.sock".into()),
            cni_conf_dir: self.cni_conf_dir.unwrap_or_else(|| "/etc/cni/net.d".into()),
            cni_bin_dir: self.cni_bin_dir.unwrap_or_else(|| "/opt/cni/bin".into()),
            cni_binary: self.cni_binary.unwrap_or_else(|| "/usr/local/bin/tombolo-cni".into()),
            cgroup_root: self.cgroup_root.unwrap_or_else(|| "/sys/fs/cgroup".into()),
            devices: self.devices.unwrap_or_default(),
            tunnel_socket: self.tunnel_socket.unwrap_or_else(|| "/var/run/wireguard/tombolo-wg0.sock".into()),
            tunnel_device: self.tunnel_device.unwrap_or_else(|| "tombolo-wg0".into()),
            tunnel_port: self.tunnel_port.unwrap_or(51871),
            metrics_address: self
                .metrics_address
                .unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9964))),
            mtu: self.mtu,
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            masquerade: self.masquerade.unwrap_or(true),
            nat_ports: self.nat_ports.unwrap_or_else(nat::default_ports),
            nat_timeouts: self.nat_timeouts.unwrap_or_default(),
            connections_per_pod: self.connections_per_pod.unwrap_or(map::FLOW.entries / 2),
            node_ports: self.node_ports.unwrap_or(PortRange::NODE_PORTS),
            ca_file: self.ca_file.unwrap_or_else(|| "/etc/tombolo/ca/ca.crt".into()),
            token_file: self.token_file.unwrap_or_else(|| "/var/run/secrets/tombolo/token".into()),
        }
        .check()
    }
}

fn cluster_id(text: &str) -> Result<ClusterId, String> {
    let number: u16 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    number.try_into().map_err(|e: tombolo_model::ClusterIdError| e.to_string())
}
