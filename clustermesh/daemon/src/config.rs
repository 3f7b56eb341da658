//! Configuration: a YAML file, over it the environment (`TOMBOLO_*`), over it flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use figment::{
    Figment,
    providers::{Format, Serialized, Yaml},
};
use serde::{Deserialize, Serialize};
use tombolo_model::{ClusterId, ClusterName};

/// Everything that can be configured. Field names are those of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster, unique in the mesh.
    pub cluster_name: ClusterName,
    /// Number of the cluster, unique in the mesh, 1..=4095.
    pub cluster_id: ClusterId,
    /// Namespace of tombolo.
    pub namespace: String,
    /// Name of this pod: the holder of the Lease.
    pub pod_name: String,
    /// Name of the node that this pod runs on.
    pub node_name: String,
    /// Address of the node that this pod runs on.
    pub node_ip: std::net::IpAddr,
    /// Where QUIC sessions of nodes and other clusters are accepted (UDP); `[::]` means all addresses, those of IPv4 too.
    pub listen: SocketAddr,
    /// Where other clusters reach this one, as `address:port`; empty means the addresses of the nodes with the
    /// port of `listen`.
    pub advertise: Vec<SocketAddr>,
    /// Where metrics and health are served (TCP); `[::]` as for `listen`.
    pub metrics: SocketAddr,
    /// The unix socket of `tombolo-clustermesh status`.
    pub socket: PathBuf,
    /// The Secret (type `kubernetes.io/tls`) that somebody else, like cert-manager, keeps the authority of this cluster
    /// in; empty for one that is made here.
    pub ca_secret: String,
    /// Timing of leader election.
    pub lease: LeaseConfig,
    /// Seconds of silence after which the backends of a cluster leave the global services.
    pub drain_seconds: u32,
    /// Seconds that an identity without pods is kept.
    pub identity_grace_seconds: u32,
    /// Logging.
    pub log: LogConfig,
}

/// Timing of leader election, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseConfig {
    /// How long the leader may be silent before another replica takes over; whole seconds.
    pub duration_ms: u32,
    /// How often the leader renews.
    pub renew_ms: u32,
    /// How often the others look.
    pub retry_ms: u32,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogConfig {
    /// A filter of the `tracing` crate, like `info` or `info,tombolo_clustermesh=debug`.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The fields as flags and environment variables; what is not given keeps the value of the file.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each flag is the field of Config of the same name")]
pub struct Flags {
    #[arg(long, env = "TOMBOLO_CLUSTER_NAME", help = "Name of the cluster, unique in the mesh")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    #[arg(long, env = "TOMBOLO_CLUSTER_ID", help = "Number of the cluster, unique in the mesh, 1 to 4095")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<u16>,
    #[arg(long, env = "TOMBOLO_NAMESPACE", help = "Namespace of tombolo")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[arg(long, env = "TOMBOLO_POD_NAME", help = "Name of this pod")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    #[arg(long, env = "TOMBOLO_NODE_NAME", help = "Name of the node of this pod")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[arg(long, env = "TOMBOLO_NODE_IP", help = "Address of the node of this pod")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<String>,
    #[arg(long, env = "TOMBOLO_LISTEN", help = "Where sessions are accepted, address:port (UDP)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    #[arg(
        long,
        env = "TOMBOLO_ADVERTISE",
        value_delimiter = ',',
        help = "Where other clusters reach this one"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Vec<String>>,
    #[arg(long, env = "TOMBOLO_METRICS", help = "Where metrics and health are served, address:port (TCP)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    #[arg(long, env = "TOMBOLO_SOCKET", help = "The unix socket of the status command")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    #[arg(
        long,
        env = "TOMBOLO_DRAIN_SECONDS",
        help = "Silence after which backends of a cluster are drained"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u32>,
    #[arg(long, env = "TOMBOLO_IDENTITY_GRACE_SECONDS", help = "How long an unused identity is kept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_grace_seconds: Option<u32>,
    #[arg(
        long,
        env = "TOMBOLO_CA_SECRET",
        help = "Secret with tls.crt and tls.key of the cluster's certificate authority, kept by somebody else"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
    #[command(flatten)]
    #[serde(skip_serializing_if = "LogFlags::is_empty")]
    pub log: LogFlags,
    #[command(flatten)]
    #[serde(skip_serializing_if = "LeaseFlags::is_empty")]
    pub lease: LeaseFlags,
}

/// The fields of [`LogConfig`].
#[derive(Clone, Debug, Default, Args, Serialize)]
#[expect(missing_docs, reason = "each flag is the field of LogConfig of the same name")]
pub struct LogFlags {
    #[arg(long = "log-filter", env = "TOMBOLO_LOG_FILTER", help = "What is logged, like info")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[arg(long = "log-format", env = "TOMBOLO_LOG_FORMAT", help = "How log lines look")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// The fields of [`LeaseConfig`].
#[derive(Clone, Debug, Default, Args, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each flag is the field of LeaseConfig of the same name")]
pub struct LeaseFlags {
    #[arg(long = "lease-duration-ms", env = "TOMBOLO_LEASE_DURATION_MS", help = "Silence before a takeover")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u32>,
    #[arg(long = "lease-renew-ms", env = "TOMBOLO_LEASE_RENEW_MS", help = "How often the leader renews")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_ms: Option<u32>,
    #[arg(long = "lease-retry-ms", env = "TOMBOLO_LEASE_RETRY_MS", help = "How often the others look")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u32>,
}

impl LogFlags {
    fn is_empty(&self) -> bool {
        self.filter.is_none() && self.format.is_none()
    }
}

impl LeaseFlags {
    fn is_empty(&self) -> bool {
        self.duration_ms.is_none() && self.renew_ms.is_none() && self.retry_ms.is_none()
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field that does not exist, is missing, or has a value that it cannot have.
    #[error("configuration: {0}")]
    Field(Box<figment::Error>),
    /// Times of the lease that do not go together.
    #[error(
        "configuration: lease.renewMs ({renew}) and lease.retryMs ({retry}) must be at most half of lease.durationMs \
         ({duration}), which must be whole seconds"
    )]
    Lease {
        /// `lease.durationMs`.
        duration: u32,
        /// `lease.renewMs`.
        renew: u32,
        /// `lease.retryMs`.
        retry: u32,
    },
}

impl Config {
    /// Reads the file, if any, and puts the flags over it.
    ///
    /// # Errors
    /// Names the field that is unknown, missing or wrong.
    pub fn load(file: Option<&std::path::Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Defaults::default()));
        if let Some(file) = file {
            figment = figment.merge(Yaml::file_exact(file));
        }
        let config: Self = figment
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|e| ConfigError::Field(Box::new(e)))?;
        let LeaseConfig { duration_ms: duration, renew_ms: renew, retry_ms: retry } = config.lease;
        if renew == 0 || retry == 0 || renew.max(retry) > duration / 2 || duration % 1000 != 0 {
            return Err(ConfigError::Lease { duration, renew, retry });
        }
        Ok(config)
    }

    /// Where this replica is reached when it leads.
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.node_ip, self.listen.port())
    }

    /// How long an identity without pods is kept.
    pub fn identity_grace(&self) -> Duration {
        Duration::from_secs(self.identity_grace_seconds.into())
    }
}

/// The fields that have a default.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Defaults {
    namespace: &'static str,
    listen: &'static str,
    advertise: [String; 0],
    metrics: &'static str,
    socket: &'static str,
    ca_secret: &'static str,
    lease: LeaseConfig,
    drain_seconds: u32,
    identity_grace_seconds: u32,
    log: LogConfig,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            namespace: "tombolo-system",
            listen: "[::]:4240",
            advertise: [],
            metrics: "[::]:9965",
            socket: "/run/tombolo/clustermesh.sock",
            ca_secret: "",
            lease: LeaseConfig { duration_ms: 5000, renew_ms: 1500, retry_ms: 1000 },
            drain_seconds: 5,
            identity_grace_seconds: 15 * 60,
            log: LogConfig { filter: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn load(yaml: &str, flags: &Flags) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        fs::write(&file, yaml).unwrap();
        Config::load(Some(&file), flags).map_err(|error| error.to_string())
    }

    const MINIMAL: &str = "clusterName: east\nclusterId: 1\npodName: p\nnodeName: n\nnodeIp: 192.0.2.1\n";

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let log = LogFlags { filter: Some("debug".into()), format: None };
        let flags = Flags { cluster_id: Some(7), log, ..Flags::default() };
        let config = load(&format!("{MINIMAL}drainSeconds: 9\nlog: {{format: json}}"), &flags).unwrap();
        assert_eq!((config.cluster_id.get(), config.drain_seconds), (7, 9));
        assert_eq!(config.log, LogConfig { filter: "debug".into(), format: LogFormat::Json });
        assert_eq!(config.listen.port(), 4240);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unknown = load(&format!("{MINIMAL}lsten: x"), &Flags::default()).unwrap_err();
        assert!(unknown.contains("lsten"), "{unknown}");
        let nested = load(&format!("{MINIMAL}lease: {{durationSeconds: 5}}"), &Flags::default()).unwrap_err();
        assert!(nested.contains("durationSeconds"), "{nested}");
        let missing = load("clusterId: 1", &Flags::default()).unwrap_err();
        assert!(missing.contains("clusterName"), "{missing}");
        let id = load(&MINIMAL.replace("Id: 1", "Id: 4096"), &Flags::default()).unwrap_err();
        assert!(id.contains("4096") && id.contains("clusterId"), "{id}");
        let lease = load(&format!("{MINIMAL}lease: {{renewMs: 4000}}"), &Flags::default()).unwrap_err();
        assert!(lease.contains("renewMs (4000)"), "{lease}");
        let no_file = Config::load(Some(Path::new("/nonexistent.yaml")), &Flags::default()).unwrap_err();
        assert!(no_file.to_string().contains("nonexistent.yaml"), "{no_file}");
    }
}
