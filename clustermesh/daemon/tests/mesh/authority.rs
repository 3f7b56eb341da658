//! A cluster's certificate authority is replaced by another one.

use std::time::SystemTime;

use tombolo_mesh_net::tls::CertificateAuthority;

use super::{
    HOUR,
    cluster::{Cluster, eventually},
    pair,
};

fn another() -> CertificateAuthority {
    CertificateAuthority::generate(&"east".parse().unwrap(), SystemTime::now(), HOUR).unwrap()
}

/// West begins anew, so that both have to show fresh certificates.
async fn meet_again(east: &Cluster, west: Cluster) -> Cluster {
    let west = Cluster::restart(west.kill().await).await;
    eventually("in sync", || {
        let status = west.mesh.status();
        status.is_ok_and(|s| s.problems.is_empty() && s.members.iter().all(|m| m.connected && m.synced))
    })
    .await;
    eventually("backends of both", || east.backends().len() == 2 && west.backends().len() == 2).await;
    west
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_takes_over() {
    let (mut east, west) = pair().await;
    eventually("backends of both", || east.backends().len() == 2).await;
    let (old, new) = ((east.authority().bundle_pem().to_owned(), east.authority().key_pem()), another());

    east.set_authority(&format!("{}{}", old.0, new.bundle_pem()), &old.1);
    eventually("announced", || east.uninformed().is_empty()).await;
    let pins = |cluster: &Cluster| cluster.mesh.status().unwrap().members[0].ca_pins.clone();
    assert_eq!(pins(&west).len(), 2);
    let west = meet_again(&east, west).await;

    east.set_authority(&format!("{}{}", new.bundle_pem(), old.0), &new.key_pem());
    eventually("the new one signs", || east.uninformed().is_empty()).await;
    let west = meet_again(&east, west).await;

    east.set_authority(new.bundle_pem(), &new.key_pem());
    eventually("the old one is gone", || east.uninformed().is_empty()).await;
    assert_eq!(pins(&west), [new.pin().unwrap().to_string()]);
    meet_again(&east, west).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_was_not_announced_is_refused() {
    let (mut east, west) = pair().await;
    let before = west.mesh.status().unwrap().members[0].ca_pins.clone();
    let foreign = another();
    east.set_authority(foreign.bundle_pem(), &foreign.key_pem());
    eventually("it is said", || {
        east.mesh
            .status()
            .unwrap()
            .problems
            .iter()
            .any(|p| p.contains("not signed by the certificate authority"))
    })
    .await;
    assert_eq!(west.mesh.status().unwrap().members[0].ca_pins, before);
}
