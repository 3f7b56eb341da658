use super::*;
use crate::membership::{
    ClusterRecord, ClusterState, MAX_DURABLE, TokenId, TokenRecord, TokenStatus,
    codec::Body,
    limits::{MAX_LOG_ENTRIES, MAX_RECORDS},
};

fn record(id: u16) -> ClusterRecord {
    ClusterRecord {
        id: id.try_into().unwrap(),
        name: format!("c{id}").parse().unwrap(),
        ca: vec![],
        endpoints: vec![],
        node_prefixes: vec![],
        pod_prefixes: vec![],
        features: std::collections::BTreeSet::new(),
        incarnation: 1,
        state: ClusterState::Active,
        revision: 0,
        signature: vec![],
    }
}

fn config(seed: u64) -> Config {
    Config { mesh: MeshId(1), election_ticks: 10, heartbeat_ticks: 2, seed, key: [seed as u8; 32] }
}

/// Does everything a member wants, in memory.
fn run(member: &mut Member, disk: &mut Durable) -> Vec<Applied> {
    let mut applied = Vec::new();
    while let Some(step) = member.poll() {
        let output = match step {
            Step::Write(write) => {
                let proof = write
                    .save(|changes| {
                        disk.apply(changes);
                        Ok::<(), ()>(())
                    })
                    .unwrap();
                assert_eq!(Durable::decode(&disk.encode()).as_ref(), Ok(&*disk));
                member.persisted(proof)
            }
            Step::Output(output) => output,
        };
        applied.extend(output.applied);
    }
    applied
}

fn token(n: u64) -> Command {
    let creator = 1.try_into().unwrap();
    let status = TokenStatus::Open;
    Command::CreateToken(TokenRecord { id: TokenId(n), secret_hash: [0; 32], expires: 1000, creator, status })
}

fn founded() -> (Member, Durable) {
    let mut disk = Durable::found(MeshId(1), &record(1));
    let mut member = Member::restore(&config(1), &disk).unwrap();
    member.tick(10);
    run(&mut member, &mut disk);
    member.tick(10);
    run(&mut member, &mut disk);
    (member, disk)
}

#[test]
fn a_mesh_of_one_decides_and_remembers() {
    let (mut member, mut disk) = founded();
    assert_eq!(member.status().role, Role::Leader);
    let id = member.propose(token(1)).unwrap();
    let applied = run(&mut member, &mut disk);
    assert_eq!(
        applied.iter().map(|a| (a.proposal.id, a.outcome.clone())).collect::<Vec<_>>(),
        [(id, Ok(()))]
    );
    let state = member.state().clone();

    let mut again = Member::restore(&config(2), &disk).unwrap();
    run(&mut again, &mut disk);
    again.tick(10);
    run(&mut again, &mut disk);
    assert_eq!(again.state(), &state);
}

#[test]
fn the_log_stays_short() {
    let (mut member, mut disk) = founded();
    member.propose(token(1)).unwrap();
    for n in 0..2000 {
        member.propose(Command::RevokeToken(TokenId(n))).unwrap();
        run(&mut member, &mut disk);
        assert!(disk.entries.len() <= MAX_LOG_ENTRIES + 2);
    }
    // What is no longer in the log is in the snapshot.
    let again = Member::restore(&config(2), &disk).unwrap();
    assert_eq!(again.state().tokens[&TokenId(1)].status, TokenStatus::Revoked);
    assert_eq!(again.state().clusters, member.state().clusters);
}

#[test]
fn nothing_is_said_while_a_write_is_open() {
    let mut disk = Durable::found(MeshId(1), &record(1));
    let mut member = Member::restore(&config(1), &disk).unwrap();
    let Some(Step::Write(write)) = member.poll() else { panic!("the start is stored first") };
    for _ in 0..100 {
        member.tick(1);
        assert!(member.poll().is_none());
    }
    let proof = write
        .save(|changes| {
            disk.apply(changes);
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!((disk.start, disk.generation), (1, 1));
    assert_eq!(member.persisted(proof), Output::default());
}

#[test]
fn garbage_and_strangers_are_refused() {
    let (mut member, _) = founded();
    let one: ClusterId = 1.try_into().unwrap();
    let two: ClusterId = 2.try_into().unwrap();
    assert!(matches!(member.receive(one, b"\xff\xff"), Err(ReceiveError::Decode(_))));
    let mut disk = Durable::found(MeshId(1), &record(2));
    let mut other = Member::restore(&config(3), &disk).unwrap();
    run(&mut other, &mut disk);
    let body = Body::Forward(Vec::new());
    let envelope = other.seal(member.id().get(), body).unwrap();
    assert!(matches!(member.receive(one, &envelope.bytes), Err(ReceiveError::WrongSender { .. })));
    assert!(matches!(member.receive(two, &envelope.bytes), Err(ReceiveError::Decode(_))));
    assert_eq!(other.receive(two, &envelope.bytes), Err(ReceiveError::NotForUs("member")));
}

#[test]
fn only_what_it_has_said_itself_silences_a_member() {
    let (mut member, mut disk) = founded();
    let (one, two): (ClusterId, ClusterId) = (1.try_into().unwrap(), 2.try_into().unwrap());
    let mut other = Member::restore(&config(3), &Durable::found(MeshId(1), &record(2))).unwrap();
    let forged = Stale { start: 99, nonce: 7, generation: 99, tag: 7 };
    let lie = other.seal(member.id().get(), Body::Stale(forged)).unwrap();
    assert!(matches!(member.receive(two, &lie.bytes), Err(ReceiveError::Refused { .. })));
    assert_eq!(member.halted(), None);

    // The other one hears it after its next start, and then again from an old backup.
    let backup = disk.clone();
    let mut said = |disk: &mut Durable, seed| {
        let mut member = Member::restore(&config(seed), disk).unwrap();
        run(&mut member, disk);
        let said = member.seal(other.id().get(), Body::Forward(Vec::new())).unwrap();
        (member, other.receive(one, &said.bytes), std::mem::take(&mut other.outgoing))
    };
    let (_, heard, reproach) = said(&mut disk, 4);
    assert!(matches!(heard, Err(ReceiveError::Decode(_))) && reproach.is_empty());
    let (mut restored, heard, reproach) = said(&mut backup.clone(), 5);
    assert!(matches!(heard, Err(ReceiveError::Stale(_))));
    restored.receive(two, &reproach[0].bytes).unwrap();
    assert_eq!(restored.halted(), Some(Halt::OldBackup));
}

#[test]
fn a_survivor_goes_on_alone_in_a_new_line_of_history() {
    let (mut member, mut disk) = founded();
    member.propose(token(1)).unwrap();
    run(&mut member, &mut disk);
    let before = member.state().clone();
    assert!(before.tokens.contains_key(&TokenId(1)));
    let mut disk = recover(&disk).unwrap();
    let mut survivor = Member::restore(&config(5), &disk).unwrap();
    survivor.tick(20);
    run(&mut survivor, &mut disk);
    survivor.tick(20);
    run(&mut survivor, &mut disk);
    assert_eq!(survivor.status().role, Role::Leader);
    assert_eq!(survivor.state().tokens, before.tokens);
    assert_ne!(survivor.state().lineage, before.lineage);
    assert_eq!(recover(&Durable::empty(survivor.id())), Err(RecoverError::Empty(survivor.id())),);
}

/// A record with so many bytes of certificates.
fn heavy(id: u16, bytes: usize) -> ClusterRecord {
    ClusterRecord { ca: vec![vec![7; bytes]], revision: 1, ..record(id) }
}

#[test]
fn what_others_propose_is_bounded() {
    let (mut member, mut disk) = founded();
    let two: ClusterId = 2.try_into().unwrap();
    let other = Member::restore(&config(3), &Durable::found(MeshId(1), &record(2))).unwrap();
    let forward = |sequence, command| {
        let id = ProposalId { member: other.id(), start: 1, sequence };
        let proposal = Proposal { id, proposer: two, at: 1, command };
        other.seal(member_id(1), Body::Forward(proposal.encode())).unwrap().bytes
    };
    // As many as anybody likes, while the leader waits for its storage and when it does not.
    for round in 0..2 {
        member.propose(token(round)).unwrap();
        let Some(Step::Write(write)) = member.poll() else { panic!("a proposal is stored") };
        for n in 0..2000 {
            let _ = member.receive(two, &forward(2 + n, Command::UpdateCluster(heavy(2, 30_000))));
        }
        let proof = write
            .save(|changes| {
                disk.apply(changes);
                Ok::<(), ()>(())
            })
            .unwrap();
        member.persisted(proof);
        run(&mut member, &mut disk);
        let stored = disk.encode().len();
        assert!(stored < MAX_DURABLE - MAX_RECORDS, "{stored} bytes");
    }
    let huge = forward(1, Command::UpdateCluster(heavy(2, 500_000)));
    let refused = ReceiveError::Refused { from: other.id(), reason: "its proposal is too large" };
    assert_eq!(member.receive(two, &huge), Err(refused));
    assert!(matches!(
        member.propose(Command::UpdateCluster(heavy(1, 30_000))),
        Err(ProposeError::Refused(Refusal::TooLarge { .. }))
    ));
    member.propose(token(9)).unwrap();
    run(&mut member, &mut disk);
    assert!(member.state().tokens.contains_key(&TokenId(9)), "it goes on");
}

fn member_id(id: u16) -> u64 {
    MemberId::new(id.try_into().unwrap(), 1).get()
}
