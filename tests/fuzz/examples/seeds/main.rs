//! Writes well-formed inputs of every target into a directory, for fuzzing to begin with: after the protocol has grown,
//! `cargo run -p tombolo-fuzz --example seeds -- tests/fuzz/corpus`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a tool of developers")]

mod classify;

use std::{fs, path::Path};

use tombolo_mesh_core::{
    membership::{
        ClusterRecord, ClusterState, Command, Departure, Durable, EntryRequest, JoinAnswer, JoinRequest,
        Lineage, MeshId, MeshState, Proposal, ProposalId, Renewal, TokenId,
    },
    replication::{Admission, Limits, Log, Receiver, Scope, Sender},
    token::{Secret, Token},
    wire::{Frame, Observation, encode_frame},
};
use tombolo_model::{
    Affinity, Backend, BackendState, ClusterId, EndpointRecord, Identity, IdentityRecord, Labels, NodeRecord,
    Protocol, Record, ServicePort, ServiceRecord, label,
};

fn west() -> ClusterId {
    2u16.try_into().unwrap()
}

fn records(version: u32) -> Vec<Record> {
    let labels = Labels([(label::CLUSTER.to_owned(), "west".to_owned())].into_iter().collect());
    let id = Identity::new(west(), 256 + version).unwrap();
    let backend = Backend {
        address: "10.2.0.7".parse().unwrap(),
        port: 80,
        cluster: west(),
        node: "w1".to_owned(),
        zone: "a".to_owned(),
        state: BackendState::Ready,
    };
    let port = ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        backends: if version == 0 { vec![backend] } else { Vec::new() },
    };
    let (namespace, node) = ("default".to_owned(), "w1".to_owned());
    vec![
        Record::Identity(IdentityRecord { id, labels }),
        Record::Node(NodeRecord {
            cluster: west(),
            name: node.clone(),
            addresses: vec!["172.16.2.1".parse().unwrap()],
            pod_prefixes: vec!["10.2.0.0/24".parse().unwrap()],
            zone: String::new(),
            tunnel: None,
        }),
        Record::Endpoint(EndpointRecord {
            cluster: west(),
            namespace: namespace.clone(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            node,
            addresses: vec!["10.2.0.7".parse().unwrap()],
            identity: id,
        }),
        Record::Service(ServiceRecord {
            cluster: west(),
            namespace,
            name: "web".to_owned(),
            frontends: vec![],
            global: true,
            shared: true,
            affinity: Affinity::None,
            on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
            ports: vec![port],
        }),
    ]
}

/// Both directions of a session: everything, a change, and a comparison with another exporter.
fn session() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    for epoch in 1..3 {
        let mut log = Log::new(epoch, 8);
        log.apply(records(0).into_iter().map(Into::into), 1);
        log.set_scope(Scope::AllBut([].into()));
        let mut sender = Sender::default();
        let subscription = receiver.subscribe();
        frames.push(encode_frame(&subscription).unwrap().to_vec());
        let Frame::Subscribe(subscription) = subscription else { unreachable!() };
        sender.subscribe(&log, subscription);
        for version in 0..2 {
            log.apply(records(version).into_iter().map(Into::into), 1);
            while let Some(out) = sender.poll(&log) {
                frames.push(out.frame.to_vec());
                receiver.handle(tombolo_mesh_core::wire::decode_frame(&out.frame).unwrap()).unwrap();
                if let Some(reply) = receiver.take_reply() {
                    frames.push(encode_frame(&reply).unwrap().to_vec());
                    if let Frame::Want(wanted) = reply {
                        sender.want(&log, wanted);
                    }
                }
            }
        }
    }
    let observation = Observation { silent: [west()].into(), membership: 7 };
    for frame in [Frame::Observation(observation), Frame::Membership(vec![1, 2, 3].into())] {
        frames.push(encode_frame(&frame).unwrap().to_vec());
    }
    frames
}

fn membership() -> Vec<Vec<u8>> {
    let record = ClusterRecord {
        id: west(),
        name: "west".parse().unwrap(),
        ca: vec![vec![1, 2, 3]],
        endpoints: vec!["192.0.2.1:4240".parse().unwrap()],
        node_prefixes: vec!["172.16.2.0/24".parse().unwrap()],
        pod_prefixes: vec!["10.2.0.0/16".parse().unwrap()],
        features: ["x".to_owned()].into(),
        incarnation: 1,
        state: ClusterState::Active,
        revision: 0,
        signature: vec![],
    };
    let durable = Durable::found(MeshId(1), &record);
    let mut state = MeshState::empty(MeshId(1), Lineage(1));
    state.clusters.insert(record.id, record.clone());
    let north = "north".parse().unwrap();
    state.departures.push(Departure {
        id: 3.try_into().unwrap(),
        name: north,
        by: record.name.clone(),
        at: 7,
    });
    let request = JoinRequest::new(&token(), record.clone(), true);
    let renewal = Renewal { mesh: MeshId(1), cluster: west(), incarnation: 2, signature: vec![7; 70] };
    let id = ProposalId { member: record.member(), start: 1, sequence: 1 };
    let command = Command::AddCluster { record: record.clone(), admission: request.admission() };
    let proposal = |command| Proposal { id, proposer: west(), at: 1, command }.encode();
    vec![
        durable.encode(),
        state.encode(),
        EntryRequest::Join(Box::new(request.clone())).encode(),
        EntryRequest::Renew(renewal.clone()).encode(),
        JoinAnswer::Possible.encode(),
        JoinAnswer::Expected(2).encode(),
        JoinAnswer::Admitted { member: record.member(), state }.encode(),
        proposal(command),
        proposal(Command::UpdateCluster(record)),
        proposal(Command::RemoveCluster(west())),
        proposal(Command::RenewMember(renewal)),
        proposal(Command::RevokeToken(TokenId(7))),
    ]
}

fn token() -> Token {
    Token {
        mesh: MeshId(1),
        id: TokenId(7),
        secret: Secret::new([7; 32]),
        endpoints: vec!["192.0.2.1:4240".parse().unwrap(), "[2001:db8::1]:4240".parse().unwrap()],
        ca_pin: [1; 32],
        issuer: "west".parse().unwrap(),
        expires: 2_000_000_000,
    }
}

/// A super-packet of each kind, whole, cut and joined.
fn offload() -> Vec<Vec<u8>> {
    let mut inputs = vec![[vec![0; 11], vec![0x45; 40]].concat()];
    for choices in 0..16 {
        let packet = [choices, 7, 0x0b, choices, 0x01, 0x40, 1, 2, 3, 4, 0x18, 3];
        inputs.push([[1].as_slice(), &packet, &[0]].concat());
        inputs.push([[1].as_slice(), &packet, &[1, 1, 0, 20, 9, 1, 0, 30, 9]].concat());
        if choices & 6 == 0 {
            let order = [0, 0, 150, 0, 200, 1, 0, 13, 0x10, 0, 240, 0];
            inputs.push([[2].as_slice(), &packet, &packet, &order].concat());
        }
    }
    // The second goes on where the first ends, with a push between them.
    let half = |family, sequence| [family, 7, 0, 200, 0, 50, 0, 0, 0, sequence, 0x18, 0];
    inputs.extend([0, 1].map(|family| [[2].as_slice(), &half(family, 1), &half(family, 201)].concat()));
    inputs
}

/// A session, and what strangers do to it.
fn tunnel() -> Vec<Vec<u8>> {
    let key = "10".repeat(32);
    let uapi = format!(
        "private_key={key}\nlisten_port=1\nreplace_peers=true\npublic_key={key}\nallowed_ip=10.0.0.0/8\n"
    );
    let garbage = [1u8, 2, 3, 4].map(|kind| [[0, 0, 148, kind, 0, 0, 0].as_slice(), &[7; 144]].concat());
    let (peer, us, to_nobody) = ([1, 1, 3, 9, 9, 9], [2, 2, 3, 8, 8, 8], [2, 3, 1, 8]);
    let wrong_source = [1, 0, 3, 9, 9, 9];
    let deliver = [6, 0].repeat(5);
    let session = [peer.as_slice(), &deliver, &us, &deliver].concat();
    let both = [us.as_slice(), &peer, &deliver, &deliver, &wrong_source, &deliver].concat();
    let replays = [[4, 0, 4, 1, 4, 2, 4, 0x82].as_slice(), &[5, 2, 0, 30, 1, 5, 0, 0, 60, 1]].concat();
    let any_packet = [3, 0, 20, 0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 7];
    [
        vec![uapi.into_bytes(), session.clone(), both, to_nobody.to_vec(), vec![0, 0, 4, 4, 0, 0, 0]],
        vec![[session.clone(), replays, any_packet.to_vec(), vec![7], deliver].concat()],
        vec![[garbage.concat(), session].concat()],
        garbage.to_vec(),
    ]
    .concat()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn main() {
    let frames = session();
    let length = |frame: &Vec<u8>| u16::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    let stream: Vec<u8> = frames.iter().flat_map(|frame| [length(frame), frame.clone()].concat()).collect();
    let mut tokens =
        texts(&["spiffe://west/daemon", "spiffe://west/node/w1", "tombolo1.abc.12345678", "tombolo2.x"]);
    tokens.push(token().reveal().into_bytes());
    tokens.push(format!("sha256:{}", "ab".repeat(32)).into_bytes());
    let cni = r#"{"cniVersion":"1.1.0","name":"tombolo","type":"tombolo-cni","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.2.0.7/32","interface":0}],"interfaces":[{"name":"eth0","sandbox":"/n"}]}}"#;
    let request = r#"{"command":"DEL","attachment":{"container_id":"c","ifname":"eth0"}}"#;
    let framed =
        [u32::try_from(request.len()).unwrap().to_be_bytes().as_slice(), request.as_bytes()].concat();
    let corpora = [
        ("classify", classify::inputs()),
        ("cni", vec![cni.as_bytes().to_vec(), framed]),
        ("frame", frames.clone()),
        ("membership", membership()),
        ("offload", offload()),
        (
            "replication",
            [vec![stream], frames.iter().map(|frame| [length(frame), frame.clone()].concat()).collect()]
                .concat(),
        ),
        ("token", tokens),
        ("tunnel", tunnel()),
    ];
    let root = std::env::args().nth(1).expect("the directory of the corpora");
    for (target, inputs) in corpora {
        let dir = Path::new(&root).join(target);
        fs::create_dir_all(&dir).unwrap();
        for (n, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{n:02}")), input).unwrap();
        }
    }
}
