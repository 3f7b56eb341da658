//! Watches of the API server, one per kind, as updates of the index.

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};
use tombolo_api::{MeshIdentity, MeshNetworkPolicy, MeshNode};
use tracing::warn;

use crate::index::{Index, Indexed};

/// The kinds that are watched.
pub const KINDS: usize = 9;

/// What a watch has seen.
pub enum Input {
    /// One change.
    Update(Box<dyn FnOnce(&mut Index) + Send>),
    /// A fresh list of a kind: all its objects, and no others, exist.
    List(Box<dyn FnOnce(&mut Index) + Send>, &'static str),
}

/// Starts a watch of each kind the index reads. They end with `tasks`.
pub fn spawn(client: &Client, inputs: &mpsc::Sender<Input>, tasks: &mut JoinSet<()>) {
    tasks.spawn(watch::<MeshIdentity>("MeshIdentity", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<Namespace>("Namespace", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<Node>("Node", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<Pod>("Pod", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<Service>("Service", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<EndpointSlice>("EndpointSlice", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<NetworkPolicy>("NetworkPolicy", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<MeshNetworkPolicy>("MeshNetworkPolicy", Api::all(client.clone()), inputs.clone()));
    tasks.spawn(watch::<MeshNode>("MeshNode", Api::all(client.clone()), inputs.clone()));
}

async fn watch<K>(kind: &'static str, api: Api<K>, inputs: mpsc::Sender<Input>)
where
    K: Indexed + Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .map(|event| event.map(|event| event.modify(|object| object.managed_fields_mut().clear())));
    feed(kind, Box::pin(events), inputs).await;
}

async fn feed<K>(
    kind: &'static str,
    mut events: impl Stream<Item = watcher::Result<Event<K>>> + Unpin,
    inputs: mpsc::Sender<Input>,
) where
    K: Indexed + Send + 'static,
{
    let mut list = Vec::new();
    while let Some(event) = events.next().await {
        let input = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.push(object);
                continue;
            }
            Ok(Event::InitDone) => {
                let objects = std::mem::take(&mut list);
                Input::List(Box::new(move |index| index.replace(objects)), kind)
            }
            Ok(Event::Apply(object)) => Input::Update(Box::new(move |index| index.apply(object))),
            Ok(Event::Delete(object)) => Input::Update(Box::new(move |index| index.delete(&object))),
            Err(error) => {
                warn!(kind, %error, "watch failed, it is tried again");
                continue;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}
