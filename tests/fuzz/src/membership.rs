//! What members, joining clusters and storage can hand to the membership.

use tombolo_mesh_core::membership::{
    ClusterRecord, ClusterState, Config, Durable, EntryRequest, JoinAnswer, Member, MeshId, MeshState,
    Proposal, Step,
};

fn record(id: u16) -> ClusterRecord {
    ClusterRecord {
        id: id.try_into().expect("an id"),
        name: format!("c{id}").parse().expect("a name"),
        ca: vec![],
        endpoints: vec![],
        node_prefixes: vec![],
        pod_prefixes: vec![],
        features: Default::default(),
        incarnation: 1,
        state: ClusterState::Active,
        revision: 0,
        signature: vec![],
    }
}

fn drive(member: &mut Member, disk: &mut Durable) {
    while let Some(step) = member.poll() {
        if let Step::Write(write) = step {
            let proof = write.save(|changes| {
                disk.apply(changes);
                Ok::<(), ()>(())
            });
            member.persisted(proof.expect("memory takes it"));
        }
    }
}

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    if let Ok(state) = MeshState::decode(bytes) {
        assert_eq!(MeshState::decode(&state.encode()), Ok(state));
    }
    if let Ok(proposal) = Proposal::decode(bytes) {
        let mut state = MeshState::empty(MeshId(1), tombolo_mesh_core::membership::Lineage(0));
        let _ = state.apply(&proposal);
    }
    if let Ok(durable) = Durable::decode(bytes) {
        let config =
            Config { mesh: MeshId(1), election_ticks: 10, heartbeat_ticks: 2, seed: 1, key: [1; 32] };
        let _ = Member::restore(&config, &durable);
    }
    let _ = (EntryRequest::decode(bytes), JoinAnswer::decode(bytes));
    // A founded member hears it from the member of cluster 2.
    let mut disk = Durable::found(MeshId(1), &record(1));
    let config = Config { mesh: MeshId(1), election_ticks: 10, heartbeat_ticks: 2, seed: 1, key: [1; 32] };
    let mut member = Member::restore(&config, &disk).expect("its own state");
    for _ in 0..2 {
        member.tick(10);
        drive(&mut member, &mut disk);
    }
    let before = member.state().clone();
    let _ = member.receive(2u16.try_into().expect("an id"), bytes);
    drive(&mut member, &mut disk);
    assert_eq!(*member.state(), before, "cluster 2 is no member");
    assert!(member.halted().is_none());
}
