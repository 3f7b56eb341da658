//! Kubeconfig files with everything embedded, so that they can be copied anywhere on this machine.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

use crate::certificates::{Authority, Identity};
use crate::layout::{read, write};
use crate::{Error, Result};

/// Writes the kubeconfig of a user of a cluster. JSON is YAML, and every client reads it.
pub fn write_kubeconfig(
    path: &Path,
    cluster: &str,
    server: SocketAddr,
    authority: &Authority,
    user: &Identity,
) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {
            "server": format!("https://{server}"),
            "certificate-authority-data": base64(read(&authority.certificate())?.as_bytes()),
        }}],
        "users": [{"name": cluster, "user": {
            "client-certificate-data": base64(read(&user.certificate)?.as_bytes()),
            "client-key-data": base64(read(&user.key)?.as_bytes()),
        }}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
    });
    let text = serde_json::to_string_pretty(&config)
        .map_err(|cause| Error::Json { what: path.display().to_string(), cause })?;
    write(path, text)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
