//! The task that owns the index: takes in what the watches see and nodes report, makes identities, gives out
//! transactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tombolo_api::MeshIdentity;
use tombolo_mesh_core::wire::NodeFacts;
use tombolo_model::Identity;
use tracing::{info, warn};

use crate::{
    findings::Findings,
    index::{Index, Transaction},
    node_store::NodeStore,
    watch::{self, Input},
};

/// Identities made at the same time.
const BATCH: usize = 32;
/// Inputs that may wait; the watches wait when it is full.
const BACKLOG: usize = 1024;
/// How long to wait after the API server refused an identity.
const RETRY: Duration = Duration::from_secs(1);
/// How often unused identities are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What the controller gives out.
#[derive(Debug)]
pub enum Output {
    /// Changes that belong together.
    Transaction(Transaction),
    /// Everything that was there at the start has been given out.
    Complete,
}

/// What a node reports.
#[derive(Debug)]
pub struct Report {
    /// The node, as its session proved.
    pub node: String,
    /// What it says.
    pub facts: NodeFacts,
}

/// See the module.
pub struct Controller {
    index: Index,
    identities: Api<MeshIdentity>,
    findings: Findings,
    nodes: NodeStore,
    output: mpsc::Sender<Output>,
    listed: BTreeSet<&'static str>,
    complete: bool,
    unused: BTreeMap<Identity, Instant>,
    grace: Duration,
}

impl Controller {
    /// A controller that fills `index` and gives out its transactions. Identities without pods are deleted after
    /// `grace`.
    pub fn new(client: &Client, index: Index, output: mpsc::Sender<Output>, grace: Duration) -> Self {
        Self {
            index,
            identities: Api::all(client.clone()),
            findings: Findings::new(client.clone()),
            nodes: NodeStore::new(client.clone()),
            output,
            listed: BTreeSet::new(),
            complete: false,
            unused: BTreeMap::new(),
            grace,
        }
    }

    /// Runs until the receiver of the output is gone.
    pub async fn run(mut self, client: &Client, mut reports: mpsc::Receiver<Report>) {
        let (sender, mut inputs) = mpsc::channel(BACKLOG);
        let mut watches = JoinSet::new();
        watch::spawn(client, &sender, &mut watches);
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(input) = inputs.recv() => {
                    self.take_in(input);
                    // What waits already is one transaction with it: fewer, larger ones after a pause.
                    while let Ok(input) = inputs.try_recv() {
                        self.take_in(input);
                    }
                }
                Some(Report { node, facts }) = reports.recv() => {
                    let refused = self.index.report(&node, facts);
                    if !refused.is_empty() {
                        warn!(node, addresses = ?refused, "node reports addresses outside of its pod prefixes");
                    }
                }
                _ = sweep.tick() => self.sweep().await,
            }
            if self.give_out().await.is_err() {
                return;
            }
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Update(update) => update(&mut self.index),
            Input::List(update, kind) => {
                update(&mut self.index);
                if self.listed.insert(kind) {
                    info!(kind, "listed");
                }
            }
        }
    }

    /// Makes the identities that are missing and gives out what changed.
    async fn give_out(&mut self) -> Result<(), mpsc::error::SendError<Output>> {
        // Before all kinds are listed, records would come and go with the order of the lists, and an identity
        // that exists might be made a second time.
        if self.listed.len() < watch::KINDS {
            return Ok(());
        }
        self.make_identities().await;
        let transaction = self.index.take();
        if !transaction.is_empty() {
            self.output.send(Output::Transaction(transaction)).await?;
        }
        if !self.complete {
            self.complete = true;
            self.output.send(Output::Complete).await?;
        }
        self.findings.report(self.index.take_findings());
        if self.index.take_nodes_changed() {
            self.nodes.keep(self.index.unkept_nodes());
        }
        Ok(())
    }

    async fn make_identities(&mut self) {
        loop {
            let wanted = match self.index.wanted_identities(BATCH) {
                Ok(wanted) if wanted.is_empty() => return,
                Ok(wanted) => wanted,
                Err(error) => return warn!(%error, "pods stay without identity"),
            };
            let api = &self.identities;
            let made: Vec<_> =
                stream::iter(wanted).map(|wanted| make(api, wanted)).buffer_unordered(BATCH).collect().await;
            let mut failed = false;
            for made in made {
                match made {
                    Ok(identity) => self.index.apply(identity),
                    Err(error) => {
                        warn!(%error, "cannot make an identity, it is tried again");
                        failed = true;
                    }
                }
            }
            if failed {
                sleep(RETRY).await;
            }
        }
    }

    /// Deletes the identities that have had no pod for the grace time.
    async fn sweep(&mut self) {
        let now = Instant::now();
        let unused: BTreeSet<_> = self.index.unused_identities().into_iter().collect();
        self.unused.retain(|identity, _| unused.contains(identity));
        for identity in unused {
            let since = *self.unused.entry(identity).or_insert(now);
            if now.duration_since(since) < self.grace || self.listed.len() < watch::KINDS {
                continue;
            }
            match self.identities.delete(&identity.get().to_string(), &DeleteParams::default()).await {
                Ok(_) => info!(%identity, "unused identity deleted"),
                Err(error) => warn!(%identity, %error, "cannot delete an unused identity"),
            }
        }
    }
}

/// Creates the object; if there is one of this number, that one is the answer, whatever its labels.
async fn make(api: &Api<MeshIdentity>, wanted: MeshIdentity) -> kube::Result<MeshIdentity> {
    match api.create(&PostParams::default(), &wanted).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.get(wanted.metadata.name.as_deref().unwrap_or_default()).await
        }
        other => other,
    }
}
