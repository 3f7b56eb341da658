//! Leaving the mesh, taking others out of it, and going on without them.

use std::time::Duration;

use tokio::time::timeout;
use tombolo_mesh_core::membership::{ClusterRecord, ClusterState, Command, Refusal};
use tombolo_mesh_net::raft::ProposeError;
use tombolo_model::ClusterName;

use super::{
    Known, Mesh,
    member::{self, Switch},
};

/// How long the mesh may take to decide.
const DECISION: Duration = Duration::from_secs(8);
/// How long the own member may take to end after the decision.
const END: Duration = Duration::from_secs(15);

impl Mesh {
    /// Takes a cluster out of the mesh: this one, or `cluster`. Gives a sentence for the user.
    ///
    /// # Errors
    /// One sentence; nothing has changed.
    pub async fn leave(&self, cluster: Option<&ClusterName>) -> Result<String, String> {
        let _one = self.0.changing.lock().await;
        match cluster {
            Some(name) if *name != self.0.config.local.cluster => self.remove(name).await,
            _ => self.go().await,
        }
    }

    /// Goes on without all members that do not answer, of which the operator knows that they are gone.
    ///
    /// # Errors
    /// One sentence; nothing has changed.
    pub async fn recover(&self) -> Result<String, String> {
        let _one = self.0.changing.lock().await;
        let known = self.known().map_err(|e| e.to_string())?;
        if known.status.leader.is_some() {
            return Err("the mesh can decide, so there is nothing to recover: `tombolo disconnect --cluster` takes a \
                        cluster out"
                .to_owned());
        }
        self.switch(Switch::Recover).await?;
        Ok(format!(
            "this cluster goes on alone; {} must leave and join again when they are back",
            self.others(&known.state)
        ))
    }

    /// Hands leadership of the membership from this cluster to another one, and waits until that one leads.
    ///
    /// # Errors
    /// One sentence.
    pub async fn transfer(&self, to: &ClusterName) -> Result<String, String> {
        let known = self.known().map_err(|e| e.to_string())?;
        let record = find(&known, to).ok_or_else(|| self.is_no_member(to, &known))?;
        let leads = format!("cluster {to} leads the membership");
        let member = record.member();
        match known.status.leader {
            None => return Err(ProposeError::NoQuorum.to_string()),
            Some(leader) if leader == member => return Ok(leads),
            Some(leader) if leader != known.status.member => {
                let name =
                    known.leader().map_or_else(|| leader.to_string(), |record| record.name.to_string());
                return Err(format!("cluster {name} leads the membership: run the command there"));
            }
            Some(_) => {}
        }
        if !known.status.conf.voters.contains(&member.get()) {
            return Err(format!(
                "cluster {to} does not vote, so it cannot lead: `tombolo mesh members` shows who does"
            ));
        }
        let membership = self.membership().map_err(|e| e.to_string())?;
        membership.transfer(member).await.map_err(|e| e.to_string())?;
        let mut now = self.0.known.subscribe();
        let taken = now.wait_for(|now| now.as_ref().is_some_and(|n| n.status.leader == Some(member)));
        match timeout(DECISION, taken).await {
            Ok(_) => Ok(leads),
            Err(_) => Err(format!(
                "cluster {to} did not take over within {} s: see `tombolo mesh status`",
                DECISION.as_secs()
            )),
        }
    }

    async fn go(&self) -> Result<String, String> {
        let local = self.0.config.local.cluster.clone();
        let Ok(known) = self.known() else {
            // There is a member that cannot run; nobody can be asked.
            return self.go_alone(&format!("cluster {local} has left")).await;
        };
        let others = self.others(&known.state);
        if known.state.clusters.len() <= 1 {
            return Err(format!(
                "cluster {local} is in no mesh with other clusters: there is nothing to disconnect"
            ));
        }
        let left = format!("cluster {local} has left the mesh of {others}");
        let decided = match self.membership() {
            Ok(member) => {
                member.propose(Command::RemoveCluster(self.0.config.local.cluster_id), DECISION).await
            }
            Err(_) => Err(ProposeError::Stopped),
        };
        match decided {
            Ok(_) => {
                let mut now = self.0.known.subscribe();
                let alone =
                    now.wait_for(|now| now.as_ref().is_some_and(|n| n.state.mesh != known.state.mesh));
                let ended = timeout(END, alone).await.is_ok();
                if ended { Ok(left) } else { self.go_alone(&left).await }
            }
            Err(ProposeError::Refused(refusal)) => Err(refusal.to_string()),
            Err(_) => {
                self.go_alone(&format!(
                    "{left}, but they could not be asked: run `tombolo disconnect --cluster {local}` there"
                ))
                .await
            }
        }
    }

    /// Leaves without asking anybody: a cluster may always do so.
    async fn go_alone(&self, said: &str) -> Result<String, String> {
        let durable = Box::new(member::founded(self));
        self.switch(|reply| Switch::Become(durable, reply)).await?;
        Ok(said.to_owned())
    }

    async fn remove(&self, name: &ClusterName) -> Result<String, String> {
        let known = self.known().map_err(|e| e.to_string())?;
        let record = find(&known, name).ok_or_else(|| self.is_no_member(name, &known))?;
        let removed = format!("cluster {name} was taken out of the mesh");
        match self.propose_removal(record).await {
            Ok(()) => Ok(removed),
            Err(ProposeError::NoQuorum | ProposeError::Timeout(_)) if self.is_last_but(&known, record) => {
                // Two clusters decide together. The operator says that the other one is gone, and it is silent.
                self.switch(Switch::Recover).await?;
                self.propose_removal(record).await.map_err(|e| e.to_string())?;
                Ok(removed)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn propose_removal(&self, record: &ClusterRecord) -> Result<(), ProposeError> {
        let mut member = self.0.member.subscribe();
        let running = timeout(DECISION, member.wait_for(Option::is_some)).await;
        let running = running.ok().and_then(|running| running.ok()?.clone()).ok_or(ProposeError::Stopped)?;
        match running.propose(Command::RemoveCluster(record.id), DECISION).await {
            // An earlier proposal stood in the log, which a recovery takes as decided.
            Ok(_) | Err(ProposeError::Refused(Refusal::UnknownCluster(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_no_member(&self, name: &ClusterName, known: &Known) -> String {
        format!("cluster {name} is not a member of this mesh: the others are {}", self.others(&known.state))
    }

    /// Whether nobody but this cluster is left without the other one, which is silent.
    fn is_last_but(&self, known: &Known, other: &ClusterRecord) -> bool {
        let own = self.0.config.local.cluster_id;
        let silent = self.0.peers.status(other.id).is_none_or(|(status, _)| !status.up);
        let mut rest = known.state.clusters.values().filter(|c| c.id != own && c.id != other.id);
        silent && rest.all(|c| c.state == ClusterState::Lost)
    }
}

fn find<'a>(known: &'a Known, name: &ClusterName) -> Option<&'a ClusterRecord> {
    known.state.clusters.values().find(|cluster| cluster.name == *name)
}
