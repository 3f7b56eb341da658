//! The network configuration that a runtime writes to standard input (CNI specification, sections 1 and 5).

use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf, str::FromStr};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Failure,
    failure::code,
    name,
    protocol::{Attachment, DEFAULT_SOCKET},
    queue,
};

/// The most bytes of a configuration.
pub const MAX_INPUT: u64 = 1 << 20;

/// A version of the specification that is supported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As the specification writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Failure;

    fn from_str(s: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|v| v.as_str() == s).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            Failure::new(
                code::INCOMPATIBLE_VERSION,
                format!("cniVersion {s:?} is not supported: use one of {all}"),
            )
        })
    }
}

/// A configuration, as far as this plugin uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The version in which to answer.
    pub version: Version,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Where a DEL waits for an agent that is down.
    pub del_queue: PathBuf,
    /// Passed through into the result.
    pub dns: Option<Value>,
    /// The result of the plugins before, or of ADD.
    pub prev_result: Option<Value>,
    /// GC: what stays.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Fields that this plugin does not know, with their values.
    unknown: Map<String, Value>,
}

/// The fields that have a meaning here; the others are the specification's, and are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    plugin: Option<String>,
    socket: Option<PathBuf>,
    del_queue: Option<PathBuf>,
    dns: Option<Value>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `cni.dev/valid-attachments` spells its keys in its own way.
#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Fields that the specification gives to runtimes or to other plugins and that mean nothing here.
const IGNORED: [&str; 9] = [
    "args",
    "capabilities",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "ipMasq",
    "loadOnlyInlinedPlugins",
    "plugins",
    "runtimeConfig",
];

impl Config {
    /// Reads a configuration.
    pub fn parse(text: &[u8]) -> Result<Self, Failure> {
        let decode = |e: serde_json::Error| {
            Failure::new(code::DECODE, format!("the network configuration is not the expected JSON: {e}"))
        };
        let raw: Raw = serde_json::from_slice(text).map_err(decode)?;
        // A configuration without a version is one of 0.1.0 (section 1), which is not supported.
        let version = raw.cni_version.as_deref().unwrap_or("0.1.0").parse()?;
        let invalid = |msg: String| Failure::new(code::INVALID_CONFIG, msg);
        name::network(&raw.name.unwrap_or_default()).map_err(|e| invalid(e.to_string()))?;
        if raw.plugin.as_deref().is_none_or(str::is_empty) {
            return Err(invalid(
                "type is missing from the network configuration: set it to tombolo-cni".into(),
            ));
        }
        let mut unknown = raw.rest;
        unknown.retain(|key, _| !IGNORED.contains(&key.as_str()) && !key.starts_with("cni.dev/"));
        Ok(Self {
            version,
            socket: absolute("socket", raw.socket, DEFAULT_SOCKET)?,
            del_queue: absolute("delQueue", raw.del_queue, queue::DEFAULT_DIR)?,
            dns: raw.dns,
            prev_result: raw.prev_result,
            valid_attachments: raw.valid_attachments.map(attachments).transpose()?,
            unknown,
        })
    }

    /// Refuses fields that are not known. Not for DEL and GC: what ADD has let in must be removable.
    pub fn refuse_unknown(&self) -> Result<(), Failure> {
        match self.unknown.iter().next() {
            None => Ok(()),
            Some((key, value)) => Err(Failure::new(
                code::UNSUPPORTED_FIELD,
                format!("field {key:?} with value {value} is not supported by tombolo-cni: remove it"),
            )),
        }
    }

    /// Refuses a version that has no such command yet.
    pub fn require(&self, command: &str, since: Version) -> Result<(), Failure> {
        if self.version >= since {
            return Ok(());
        }
        Err(Failure::new(
            code::INCOMPATIBLE_VERSION,
            format!("cniVersion {} has no {command}: use {since} or newer", self.version),
        ))
    }

    /// The addresses that `prevResult` gives to the interface named `ifname` inside a container.
    pub fn previous_addresses(&self, ifname: &str) -> Result<Vec<IpAddr>, Failure> {
        let invalid = |msg: &str| Failure::new(code::INVALID_CONFIG, format!("prevResult {msg}"));
        let value =
            self.prev_result.as_ref().ok_or_else(|| invalid("is missing: CHECK needs the result of ADD"))?;
        let previous: Previous =
            serde_json::from_value(value.clone()).map_err(|e| invalid(&format!("is not a result: {e}")))?;
        let index = previous
            .interfaces
            .iter()
            .position(|i| i.name == ifname && i.sandbox.as_ref().is_some_and(|s| !s.is_empty()))
            .ok_or_else(|| invalid(&format!("has no interface {ifname:?} in a container")))?;
        let mine = previous.ips.iter().filter(|ip| ip.interface == Some(index));
        mine.map(|ip| {
            let address = ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address);
            address.parse().map_err(|_| invalid(&format!("has the address {:?}, which is none", ip.address)))
        })
        .collect()
    }
}

#[derive(Deserialize)]
struct Previous {
    #[serde(default)]
    interfaces: Vec<PreviousInterface>,
    #[serde(default)]
    ips: Vec<PreviousIp>,
}

#[derive(Deserialize)]
struct PreviousInterface {
    name: String,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct PreviousIp {
    address: String,
    interface: Option<usize>,
}

fn absolute(field: &str, given: Option<PathBuf>, default: &str) -> Result<PathBuf, Failure> {
    let path = given.unwrap_or_else(|| default.into());
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Failure::new(
        code::INVALID_CONFIG,
        format!("{field} {path:?} is not valid: give an absolute path, like {default}"),
    ))
}

fn attachments(raw: Vec<RawAttachment>) -> Result<Vec<Attachment>, Failure> {
    let mut all = BTreeSet::new();
    for RawAttachment { container_id, ifname } in raw {
        let invalid = |e| Failure::new(code::INVALID_CONFIG, format!("cni.dev/valid-attachments: {e}"));
        name::container_id(&container_id).map_err(invalid)?;
        name::interface(&ifname).map_err(invalid)?;
        all.insert(Attachment { container_id, ifname });
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Config, Failure> {
        Config::parse(text.as_bytes())
    }

    #[test]
    fn defaults_and_ignored_fields() {
        let config = parse(
            r#"{"cniVersion":"1.1.0","name":"tombolo","type":"tombolo-cni","runtimeConfig":{"a":1},
                "cni.dev/attachments":[],"disableCheck":true}"#,
        )
        .unwrap();
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(config.refuse_unknown(), Ok(()));
    }

    #[test]
    fn each_bad_configuration_has_its_code() {
        let cases = [
            ("", code::DECODE),
            ("{", code::DECODE),
            ("[]", code::DECODE),
            (r#"{"name":"t","type":"x"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":"9.0.0","name":"t","type":"x"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":"one","name":"t","type":"x"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":1,"name":"t","type":"x"}"#, code::DECODE),
            (r#"{"cniVersion":"1.1.0","type":"x"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"1.1.0","name":"no/good","type":"x"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"1.1.0","name":"t"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"1.1.0","name":"t","type":"x","socket":"a"}"#, code::INVALID_CONFIG),
            (
                r#"{"cniVersion":"1.1.0","name":"t","type":"x",
                    "cni.dev/valid-attachments":[{"containerID":"../x","ifname":"eth0"}]}"#,
                code::INVALID_CONFIG,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err().code, expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_value() {
        let config = parse(r#"{"cniVersion":"1.1.0","name":"t","type":"x","sockett":"/a"}"#).unwrap();
        let failure = config.refuse_unknown().unwrap_err();
        assert_eq!(failure.code, code::UNSUPPORTED_FIELD);
        assert!(failure.msg.contains("sockett") && failure.msg.contains("/a"), "{failure}");
    }

    #[test]
    fn previous_addresses_are_those_of_the_interface() {
        let config = parse(
            r#"{"cniVersion":"1.1.0","name":"t","type":"x","prevResult":{
                "interfaces":[{"name":"tmb1"},{"name":"eth0","sandbox":"/n"}],
                "ips":[{"address":"10.0.0.1/32","interface":1},{"address":"9.9.9.9/32","interface":0}]}}"#,
        )
        .unwrap();
        assert_eq!(config.previous_addresses("eth0").unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.previous_addresses("eth1").unwrap_err().code, code::INVALID_CONFIG);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Config::parse(&bytes);
        }

        #[test]
        fn any_field_values_are_survived(version in "0\\.3\\.1|1\\.1\\.0|.*", name in ".*", ip in ".*",
                                         index in any::<u64>(), sandbox in ".*") {
            let text = serde_json::json!({"cniVersion": version, "name": name, "type": "t",
                "prevResult": {"interfaces": [{"name": "eth0", "sandbox": sandbox}],
                               "ips": [{"address": ip, "interface": index}]}}).to_string();
            if let Ok(config) = parse(&text) {
                let _ = config.previous_addresses("eth0");
            }
        }
    }
}
