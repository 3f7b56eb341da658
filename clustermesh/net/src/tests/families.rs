//! One socket for both address families.

use std::net::{IpAddr, SocketAddr};

use tombolo_mesh_core::trust::Service;

use super::{Cluster, DAY, credentials, soon};
use crate::{socket::ANY, tls::Expected, transport::Dialer};

#[tokio::test]
async fn a_listener_and_a_dialer_of_all_addresses_speak_both_families() {
    let east = Cluster::new("east", 1);
    let mut listener = east.listen_on(ANY);
    let port = listener.local_address().unwrap().port();
    let own = credentials(&east.authority, &east.node("n1"), std::time::SystemTime::now(), DAY);
    let dialer = Dialer::bind(ANY, own, east.trust.clone()).unwrap();
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let address = SocketAddr::new(host, port);
        let connect = dialer.connect(address, Expected::Id(east.daemon()), Service::Node);
        let connection = soon("a connection", connect).await.unwrap();
        let accepted = soon("its other end", listener.accept()).await.unwrap();
        // As they were written, not as the socket shows them.
        assert_eq!(connection.remote_address(), address);
        assert_eq!(accepted.connection.remote_address().ip(), host);
    }
}
