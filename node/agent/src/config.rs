//! Configuration: flags before environment before file before defaults.

mod layer;
pub mod nat;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

pub use layer::Layer;
use nat::{PortRange, Timeouts};
use serde::{Deserialize, Serialize};
use tombolo_abi::map;
use tombolo_model::{ClusterId, ClusterName};

/// Where the configuration file is.
pub const DEFAULT_FILE: &str = "/etc/tombolo/config.yaml";

/// The configuration in effect.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The cluster's name.
    pub cluster_name: ClusterName,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// This node's name.
    pub node_name: String,
    /// Where clustermesh replicas are; empty to find the leader by its Lease.
    pub daemon_addresses: Vec<SocketAddr>,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Where BPF maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Where what outlives a reboot is kept.
    pub state_dir: PathBuf,
    /// Where what a reboot makes worthless is kept: on a filesystem in memory.
    pub runtime_dir: PathBuf,
    /// Where the plugin asks.
    pub cni_socket: PathBuf,
    /// Where the CLI asks.
    pub api_socket: PathBuf,
    /// Where the runtime finds CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Where the runtime finds CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// The plugin to install.
    pub cni_binary: PathBuf,
    /// The root of the cgroup hierarchy whose sockets are balanced.
    pub cgroup_root: PathBuf,
    /// Underlay devices; empty to find them.
    pub devices: Vec<String>,
    /// Where `tombolo-tunnel` is configured.
    pub tunnel_socket: PathBuf,
    /// The tunnel's device.
    pub tunnel_device: String,
    /// The tunnel's UDP port.
    pub tunnel_port: u16,
    /// Metrics and health.
    pub metrics_address: SocketAddr,
    /// MTU of pods, bytes; none to derive it from the underlay.
    pub mtu: Option<u32>,
    /// Log format.
    pub log_format: LogFormat,
    /// Log filter.
    pub log_level: String,
    /// Whether traffic that leaves the cluster gets the node's address.
    pub masquerade: bool,
    /// Ports that masquerading may take, one range or two.
    pub nat_ports: Vec<PortRange>,
    /// For how long it keeps them.
    pub nat_timeouts: Timeouts,
    /// How many connections a pod may have; 0 for as many as there is room.
    pub connections_per_pod: u32,
    /// Node ports, as the API server's `--service-node-port-range` has them.
    pub node_ports: PortRange,
    /// The cluster's CA.
    pub ca_file: PathBuf,
    /// The token that introduces the node.
    pub token_file: PathBuf,
}

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("log format {s:?} is unknown: use text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("the configuration file {path:?} cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Its content; names the field.
    #[error("the configuration file {path:?} is not valid: {cause}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: serde_yaml_ng::Error,
    },
    /// A field that has no default.
    #[error("{field} is not set: put it into the configuration file, or set {variable}")]
    Missing {
        /// The field in the file.
        field: &'static str,
        /// The environment variable.
        variable: &'static str,
    },
    /// A field with a value that makes no sense.
    #[error("{field} {value:?} is not valid: {remedy}")]
    Invalid {
        /// The field in the file.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl Config {
    /// The configuration from the file, overlaid by flags and environment. Without `--config` the file may be
    /// missing.
    pub fn load(file: Option<&Path>, flags: Layer) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match fs::read_to_string(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_none() => String::new(),
            text => text.map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?,
        };
        let parse = |cause| ConfigError::Parse { path: path.to_owned(), cause };
        let below = if text.trim().is_empty() {
            Layer::default()
        } else {
            serde_yaml_ng::from_str(&text).map_err(parse)?
        };
        flags.over(below).resolve()
    }

    fn check(self) -> Result<Self, ConfigError> {
        let invalid = |field, value: String, remedy| Err(ConfigError::Invalid { field, value, remedy });
        for (field, path) in [
            ("pinDir", &self.pin_dir),
            ("stateDir", &self.state_dir),
            ("runtimeDir", &self.runtime_dir),
            ("cniSocket", &self.cni_socket),
            ("apiSocket", &self.api_socket),
            ("cniConfDir", &self.cni_conf_dir),
            ("cniBinDir", &self.cni_bin_dir),
            ("cgroupRoot", &self.cgroup_root),
            ("tunnelSocket", &self.tunnel_socket),
        ] {
            if !path.is_absolute() {
                return invalid(field, path.display().to_string(), "give an absolute path");
            }
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(1280..=65_535).contains(mtu)) {
            return invalid("mtu", mtu.to_string(), "give 1280 to 65535 bytes, or leave it out");
        }
        for device in self.devices.iter().chain([&self.tunnel_device]) {
            if tombolo_cni::name::interface(device).is_err() {
                return invalid("devices", device.clone(), "give names of network devices");
            }
        }
        let ports = self.nat_ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        if nat::ports(&self.nat_ports).is_none() {
            return invalid("natPorts", ports, "give one range of ports, or two that do not overlap");
        }
        if self.nat_ports.iter().any(|range| range.overlaps(&self.node_ports)) {
            return invalid("natPorts", ports, "leave out the ports of nodePorts, 30000 to 32767 by default");
        }
        if let Some(field) = self.nat_timeouts.zero() {
            return invalid(field, "0".into(), "give seconds, or leave it out");
        }
        if self.connections_per_pod > map::FLOW.entries {
            let remedy = "give at most as many as a node has room for, 262144, or 0 for no limit";
            return invalid("connectionsPerPod", self.connections_per_pod.to_string(), remedy);
        }
        if self.tunnel_port == 0 {
            return invalid("tunnelPort", "0".into(), "give a UDP port");
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Layer) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), flags)
    }

    const MINIMAL: &str = "clusterName: east\nclusterId: 1\nnodeName: n1\n";

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let flags = Layer { node_name: Some("n2".into()), ..Layer::default() };
        let config = load(&format!("{MINIMAL}mtu: 9000\n"), flags).unwrap();
        assert_eq!((config.node_name.as_str(), config.mtu, config.tunnel_port), ("n2", Some(9000), 51871));
        let config = load(&format!("{MINIMAL}natPorts: [8080, 9000-9001]\n"), Layer::default()).unwrap();
        let ranges: Vec<String> = config.nat_ports.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["8080-8080", "9000-9001"]);
    }

    #[test]
    fn bad_input_is_named() {
        for (text, word) in [
            ("clusterName: east\nclusterId: 1\n", "nodeName"),
            (&format!("{MINIMAL}mtuu: 1\n"), "mtuu"),
            (&format!("{MINIMAL}mtu: 100\n"), "mtu"),
            (&format!("{MINIMAL}stateDir: x\n"), "stateDir"),
            (&format!("{MINIMAL}devices: [a/b]\n"), "a/b"),
            ("clusterName: East!\nclusterId: 1\nnodeName: n\n", "East!"),
            ("clusterName: east\nclusterId: 5000\nnodeName: n\n", "5000"),
            (&format!("{MINIMAL}logFormat: xml\n"), "xml"),
            (&format!("{MINIMAL}natPorts: [9-1]\n"), "9-1"),
            (&format!("{MINIMAL}natPorts: [x]\n"), "x"),
            (&format!("{MINIMAL}natPorts: []\n"), "natPorts"),
            (&format!("{MINIMAL}natPorts: [1000-2000, 2000-3000]\n"), "overlap"),
            (&format!("{MINIMAL}natPorts: [1024-65535]\n"), "nodePorts"),
            (&format!("{MINIMAL}natTimeouts: {{udp: 0}}\n"), "natTimeouts.udp"),
            (&format!("{MINIMAL}connectionsPerPod: 999999\n"), "connectionsPerPod"),
            (&format!("{MINIMAL}natTimeouts: {{upd: 1}}\n"), "upd"),
        ] {
            let error = load(text, Layer::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = Config::load(Some(Path::new("/nonexistent/x")), Layer::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"));
    }

    #[test]
    fn what_is_logged_can_be_read_again() {
        let config = load(MINIMAL, Layer::default()).unwrap();
        let text = serde_yaml_ng::to_string(&config).unwrap();
        assert_eq!(load(&text, Layer::default()).unwrap(), config);
    }
}
