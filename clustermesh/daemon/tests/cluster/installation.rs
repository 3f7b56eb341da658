//! What an installation makes in an API server: definitions, namespaces, and the daemon's rights.

use std::time::Duration;

use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{Namespace, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    runtime::wait::{await_condition, conditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

/// The namespace of tombolo.
pub const NAMESPACE: &str = "tombolo-system";

/// Creates an object.
pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Makes what the chart makes: definitions and namespaces; and a namespace for pods.
pub async fn install(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (file, text) in tombolo_api::crds::files().unwrap() {
        let definition: CustomResourceDefinition = serde_yaml_ng::from_str(&text).unwrap();
        let made = definitions.create(&PostParams::default(), &definition).await;
        let name = made.unwrap_or_else(|error| panic!("{file}: {error}")).metadata.name.unwrap();
        let established = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        timeout(Duration::from_secs(20), established).await.unwrap().unwrap();
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [NAMESPACE, "shop"] {
        create(&namespaces, json!({"metadata": {"name": name, "labels": {"team": name}}})).await;
    }
}

/// Makes the daemon's service account with its rights, and gives a token of it.
pub async fn daemon_token(client: &Client) -> String {
    for document in serde_yaml_ng::Deserializer::from_str(&rights()) {
        let object: DynamicObject = serde::Deserialize::deserialize(document).unwrap();
        let types = object.types.clone().unwrap();
        let kind = ApiResource::from_gvk(&(&types).try_into().unwrap());
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request = TokenRequest::default();
    let made = accounts.create_token_request("tombolo-clustermesh", &PostParams::default(), &request).await;
    made.unwrap().status.unwrap().token.unwrap()
}

/// The chart's objects about the daemon's rights, as helm makes them but for their labels.
fn rights() -> String {
    let chart = include_str!("../../../../deploy/chart/templates/clustermesh.yaml");
    let documents: Vec<_> = chart.split("\n---\n").filter(|document| is_about_rights(document)).collect();
    assert_eq!(documents.len(), 5, "an account, two roles and their bindings");
    let text = documents.join("\n---\n").replace("{{ .Release.Namespace }}", NAMESPACE);
    text.lines().filter(|line| !line.contains("{{")).map(|line| format!("{line}\n")).collect()
}

fn is_about_rights(document: &str) -> bool {
    let kind = document.lines().find_map(|line| line.strip_prefix("kind: "));
    kind.is_some_and(|kind| kind == "ServiceAccount" || kind.contains("Role"))
}
