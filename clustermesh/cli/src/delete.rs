//! Deleting objects that may not be there.

use std::fmt::Debug;

use kube::{Api, api::DeleteParams};
use serde::de::DeserializeOwned;

/// Deletes the object of this name, and says whether there was one.
pub async fn if_present<K>(api: &Api<K>, name: &str) -> kube::Result<bool>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
