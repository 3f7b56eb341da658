use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Mutex,
};

use tombolo_mesh_core::membership::{
    ClusterRecord, ClusterState, Durable, JoinRequest, Role, TokenId, TokenRecord, TokenStatus,
};
use tombolo_mesh_core::token::{Secret, Token};

use super::*;
use crate::{
    join::{self, JoinError},
    storage::FileStore,
};

const MESH: MeshId = MeshId(5);
const LIMIT: Duration = Duration::from_secs(10);

/// Everybody who is connected, by cluster.
type Network = Arc<Mutex<BTreeMap<ClusterId, Membership>>>;

struct Wire {
    from: ClusterId,
    network: Network,
}

impl MessageSink for Wire {
    fn send(&mut self, message: Envelope) {
        let network = self.network.lock().unwrap();
        if let Some(peer) = message.to.cluster().and_then(|cluster| network.get(&cluster)) {
            peer.receive(self.from, message.bytes);
        }
    }
}

fn id(id: u16) -> ClusterId {
    id.try_into().unwrap()
}

fn record(n: u16) -> ClusterRecord {
    ClusterRecord {
        id: id(n),
        name: format!("c{n}").parse().unwrap(),
        ca: vec![],
        endpoints: vec![],
        node_prefixes: vec![],
        pod_prefixes: vec![format!("10.{n}.0.0/16").parse().unwrap()],
        features: BTreeSet::new(),
        incarnation: 1,
        state: ClusterState::Joining,
        revision: 0,
        signature: vec![],
    }
}

fn start(network: &Network, cluster: u16, storage: MemberStorage) -> (Membership, JoinHandle<Stopped>) {
    let timing = Timing { tick: Duration::from_millis(10), heartbeat_ticks: 2, election_ticks: 10 };
    let wire = Wire { from: id(cluster), network: Arc::clone(network) };
    let (member, task) = Membership::start(MESH, timing, storage, Box::new(wire)).unwrap();
    network.lock().unwrap().insert(id(cluster), member.clone());
    (member, task)
}

fn store(dir: &Path, n: u16) -> Box<FileStore> {
    Box::new(FileStore::open(&dir.join(n.to_string())).unwrap())
}

async fn until(member: &Membership, what: impl Fn(&MeshView) -> bool) {
    let mut view = member.watch();
    let result = tokio::time::timeout(LIMIT, view.wait_for(|v| what(v))).await;
    assert!(result.is_ok(), "not reached: {:?}", member.watch().borrow());
}

fn token(n: u16) -> Token {
    Token {
        mesh: MESH,
        id: TokenId(n.into()),
        secret: Secret::new([1; 32]),
        endpoints: vec![],
        ca_pin: [0; 32],
        issuer: "c1".parse().unwrap(),
        expires: u64::MAX,
    }
}

/// Asks `via` over a stream to let cluster `n` in.
async fn ask(via: &Membership, n: u16, dry_run: bool) -> Result<Option<(MemberId, MeshState)>, JoinError> {
    let (mut here, mut there) = tokio::io::duplex(256);
    let request = JoinRequest::new(&token(n), record(n), dry_run);
    let (answer, served) = tokio::join!(join::request(&mut here, &request), join::serve(&mut there, via));
    served.unwrap();
    answer
}

/// Lets cluster `n` in through `via` and starts its member.
async fn join(network: &Network, dir: &Path, via: &Membership, n: u16) -> (Membership, JoinHandle<Stopped>) {
    assert!(
        matches!(ask(via, n, true).await, Err(JoinError::Refused(why)) if why.contains("is not known to this mesh"))
    );
    let record = TokenRecord {
        id: token(n).id,
        secret_hash: token(n).secret.hash(),
        expires: token(n).expires,
        creator: id(1),
        status: TokenStatus::Open,
    };
    via.propose(Command::CreateToken(record), LIMIT).await.unwrap();
    assert!(ask(via, n, true).await.unwrap().is_none());
    let (member, state) = ask(via, n, false).await.unwrap().unwrap();
    assert_eq!(state.clusters[&id(n)].member(), member);
    let storage = MemberStorage::create(store(dir, n), Durable::empty(member)).await.unwrap();
    start(network, n, storage)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_clusters_decide_survive_a_leader_and_refuse_alone() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::default();
    let founded = Durable::found(MESH, &record(1));
    let storage = MemberStorage::create(store(dir.path(), 1), founded).await.unwrap();
    let (one, one_task) = start(&network, 1, storage);
    let (two, _) = join(&network, dir.path(), &one, 2).await;
    let (three, _) = join(&network, dir.path(), &two, 3).await;
    until(&three, |v| v.status.conf.voters.len() == 3 && v.status.conf.voters_outgoing.is_empty()).await;

    let refused = three.propose(Command::RemoveCluster(id(9)), LIMIT).await.unwrap_err();
    assert_eq!(refused, ProposeError::Refused(Refusal::UnknownCluster(id(9))));

    one.transfer(two.watch().borrow().status.member).await.unwrap();
    until(&two, |v| v.status.role == Role::Leader).await;

    // The leader vanishes; the others elect and decide.
    network.lock().unwrap().remove(&id(2));
    drop(two);
    until(&three, |v| v.status.leader.is_some_and(|l| l.cluster() != Some(id(2)))).await;
    three
        .propose(Command::UpdateCluster(ClusterRecord { state: ClusterState::Active, ..record(3) }), LIMIT)
        .await
        .unwrap();

    // One of three decides nothing, and keeps what it knows.
    network.lock().unwrap().remove(&id(3));
    drop(three);
    until(&one, |v| v.status.leader.is_none()).await;
    let alone = one.propose(Command::RemoveCluster(id(2)), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(alone, ProposeError::NoQuorum);
    assert_eq!(one.watch().borrow().state.clusters.len(), 3);

    // Recovery: it goes on alone.
    network.lock().unwrap().clear();
    drop(one);
    assert!(matches!(one_task.await.unwrap(), Stopped::Closed));
    let stored = MemberStorage::open(store(dir.path(), 1), id(1)).await.unwrap().durable().clone();
    let recovered = tombolo_mesh_core::membership::recover(&stored).unwrap();
    let storage = MemberStorage::replace(store(dir.path(), 1), recovered).await.unwrap();
    let (one, _) = start(&network, 1, storage);
    one.propose(Command::RemoveCluster(id(2)), LIMIT).await.unwrap();
    assert_eq!(one.watch().borrow().state.clusters[&id(3)].state, ClusterState::Lost);
}
