//! MeshPeer: joins the mesh that the token in its Secret was made for.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        controller::{Action, Controller},
        watcher,
    },
};
use serde_json::json;
use tombolo_api::{
    MeshPeer, MeshPeerStatus,
    condition::{Finding, JOINED},
};
use tracing::{debug, warn};

use crate::mesh::{JoinFailure, Mesh};

/// How long to wait before what may help is tried again.
const RETRY: Duration = Duration::from_secs(2);

struct Context {
    client: Client,
    namespace: String,
    mesh: Mesh,
}

/// Follows the MeshPeers of the namespace until dropped.
pub async fn run(client: Client, namespace: String, mesh: Mesh) {
    let peers: Api<MeshPeer> = Api::namespaced(client.clone(), &namespace);
    let context = Arc::new(Context { client, namespace, mesh });
    Controller::new(peers, watcher::Config::default())
        .run(reconcile, failed, context)
        .for_each(|result| async {
            if let Err(error) = result {
                debug!(%error, "MeshPeer is looked at again");
            }
        })
        .await;
}

async fn reconcile(peer: Arc<MeshPeer>, context: Arc<Context>) -> kube::Result<Action> {
    if is_refused(&peer) {
        return Ok(Action::await_change());
    }
    let token = token(&peer, &context).await?;
    let result = match token {
        Ok(token) => context.mesh.join(&token).await,
        Err(missing) => Err(JoinFailure::Unavailable(missing)),
    };
    let (holds, reason, message) = match result {
        Ok(said) => (Some(true), "Joined", said),
        Err(error) if error.is_temporary() => (None, "Unreachable", error.to_string()),
        Err(error) => (Some(false), "Refused", error.to_string()),
    };
    let temporary = holds.is_none();
    write(&peer, &context, Finding { kind: JOINED, holds, reason, message }).await?;
    Ok(if temporary { Action::requeue(RETRY) } else { Action::await_change() })
}

#[expect(clippy::needless_pass_by_value, reason = "the controller prescribes it")]
fn failed(peer: Arc<MeshPeer>, error: &kube::Error, _: Arc<Context>) -> Action {
    warn!(peer = peer.name_any(), %error, "cannot read or write a MeshPeer");
    Action::requeue(RETRY)
}

/// Whether this very wish was refused for good.
fn is_refused(peer: &MeshPeer) -> bool {
    let conditions = peer.status.iter().flat_map(|status| &status.conditions);
    let mut joined = conditions.filter(|c| c.type_ == JOINED);
    joined.any(|c| c.status == "False" && c.observed_generation == peer.metadata.generation)
}

/// The token, or why there is none.
async fn token(peer: &MeshPeer, context: &Context) -> kube::Result<Result<String, String>> {
    let reference = &peer.spec.secret_ref;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.namespace);
    let Some(secret) = secrets.get_opt(&reference.name).await? else {
        return Ok(Err(format!("Secret {} does not exist: create it with the token", reference.name)));
    };
    let entry = secret.data.and_then(|mut data| data.remove(&reference.key));
    let text = entry.and_then(|bytes| String::from_utf8(bytes.0).ok());
    Ok(text.ok_or_else(|| format!("Secret {} has no entry {} with a token", reference.name, reference.key)))
}

async fn write(peer: &MeshPeer, context: &Context, finding: Finding) -> kube::Result<()> {
    let before = peer.status.clone().unwrap_or_default();
    let generation = peer.metadata.generation;
    let condition = finding.into_condition(&before.conditions, generation, Time(Timestamp::now()));
    let status = MeshPeerStatus { observed_generation: generation, conditions: vec![condition] };
    if status == before {
        return Ok(());
    }
    let peers: Api<MeshPeer> = Api::namespaced(context.client.clone(), &context.namespace);
    let patch = Patch::Merge(json!({ "status": status }));
    match peers.patch_status(&peer.name_any(), &PatchParams::default(), &patch).await {
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        written => written.map(drop),
    }
}
