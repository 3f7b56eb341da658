use tombolo_model::{Affinity, Protocol};

use super::*;

fn id(n: u16) -> ClusterId {
    ClusterId::try_from(n).unwrap()
}

fn backend(cluster: u16, host: u8, state: BackendState) -> Backend {
    let address = format!("10.{cluster}.0.{host}").parse().unwrap();
    Backend { address, port: 8080, cluster: id(cluster), node: String::new(), zone: String::new(), state }
}

fn web(cluster: u16, flags: (bool, bool), hosts: &[(u8, BackendState)]) -> ServiceRecord {
    ServiceRecord {
        cluster: id(cluster),
        namespace: "shop".into(),
        name: "web".into(),
        frontends: vec![format!("10.96.{cluster}.1").parse().unwrap()],
        global: flags.0,
        shared: flags.1,
        affinity: Affinity::Local,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80 + cluster,
            backends: hosts.iter().map(|(host, state)| backend(cluster, *host, *state)).collect(),
        }],
    }
}

fn hosts(service: &ServiceRecord) -> Vec<String> {
    service.ports.iter().flat_map(|p| &p.backends).map(|b| b.address.to_string()).collect()
}

use BackendState::{NotReady, Ready};

#[test]
fn flags_decide_who_takes_part() {
    let local = web(1, (true, true), &[(1, Ready)]);
    let cases = [
        ("shared and global", (true, true), true),
        ("not shared", (true, false), false),
        ("not global", (false, true), false),
    ];
    for (name, flags, takes_part) in cases {
        let merged = merge_service(&local, [&web(2, flags, &[(1, Ready)])], &BTreeSet::new());
        assert_eq!(hosts(&merged).len(), 1 + usize::from(takes_part), "{name}");
        assert_eq!((merged.ports[0].port, merged.affinity), (81, Affinity::Local), "{name}");
        assert_eq!(merged.frontends, local.frontends, "{name}");
    }
    let private = web(1, (false, false), &[(1, Ready)]);
    assert_eq!(merge_service(&private, [&web(2, (true, true), &[(1, Ready)])], &BTreeSet::new()), private);
    // A service that lends nothing still borrows.
    let borrower = web(1, (true, false), &[]);
    assert_eq!(
        hosts(&merge_service(&borrower, [&web(2, (true, true), &[(1, Ready)])], &BTreeSet::new())),
        ["10.2.0.1"]
    );
}

#[test]
fn ports_correspond_by_name_and_protocol() {
    let local = web(1, (true, true), &[]);
    let mut remote = web(2, (true, true), &[(1, Ready)]);
    assert_eq!(hosts(&merge_service(&local, [&remote], &BTreeSet::new())), ["10.2.0.1"]);
    remote.ports[0].protocol = Protocol::Udp;
    assert!(hosts(&merge_service(&local, [&remote], &BTreeSet::new())).is_empty());
    remote.ports[0].protocol = Protocol::Tcp;
    remote.ports[0].name = "https".into();
    assert!(hosts(&merge_service(&local, [&remote], &BTreeSet::new())).is_empty());
}

#[test]
fn excluded_clusters_serve_only_when_nobody_else_does() {
    let lost = BTreeSet::from([id(2)]);
    let remote = web(2, (true, true), &[(1, Ready)]);
    let merge = |hosts_of_1: &[(u8, BackendState)]| {
        hosts(&merge_service(&web(1, (true, true), hosts_of_1), [&remote], &lost))
    };
    assert_eq!(merge(&[(1, Ready)]), ["10.1.0.1"]);
    assert_eq!(merge(&[]), ["10.2.0.1"]);
    assert_eq!(merge(&[(1, NotReady)]), ["10.1.0.1", "10.2.0.1"]);
}

#[test]
fn changes_of_any_cluster_change_the_local_service_only() {
    let mut services = GlobalServices::new(id(1));
    let upsert = |s: ServiceRecord| Change::from(Record::Service(s));
    let remove = |c| Change::Remove(RecordKey::Service(id(c), "shop".into(), "web".into()));
    let shown = |change: Option<Change>| match change {
        Some(Change::Upsert(r)) => match &*r {
            Record::Service(s) => format!("cluster {} {:?}", s.cluster, hosts(s)),
            other => format!("{other:?}"),
        },
        Some(Change::Remove(_)) => "removed".into(),
        None => "nothing".into(),
    };
    let mut apply = |change| {
        services.take(change);
        shown(services.changes().pop())
    };
    let mut log = vec![
        apply(upsert(web(2, (true, true), &[(1, Ready)]))),
        apply(upsert(web(1, (true, true), &[(1, Ready)]))),
        apply(upsert(web(3, (true, true), &[(1, Ready)]))),
    ];
    log.push(shown(services.set_excluded(BTreeSet::from([id(3)])).pop()));
    services.take(remove(2));
    log.push(shown(services.changes().pop()));
    log.push(shown(services.set_excluded(BTreeSet::new()).pop()));
    services.take(remove(1));
    services.take(upsert(web(4, (true, true), &[(1, Ready)])));
    log.push(shown(services.changes().pop()));
    services.take(remove(3));
    services.take(remove(4));
    log.push(shown(services.changes().pop()));
    assert!(services.changes().is_empty());
    assert_eq!(
        log,
        [
            "nothing",
            r#"cluster 1 ["10.1.0.1", "10.2.0.1"]"#,
            r#"cluster 1 ["10.1.0.1", "10.2.0.1", "10.3.0.1"]"#,
            r#"cluster 1 ["10.1.0.1", "10.2.0.1"]"#,
            r#"cluster 1 ["10.1.0.1"]"#,
            r#"cluster 1 ["10.1.0.1", "10.3.0.1"]"#,
            "removed",
            "nothing",
        ]
    );
}

#[test]
fn a_service_may_keep_the_backends_of_silent_clusters() {
    let (here, there) = (web(1, (true, true), &[(1, Ready)]), web(2, (true, true), &[(1, Ready)]));
    let silent = [id(2)].into();
    assert_eq!(hosts(&merge_service(&here, [&there], &silent)), ["10.1.0.1"]);
    let here = ServiceRecord { on_cluster_loss: OnClusterLoss::Keep, ..here };
    assert_eq!(hosts(&merge_service(&here, [&there], &silent)), ["10.1.0.1", "10.2.0.1"]);
}
