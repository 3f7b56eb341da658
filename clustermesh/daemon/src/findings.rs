//! What there is to say about policies: a condition on MeshNetworkPolicy, an Event on NetworkPolicy.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::sync::mpsc;
use tombolo_api::{
    MeshNetworkPolicy, MeshNetworkPolicyStatus,
    condition::{ACCEPTED, Finding},
};
use tombolo_model::PolicyKind;
use tracing::warn;

use crate::index::PolicyFinding;

/// The longest message of an Event that the API server takes.
const MAX_NOTE: usize = 1024;

/// Writes findings to the API server, in the background.
pub struct Findings {
    queue: mpsc::UnboundedSender<PolicyFinding>,
    // Ends the writer with this.
    _writer: tokio_util::task::AbortOnDropHandle<()>,
}

impl Findings {
    /// Starts the writer.
    pub fn new(client: Client) -> Self {
        let (queue, mut findings) = mpsc::unbounded_channel::<PolicyFinding>();
        let writer = tokio::spawn(async move {
            let recorder = Recorder::new(client.clone(), Reporter::from("tombolo-clustermesh"));
            while let Some(finding) = findings.recv().await {
                let name = format!("{}/{}", finding.key.namespace, finding.key.name);
                let written = match finding.key.kind {
                    PolicyKind::MeshNetworkPolicy => write_condition(&client, finding).await,
                    PolicyKind::NetworkPolicy => write_event(&recorder, finding).await,
                };
                if let Err(error) = written {
                    warn!(policy = name, %error, "cannot write the status of a policy");
                }
            }
        });
        Self { queue, _writer: tokio_util::task::AbortOnDropHandle::new(writer) }
    }

    /// Queues findings.
    pub fn report(&self, findings: Vec<PolicyFinding>) {
        for finding in findings {
            // The writer ends with this only.
            let _ = self.queue.send(finding);
        }
    }
}

async fn write_condition(client: &Client, finding: PolicyFinding) -> kube::Result<()> {
    let api: Api<MeshNetworkPolicy> = Api::namespaced(client.clone(), &finding.key.namespace);
    let Some(policy) = api.get_opt(&finding.key.name).await? else { return Ok(()) };
    let holds = finding.problems.is_empty();
    let condition = Finding {
        kind: ACCEPTED,
        holds: Some(holds),
        reason: if holds { "InForce" } else { "NotSupported" },
        message: if holds { "every part is in force".to_owned() } else { finding.problems.join("; ") },
    };
    let before = policy.status.unwrap_or_default();
    let condition = condition.into_condition(&before.conditions, finding.generation, Time(Timestamp::now()));
    let status =
        MeshNetworkPolicyStatus { observed_generation: finding.generation, conditions: vec![condition] };
    if status == before {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(&finding.key.name, &PatchParams::default(), &patch).await.map(drop)
}

async fn write_event(recorder: &Recorder, finding: PolicyFinding) -> kube::Result<()> {
    if finding.problems.is_empty() {
        return Ok(());
    }
    let policy = ObjectReference {
        api_version: Some("networking.k8s.io/v1".to_owned()),
        kind: Some("NetworkPolicy".to_owned()),
        namespace: Some(finding.key.namespace),
        name: Some(finding.key.name),
        uid: Some(finding.uid),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "NotSupported".to_owned(),
        note: Some(finding.problems.join("; ").chars().take(MAX_NOTE).collect()),
        action: "Enforce".to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &policy).await
}
