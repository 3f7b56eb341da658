//! Who presents a service account token: asked of the API server (TokenReview).

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tombolo_mesh_core::trust::NodeName;
use tombolo_mesh_net::enroll::{self, TokenVerifier};

/// The audience that tokens for tombolo are made for.
pub const AUDIENCE: &str = "tombolo";
/// The service account of node agents, without namespace.
pub const NODE_ACCOUNT: &str = "tombolo-node";
/// The claim that ties a token to the node its pod runs on (KEP-4193).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server could not be asked.
    #[error("the token cannot be reviewed: {0}")]
    Api(#[from] kube::Error),
    /// It is expired, revoked, forged, or made for another audience.
    #[error("the token is not valid for audience {AUDIENCE:?}: {0}")]
    Invalid(String),
    /// It belongs to somebody else.
    #[error("the token is of {0:?}, not of the node agent's service account")]
    Account(String),
    /// It is not tied to a node.
    #[error("the token names no node: mount it as a projected service account token of the agent's pod")]
    Unbound,
}

/// Reviews the tokens of node agents that enroll.
pub struct Reviewer {
    client: Client,
    namespace: String,
}

impl Reviewer {
    /// For agents in `namespace`.
    pub const fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }
}

#[async_trait]
impl TokenVerifier for Reviewer {
    async fn verify(&self, token: &str) -> Result<NodeName, enroll::TokenError> {
        let node = node_of(&self.client, &self.namespace, token).await.map_err(|error| match error {
            TokenError::Api(_) => enroll::TokenError::Unavailable(error.to_string()),
            _ => enroll::TokenError::Rejected(error.to_string()),
        })?;
        node.parse().map_err(|error| enroll::TokenError::Rejected(format!("{error}")))
    }
}

/// The name of the node whose agent, in `namespace`, presents `token`.
///
/// # Errors
/// The token is of nobody else's agent, or not valid.
pub async fn node_of(client: &Client, namespace: &str, token: &str) -> Result<String, TokenError> {
    let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
    let review = TokenReview { spec, ..TokenReview::default() };
    let review = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    judge(namespace, review.status.unwrap_or_default())
}

fn judge(namespace: &str, status: TokenReviewStatus) -> Result<String, TokenError> {
    let for_us = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !for_us {
        return Err(TokenError::Invalid(status.error.unwrap_or_else(|| "not authenticated".to_owned())));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != format!("system:serviceaccount:{namespace}:{NODE_ACCOUNT}") {
        return Err(TokenError::Account(name));
    }
    let nodes = user.extra.and_then(|mut extra| extra.remove(NODE_NAME)).unwrap_or_default();
    match <[String; 1]>::try_from(nodes) {
        Ok([node]) if !node.is_empty() => Ok(node),
        _ => Err(TokenError::Unbound),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, node: Option<&str>) -> TokenReviewStatus {
        let extra = node.map(|node| BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]));
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            user: Some(UserInfo { username: Some(user.to_owned()), extra, ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn only_a_bound_token_of_the_agent_names_a_node() {
        const AGENT: &str = "system:serviceaccount:tombolo-system:tombolo-node";
        let judge = |status| judge("tombolo-system", status);
        assert_eq!(judge(status(AGENT, Some("n1"))).unwrap(), "n1");
        assert!(matches!(judge(status(AGENT, None)), Err(TokenError::Unbound)));
        let other = "system:serviceaccount:other:tombolo-node";
        assert!(matches!(judge(status(other, Some("n1"))), Err(TokenError::Account(_))));
        let mut audience = status(AGENT, Some("n1"));
        audience.audiences = None;
        assert!(matches!(judge(audience), Err(TokenError::Invalid(_))));
        let mut refused = status(AGENT, Some("n1"));
        refused.authenticated = None;
        assert!(matches!(judge(refused), Err(TokenError::Invalid(_))));
    }
}
