use proptest::prelude::*;
use tombolo_model::{ClusterName, Prefix};

use super::*;
use crate::membership::{Durable, EntryRequest, JoinAnswer, MemberId, ProposalId};

fn id(id: u16) -> ClusterId {
    id.try_into().unwrap()
}

fn cluster(n: u16, name: &str, pods: &str) -> ClusterRecord {
    ClusterRecord {
        id: id(n),
        name: name.parse().unwrap(),
        ca: vec![vec![1, 2, 3]],
        endpoints: vec!["192.0.2.1:4240".parse().unwrap()],
        node_prefixes: vec![],
        pod_prefixes: vec![pods.parse().unwrap()],
        features: ["mesh".to_owned()].into(),
        incarnation: 1,
        state: ClusterState::Joining,
        revision: 0,
        signature: vec![],
    }
}

/// A certificate authority: what signs, and its certificate.
fn authority() -> (rcgen::KeyPair, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    (key, certificate.der().to_vec())
}

fn signed(record: &ClusterRecord, revision: u64, key: &rcgen::KeyPair) -> ClusterRecord {
    let record = ClusterRecord { revision, ..record.clone() };
    let signature = rcgen::SigningKey::sign(key, &record.signed_bytes()).unwrap();
    ClusterRecord { signature, ..record }
}

fn renew(cluster: u16, incarnation: u32) -> Command {
    let mesh = mesh().mesh;
    Command::RenewMember(Renewal { mesh, cluster: id(cluster), incarnation, signature: vec![] })
}

#[test]
fn a_member_begins_anew_by_the_word_of_its_cluster() {
    let (key, ca) = authority();
    let mut state = mesh();
    let bare = ClusterRecord { ca: vec![ca], ..cluster(1, "east", "10.1.0.0/16") };
    apply(&mut state, 1, 1, Command::UpdateCluster(signed(&bare, 1, &key))).unwrap();
    let renewal = |incarnation, mesh, key: &rcgen::KeyPair| {
        let renewal = Renewal { mesh, cluster: id(1), incarnation, signature: vec![] };
        let signature = rcgen::SigningKey::sign(key, &renewal.signed_bytes()).unwrap();
        Command::RenewMember(Renewal { signature, ..renewal })
    };
    let (mesh, other_mesh) = (state.mesh, MeshId(8));
    let error = apply(&mut state, 2, 1, renew(1, 2)).unwrap_err();
    assert!(error.contains("cluster east is not signed by"), "{error}");
    let error = apply(&mut state, 2, 1, renewal(2, mesh, &authority().0)).unwrap_err();
    assert!(error.contains("cluster east is not signed by"), "{error}");
    let error = apply(&mut state, 2, 1, renewal(2, other_mesh, &key)).unwrap_err();
    assert!(error.contains("is for mesh"), "{error}");
    let said = renewal(2, mesh, &key);
    apply(&mut state, 2, 1, said.clone()).unwrap();
    assert_eq!(state.clusters[&id(1)].member(), MemberId::new(id(1), 2));
    let error = apply(&mut state, 2, 1, said).unwrap_err();
    assert!(error.starts_with("incarnation 2 of cluster 1 is not the expected 3"), "{error}");
}

#[test]
fn only_its_authority_changes_the_record_of_a_cluster() {
    let (key, ca) = authority();
    let (other_key, other_ca) = authority();
    let mut state = mesh();
    let bare = ClusterRecord { ca: vec![ca.clone()], ..cluster(1, "east", "10.1.0.0/16") };
    let mut update = |record: &ClusterRecord| apply(&mut state, 1, 1, Command::UpdateCluster(record.clone()));
    let first = signed(&bare, 1, &key);
    update(&first).unwrap();
    // The leader of the Raft group could propose this in anybody's name.
    let wider = ClusterRecord { pod_prefixes: vec!["10.0.0.0/8".parse().unwrap()], ..bare.clone() };
    let foreign = ClusterRecord { ca: vec![other_ca.clone()], ..wider.clone() };
    for forged in [&wider, &signed(&wider, 2, &other_key), &signed(&foreign, 2, &other_key)] {
        let error = update(forged).unwrap_err();
        assert!(error.contains("cluster east is not signed by"), "{error}");
    }
    let altered = ClusterRecord { pod_prefixes: bare.pod_prefixes.clone(), ..signed(&wider, 2, &key) };
    assert!(update(&altered).unwrap_err().contains("not signed"));
    update(&signed(&wider, 2, &key)).unwrap();
    assert!(update(&first).unwrap_err().contains("version 1 of the record of cluster east is not newer"));
    // A new authority, vouched for by the old one, then alone.
    let both = ClusterRecord { ca: vec![other_ca.clone(), ca], ..bare.clone() };
    update(&signed(&both, 3, &key)).unwrap();
    update(&signed(&foreign, 4, &other_key)).unwrap();
    assert!(update(&signed(&bare, 5, &key)).unwrap_err().contains("not signed"));

    // Nor does a snapshot, unless the cluster was admitted anew.
    let forge = |change: fn(&mut ClusterRecord)| {
        let mut next = state.clone();
        change(next.clusters.get_mut(&id(1)).unwrap());
        state.may_become(&next)
    };
    assert_eq!(forge(|_| {}), Ok(()));
    assert_eq!(forge(|record| record.state = ClusterState::Lost), Ok(()));
    assert!(forge(|record| record.endpoints.clear()).is_err());
    assert!(
        forge(|record| {
            record.endpoints.clear();
            record.signature.clear();
        })
        .is_err()
    );
    assert_eq!(
        forge(|record| {
            record.endpoints.clear();
            record.incarnation += 1;
        }),
        Ok(())
    );
}

fn mesh() -> MeshState {
    MeshState::decode(&Durable::found(MeshId(7), &cluster(1, "east", "10.1.0.0/16")).snapshot.data).unwrap()
}

fn apply(state: &mut MeshState, proposer: u16, at: u64, command: Command) -> Result<(), String> {
    let member = MemberId::new(id(proposer), 1);
    let proposal =
        Proposal { id: ProposalId { member, start: 1, sequence: 1 }, proposer: id(proposer), at, command };
    assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal.clone()));
    let result = state.apply(&proposal).map_err(|e| e.to_string());
    assert_eq!(MeshState::decode(&state.encode()).as_ref(), Ok(&*state));
    result
}

fn token(n: u64, expires: u64) -> Command {
    let status = TokenStatus::Open;
    Command::CreateToken(TokenRecord {
        id: TokenId(n),
        secret_hash: [5; 32],
        expires,
        creator: id(9),
        status,
    })
}

fn add(record: ClusterRecord, token: u64) -> Command {
    let admission = Admission { mesh: MeshId(7), token: TokenId(token), secret_hash: [5; 32] };
    Command::AddCluster { record, admission }
}

#[test]
fn a_token_admits_one_cluster() {
    let mut state = mesh();
    apply(&mut state, 1, 100, token(1, 200)).unwrap();
    assert_eq!(state.tokens[&TokenId(1)].creator, id(1));
    let west = cluster(2, "west", "10.2.0.0/16");
    apply(&mut state, 1, 150, add(west.clone(), 1)).unwrap();
    assert_eq!(state.clusters[&id(2)].state, ClusterState::Joining);
    let version = state.version;
    apply(&mut state, 1, 151, add(west, 1)).unwrap();
    assert_eq!(state.version, version, "asking again changes nothing");
    let error = apply(&mut state, 1, 152, add(cluster(3, "north", "10.3.0.0/16"), 1)).unwrap_err();
    assert!(error.starts_with("token 0000000000000001 was already used by cluster 2"), "{error}");
}

#[test]
fn refusals_say_what_and_why() {
    let mut state = mesh();
    apply(&mut state, 1, 100, token(1, 200)).unwrap();
    apply(&mut state, 1, 100, token(2, 900)).unwrap();
    apply(&mut state, 1, 100, token(3, 900)).unwrap();
    apply(&mut state, 1, 100, Command::RevokeToken(TokenId(3))).unwrap();
    let before = MeshState { clock: 300, ..state.clone() };
    let ok = || cluster(2, "west", "10.2.0.0/16");
    let mut other_mesh = add(ok(), 2);
    let mut wrong_secret = add(ok(), 2);
    if let Command::AddCluster { admission, .. } = &mut other_mesh {
        admission.mesh = MeshId(8);
    }
    if let Command::AddCluster { admission, .. } = &mut wrong_secret {
        admission.secret_hash = [6; 32];
    }
    let mut huge = ok();
    huge.ca = vec![vec![0; MAX_CA_BYTES + 1]];
    let renamed = cluster(1, "oriental", "10.1.0.0/16");
    let cases = [
        (add(ok(), 1), "token 0000000000000001 expired 100 s ago (at 200, the mesh's clock says 300"),
        (add(ok(), 3), "token 0000000000000003 was revoked"),
        (add(ok(), 4), "token 0000000000000004 is not known"),
        (other_mesh, "the token is for mesh 00000000000000000000000000000008, this is mesh"),
        (wrong_secret, "the secret of token 0000000000000002 is wrong"),
        (
            add(cluster(1, "west", "10.2.0.0/16"), 2),
            "cluster id 1 is already used by cluster east: install the new cluster with another id, 2 is free",
        ),
        (add(cluster(2, "east", "10.2.0.0/16"), 2), "cluster name east is already used by cluster 1"),
        (add(cluster(1, "east", "10.2.0.0/16"), 2), "cluster east (id 1) is already a member"),
        (
            add(cluster(2, "west", "10.1.128.0/17"), 2),
            "pod range 10.1.128.0/17 of cluster west overlaps pod range 10.1.0.0/16 of cluster east",
        ),
        (add(huge, 2), "the CA bundle in bytes of cluster 2 has 8193, at most 8192 are allowed"),
        (Command::UpdateCluster(ok()), "cluster 2 is not a member"),
        (Command::UpdateCluster(renamed), "cluster east cannot be renamed to oriental"),
        (Command::RemoveCluster(id(5)), "cluster 5 is not a member"),
        (Command::RemoveCluster(id(1)), "cluster 1 is the only member"),
        (renew(1, 3), "incarnation 3 of cluster 1 is not the expected 2"),
        (token(2, 1000), "token id 0000000000000002 is already in use"),
        (token(5, 300), "token 0000000000000005 expired 0 s ago"),
        (Command::Unknown, "the command is of a kind that this version does not know"),
    ];
    for (command, expected) in cases {
        let error = apply(&mut state, 1, 300, command).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(state, before);
    }
    let error =
        apply(&mut state, 2, 300, Command::UpdateCluster(cluster(1, "east", "10.1.0.0/16"))).unwrap_err();
    assert!(error.starts_with("cluster 2 may not change the record of cluster 1"), "{error}");
}

#[test]
fn every_pod_range_is_compared_with_every_other() {
    let mut state = mesh();
    let with = |n: u16, name: &str, ranges: [&str; 2]| ClusterRecord {
        pod_prefixes: ranges.map(|range| range.parse().unwrap()).to_vec(),
        ..cluster(n, name, ranges[0])
    };
    for number in [1, 2] {
        apply(&mut state, 1, 100, token(number, 900)).unwrap();
    }
    apply(&mut state, 1, 100, add(with(2, "west", ["10.2.0.0/16", "fd00:2::/48"]), 1)).unwrap();
    let north = with(3, "north", ["10.3.0.0/16", "fd00:2:0:1::/64"]);
    let error = apply(&mut state, 1, 100, add(north, 2)).unwrap_err();
    let expected =
        "pod range fd00:2:0:1::/64 of cluster north overlaps pod range fd00:2::/48 of cluster west";
    assert!(error.starts_with(expected), "{error}");
    apply(&mut state, 1, 100, add(with(3, "north", ["10.3.0.0/16", "fd00:3::/48"]), 2)).unwrap();
}

#[test]
fn a_member_id_is_never_used_again() {
    let mut state = mesh();
    for (token_id, incarnation) in [(1, 1), (2, 3)] {
        apply(&mut state, 1, 100, token(token_id, 200)).unwrap();
        apply(&mut state, 1, 100, add(cluster(2, "west", "10.2.0.0/16"), token_id)).unwrap();
        assert_eq!(state.clusters[&id(2)].incarnation, incarnation);
        apply(&mut state, 1, 100, renew(2, incarnation + 1)).unwrap();
        apply(&mut state, 1, 100, Command::RemoveCluster(id(2))).unwrap();
    }
}

#[test]
fn a_clock_that_was_years_ahead_locks_nobody_out() {
    let mut state = mesh();
    apply(&mut state, 1, 100, token(1, 200)).unwrap();
    let error = apply(&mut state, 1, 9_000_000, add(cluster(2, "west", "10.2.0.0/16"), 1)).unwrap_err();
    assert!(error.starts_with("token 0000000000000001 expired"), "{error}");
    // The clock is set right, or a member with a better one leads.
    apply(&mut state, 1, 110, token(2, 210)).unwrap();
    apply(&mut state, 1, 120, add(cluster(2, "west", "10.2.0.0/16"), 2)).unwrap();
}

#[test]
fn names_and_prefixes_survive_encoding() {
    let name: ClusterName = "east".parse().unwrap();
    let state = mesh();
    let east = &state.clusters[&id(1)];
    assert_eq!((&east.name, east.state), (&name, ClusterState::Active));
    assert_eq!(east.pod_prefixes, ["10.1.0.0/16".parse::<Prefix>().unwrap()]);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_harm(bytes: Vec<u8>) {
        let _ = MeshState::decode(&bytes);
        let _ = Proposal::decode(&bytes);
        let _ = Durable::decode(&bytes);
        let _ = EntryRequest::decode(&bytes);
        let _ = JoinAnswer::decode(&bytes);
    }
}

#[test]
fn who_was_taken_out_by_whom_is_remembered() {
    let mut state = mesh();
    let mut tokens = 0;
    let mut join = |state: &mut MeshState, n: u16| {
        tokens += 1;
        apply(state, 1, 100, token(tokens, 900)).unwrap();
        apply(state, 1, 100, add(cluster(n, &format!("c{n}"), &format!("10.{n}.0.0/16")), tokens)).unwrap();
    };
    let gone = |state: &MeshState| -> Vec<_> {
        state.departures.iter().map(|d| format!("{} by {} at {}", d.name, d.by, d.at)).collect()
    };
    (2..5).for_each(|n| join(&mut state, n));
    apply(&mut state, 2, 200, Command::RemoveCluster(id(3))).unwrap();
    apply(&mut state, 4, 201, Command::RemoveCluster(id(4))).unwrap();
    assert_eq!(gone(&state), ["c3 by c2 at 200", "c4 by c4 at 201"]);
    join(&mut state, 3);
    assert_eq!(gone(&state), ["c4 by c4 at 201"], "who is back has not departed");
    apply(&mut state, 4, 202, Command::RemoveCluster(id(3))).unwrap();
    assert_eq!(gone(&state)[1], "c3 by c4 at 202", "decided after its proposer was gone");
    for n in 5..100 {
        join(&mut state, n);
        apply(&mut state, 1, 300, Command::RemoveCluster(id(n))).unwrap();
    }
    assert_eq!(gone(&state).len(), MAX_DEPARTURES);
    assert_eq!(gone(&state).last().unwrap(), "c99 by east at 300");
}

#[test]
fn a_mesh_that_is_full_admits_nobody_and_can_be_stored() {
    let mut state = mesh();
    let heavy = |n: u16, bytes| {
        let prefix = format!("11.{}.{}.0/24", n / 256, n % 256);
        ClusterRecord { ca: vec![vec![7; bytes]], ..cluster(n, &format!("c{n}"), &prefix) }
    };
    let full = (2..).find_map(|n| {
        apply(&mut state, 1, 100, token(n.into(), 900)).unwrap();
        apply(&mut state, 1, 100, add(heavy(n, 8000), n.into())).err()
    });
    let full = full.unwrap();
    assert!(full.contains("at most 737280 can be stored: take clusters out"), "{full}");
    let surplus = (200..1500).find_map(|n| apply(&mut state, 1, 100, token(n, 900)).err()).unwrap();
    assert!(surplus.starts_with("1024 tokens are open or remembered"), "{surplus}");
    assert!(state.encode().len() < MAX_RECORDS + 100 * 1024, "{} bytes", state.encode().len());
    let mut resize = |id: ClusterId, bytes, revision| {
        let record = ClusterRecord { ca: vec![vec![7; bytes]], revision, ..state.clusters[&id].clone() };
        apply(&mut state, id.get(), 101, Command::UpdateCluster(record))
    };
    let grown: Vec<_> = (2..80).map(|n| resize(id(n), 8192, 1)).collect();
    assert!(grown.first().unwrap().is_ok() && grown.last().unwrap().is_err(), "{grown:?}");
    resize(id(79), 100, 2).unwrap();
    apply(&mut state, 1, 102, add(heavy(4000, 7000), 300)).unwrap();
}
