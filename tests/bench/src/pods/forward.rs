//! What a cluster of two nodes would be without a CNI: veth devices, and the kernel's own forwarding.

use std::net::Ipv4Addr;

use crate::netns::Netns;

const CLIENT: &str = "198.18.5.1";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 6, 1);

/// Two network namespaces like pods, each behind one like a node; a bridge is between the nodes, as in the playground.
pub struct Forwarded {
    /// Where the client runs.
    pub client: Netns,
    /// Where the server runs.
    pub server: Netns,
    /// The server's address.
    pub address: Ipv4Addr,
    /// What they are behind; the devices between them are `eth0`.
    pub nodes: [Netns; 2],
    _segment: Netns,
}

impl Forwarded {
    /// The routes of client and server have this MTU, bytes.
    pub fn new(mtu: u32) -> anyhow::Result<Self> {
        let segment = Netns::fresh()?;
        segment.ip("link add segment type bridge")?;
        segment.ip("link set segment up")?;
        let nodes = [Netns::fresh()?, Netns::fresh()?];
        for (i, node) in nodes.iter().enumerate() {
            let port = format!("port{i}");
            node.connect("eth0", &segment, &port)?;
            segment.ip(&format!("link set {port} master segment"))?;
            node.ip(&format!("address add 198.18.7.{}/24 dev eth0", i + 1))?;
            node.run(0, &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        }
        let (client, server, server_address) = (Netns::fresh()?, Netns::fresh()?, SERVER.to_string());
        let [left, right] = &nodes;
        for (pod, address, node, gateway) in
            [(&client, CLIENT, left, "198.18.7.1"), (&server, &*server_address, right, "198.18.7.2")]
        {
            pod.connect("eth0", node, "pod")?;
            pod.ip(&format!("address add {address}/32 dev eth0"))?;
            pod.ip(&format!("route add {gateway} dev eth0"))?;
            pod.ip(&format!("route add default via {gateway} mtu {mtu}"))?;
            node.ip(&format!("route add {address} dev pod"))?;
        }
        left.ip(&format!("route add {SERVER} via 198.18.7.2"))?;
        right.ip(&format!("route add {CLIENT} via 198.18.7.1"))?;
        Ok(Self { client, server, address: SERVER, nodes, _segment: segment })
    }
}
