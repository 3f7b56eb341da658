//! What the plugin prints: results, errors and versions, in the shape of the version asked for.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

use crate::{Failure, config::Version, protocol::Added};

/// The result of ADD (CNI specification, section 5).
pub fn result(version: Version, ifname: &str, netns: &Path, added: &Added, dns: Option<&Value>) -> String {
    let with_mtu = |mut interface: Value| {
        if version >= Version::V1_1_0 {
            interface["mtu"] = json!(added.mtu);
        }
        interface
    };
    let interfaces = [
        with_mtu(json!({"name": added.host_ifname, "mac": added.host_mac})),
        with_mtu(json!({"name": ifname, "mac": added.mac, "sandbox": netns})),
    ];
    let ips: Vec<Value> = added.addresses.iter().map(|a| ip(version, a.address, a.gateway)).collect();
    let routes: Vec<Value> = added
        .addresses
        .iter()
        .map(|a| json!({"dst": if a.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": a.gateway}))
        .collect();
    let dns = dns.cloned().unwrap_or_else(|| json!({}));
    json!({"cniVersion": version.as_str(), "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns})
        .to_string()
}

/// The error object.
pub fn error(version: Version, failure: &Failure) -> String {
    let mut error = json!({"cniVersion": version.as_str(), "code": failure.code, "msg": failure.msg});
    if !failure.details.is_empty() {
        error["details"] = json!(failure.details);
    }
    error.to_string()
}

/// The answer to VERSION.
pub fn versions() -> String {
    let supported = Version::ALL.map(Version::as_str);
    json!({"cniVersion": Version::LATEST.as_str(), "supportedVersions": supported}).to_string()
}

fn ip(version: Version, address: IpAddr, gateway: IpAddr) -> Value {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut ip = json!({"address": format!("{address}/{bits}"), "gateway": gateway, "interface": 1});
    // Before 1.0.0 each address names its family.
    if version < Version::V1_0_0 {
        ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Assigned;

    fn added() -> Added {
        Added {
            host_ifname: "tmb1".into(),
            host_mac: "02:00:00:00:00:01".into(),
            mac: "02:00:00:00:00:02".into(),
            mtu: 1500,
            addresses: vec![Assigned {
                address: "10.0.0.5".parse().unwrap(),
                gateway: "169.254.1.1".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn result_is_in_the_shape_of_the_version() {
        for (version, text) in [
            (
                Version::V1_1_0,
                r#"{"cniVersion":"1.1.0","dns":{},"interfaces":[{"mac":"02:00:00:00:00:01","mtu":1500,"name":"tmb1"},{"mac":"02:00:00:00:00:02","mtu":1500,"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.5/32","gateway":"169.254.1.1","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#,
            ),
            (
                Version::V0_4_0,
                r#"{"cniVersion":"0.4.0","dns":{},"interfaces":[{"mac":"02:00:00:00:00:01","name":"tmb1"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.5/32","gateway":"169.254.1.1","interface":1,"version":"4"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#,
            ),
        ] {
            let printed: Value =
                serde_json::from_str(&result(version, "eth0", Path::new("/n"), &added(), None)).unwrap();
            assert_eq!(printed, serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn error_leaves_out_empty_details() {
        let failure = Failure::new(7, "no");
        let printed: Value = serde_json::from_str(&error(Version::V1_0_0, &failure)).unwrap();
        assert_eq!(printed, json!({"cniVersion": "1.0.0", "code": 7, "msg": "no"}));
    }
}
