//! Replaces the authority by a new one. First everybody learns of the new one: the other clusters by membership, the
//! nodes by the ConfigMap. Only when all who have a session have said that they know it, it signs; and only when none of
//! the nodes shows a certificate of the old one any more, the old one goes. So nobody is locked out, however long that
//! takes, and a replica that takes over goes on where the last one was: the Secret says how far it is.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tombolo_mesh_core::trust::{NodeName, Pin};
use tombolo_mesh_net::tls::{CertificateAuthority, pin_of};
use tracing::{info, warn};

use super::{
    AuthorityError, Keeper,
    material::{Material, Phase},
};
use crate::mesh::Mesh;

/// How often it is looked whether a change can go on.
const STEP: Duration = Duration::from_secs(1);
/// How often it is looked whether the Secret of somebody else has a new authority.
const LOOK: Duration = Duration::from_secs(30);

/// Which authorities the nodes with a session trust, and which one their certificates are from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NodeTrusts(Arc<Mutex<BTreeMap<NodeName, Trust>>>);

#[derive(Clone, Debug)]
struct Trust {
    authorities: Vec<Pin>,
    issuer: Option<Pin>,
}

impl NodeTrusts {
    /// A node has said what it trusts.
    pub fn set(&self, node: NodeName, authorities: Vec<Pin>, issuer: Option<Pin>) {
        self.lock().insert(node, Trust { authorities, issuer });
    }

    /// A node has no session any more. It reads the ConfigMap before its next one.
    pub fn remove(&self, node: &NodeName) {
        self.lock().remove(node);
    }

    fn without(&self, wanted: impl Fn(&Trust) -> bool) -> Vec<String> {
        let lacking = |(node, trust): (&NodeName, &Trust)| (!wanted(trust)).then(|| format!("node {node}"));
        self.lock().iter().filter_map(lacking).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeName, Trust>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reply = oneshot::Sender<Result<String, String>>;

/// Starts a change, and says how far it is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RotationHandle {
    requests: mpsc::Sender<Reply>,
    progress: watch::Receiver<Option<String>>,
}

impl RotationHandle {
    /// Makes a new authority, which takes over by itself. Gives a sentence for the user.
    ///
    /// # Errors
    /// One sentence; nothing has changed.
    pub async fn begin(&self) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let ended = |_| "this replica does not lead any more: try again".to_owned();
        self.requests.send(reply).await.map_err(|_| ended(()))?;
        answer.await.map_err(|_| ended(()))?
    }

    /// What a change that is under way waits for; none without one.
    pub fn progress(&self) -> Option<String> {
        self.progress.borrow().clone()
    }
}

/// Carries changes out.
pub struct Rotation {
    keeper: Keeper,
    nodes: NodeTrusts,
    authority: watch::Sender<Arc<CertificateAuthority>>,
    requests: mpsc::Receiver<Reply>,
    progress: watch::Sender<Option<String>>,
    /// The version of the membership in which the own record had all that is to be trusted.
    known_since: Option<u64>,
}

impl Rotation {
    /// Of the authority that `keeper` has; it and its successors go to the receiver.
    pub fn new(
        keeper: Keeper,
        first: CertificateAuthority,
        nodes: NodeTrusts,
    ) -> (Self, RotationHandle, watch::Receiver<Arc<CertificateAuthority>>) {
        let (authority, authorities) = watch::channel(Arc::new(first));
        let (sender, requests) = mpsc::channel(1);
        let (progress, shown) = watch::channel(None);
        let rotation = Self { keeper, nodes, authority, requests, progress, known_since: None };
        (rotation, RotationHandle { requests: sender, progress: shown }, authorities)
    }

    /// Runs until dropped.
    pub async fn run(mut self, mesh: Mesh) -> Infallible {
        loop {
            let phase = match self.step(&mesh).await {
                Ok(phase) => phase,
                Err(error) => {
                    warn!(%error, "the certificate authority cannot be looked after");
                    self.progress.send_replace(Some(error.to_string()));
                    Phase::Announced
                }
            };
            let pause = if phase == Phase::Settled { LOOK } else { STEP };
            tokio::select! {
                // Who asked may have gone.
                Some(reply) = self.requests.recv() => drop(reply.send(self.begin().await)),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn begin(&mut self) -> Result<String, String> {
        let begun = async {
            let (material, secret) = self.keeper.load().await?;
            if material.phase() != Phase::Settled {
                return Ok(Err("a new certificate authority is taking over already".to_owned()));
            }
            if self.keeper.source.is_some() {
                return Ok(Err(
                    "this cluster's certificate authority is kept by somebody else (caSecret): renew it \
                               there, and it takes over here"
                        .to_owned(),
                ));
            }
            let next = Material::generate(&self.keeper.cluster)?;
            self.keeper.store(&material.announce(&next), secret).await?;
            info!("a new certificate authority is made");
            Ok(Ok("a new certificate authority is made; it takes over when all clusters and nodes know it"
                .to_owned()))
        };
        begun.await.map_err(|error: AuthorityError| error.to_string())?
    }

    /// Goes on as far as it can; the phase is the one before.
    async fn step(&mut self, mesh: &Mesh) -> Result<Phase, AuthorityError> {
        let (mut material, mut secret) = self.keeper.load().await?;
        if material.phase() == Phase::Settled
            && let Some(source) = self.keeper.source().await?
            && !material.leads_to(source.certificate())
        {
            info!("the authority that somebody else keeps is a new one");
            material = material.announce(&source);
            self.keeper.store(&material, secret).await?;
            (material, secret) = self.keeper.load().await?;
        }
        self.show(&material).await?;
        let phase = material.phase();
        if phase == Phase::Settled {
            self.progress.send_replace(None);
            return Ok(phase);
        }
        let waits_for = self.waits_for(phase, mesh);
        if waits_for.is_empty() {
            self.keeper.store(&material.advance(), secret).await?;
            self.known_since = None;
            info!(?phase, "the change of the certificate authority goes on");
        }
        self.progress.send_replace(Some(describe(phase, &waits_for)));
        Ok(phase)
    }

    /// Has what the Secret says hold here, and told to the nodes.
    async fn show(&mut self, material: &Material) -> Result<(), AuthorityError> {
        let authority = material.authority()?;
        if authority.bundle_pem() != self.authority.borrow().bundle_pem() {
            self.keeper.publish(authority.bundle_pem()).await?;
            self.authority.send_replace(Arc::new(authority));
        }
        Ok(())
    }

    /// Who must say something before the next step.
    fn waits_for(&mut self, phase: Phase, mesh: &Mesh) -> Vec<String> {
        let authority = self.authority.borrow().clone();
        let pins: Vec<_> = authority.bundle().iter().filter_map(|der| pin_of(der).ok()).collect();
        let mut waits_for = match mesh.lacks_authorities(&authority, &mut self.known_since) {
            Ok(clusters) => clusters.iter().map(|name| format!("cluster {name}")).collect(),
            Err(error) => vec![error.to_string()],
        };
        waits_for.extend(self.nodes.without(|trust| match phase {
            Phase::Retiring => trust.issuer.as_ref() == pins.first(),
            Phase::Announced | Phase::Settled => pins.iter().all(|pin| trust.authorities.contains(pin)),
        }));
        waits_for
    }
}

fn describe(phase: Phase, waits_for: &[String]) -> String {
    let what = match phase {
        Phase::Retiring => "the new certificate authority signs, the old one goes",
        Phase::Announced | Phase::Settled => "a new certificate authority is announced, and signs",
    };
    if waits_for.is_empty() {
        return format!("{what} now");
    }
    // Hundreds of nodes are no help to anybody.
    const SHOWN: usize = 5;
    let more = waits_for.len().saturating_sub(SHOWN);
    let shown = waits_for.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let condition = match phase {
        Phase::Retiring => "no longer need it",
        Phase::Announced | Phase::Settled => "know it",
    };
    format!("{what} when these {condition}: {shown}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_lack_it_are_waited_for() {
        let (old, new) = (Pin([1; 32]), Pin([2; 32]));
        let trusts = NodeTrusts::default();
        let name = |n: &str| n.parse::<NodeName>().unwrap();
        trusts.set(name("a"), vec![old], Some(old));
        trusts.set(name("b"), vec![old, new], Some(new));
        trusts.set(name("c"), vec![], None);
        assert_eq!(trusts.without(|trust| trust.authorities.contains(&new)), ["node a", "node c"]);
        trusts.remove(&name("a"));
        assert_eq!(trusts.without(|trust| trust.issuer == Some(new)), ["node c"]);
    }

    #[test]
    fn progress_names_a_few() {
        let many: Vec<_> = (0..7).map(|n| format!("node {n}")).collect();
        let said = describe(Phase::Announced, &many);
        assert!(said.ends_with("know it: node 0, node 1, node 2, node 3, node 4 and 2 more"), "{said}");
        assert!(describe(Phase::Retiring, &[]).ends_with("the old one goes now"));
    }
}
