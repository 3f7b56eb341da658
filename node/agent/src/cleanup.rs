//! Takes everything of ours off the node. Goes on after errors, and can be repeated.

use std::{fs, io, path::Path};

use tombolo_loader::unload;

use crate::{
    config::Config,
    install::Installer,
    netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL},
    pod_link::HOST_PREFIX,
};

/// Removes configuration and plugin, pods' devices, routes, BPF programs and maps, sockets and state. What could
/// not be removed, one sentence each. The tunnel's device belongs to `tombolo-tunnel --delete`.
pub async fn run(config: &Config, installer: &Installer) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |result: Result<(), String>| failures.extend(result.err());
    // The configuration first: from now on the runtime does not call us.
    note(installer.remove().map_err(|e| e.to_string()));
    note(remove_links_and_routes().await.map_err(|e| e.to_string()));
    note(unload(&config.pin_dir).map_err(|e| e.to_string()));
    note(remove_dir(&config.state_dir));
    for socket in [&config.cni_socket, &config.api_socket] {
        note(remove_file(socket));
    }
    failures
}

async fn remove_links_and_routes() -> Result<(), NetlinkError> {
    let netlink = Netlink::new()
        .map_err(|source| NetlinkError::Refused { what: "cannot open netlink".into(), source })?;
    for route in netlink.routes().await?.iter().filter(|r| r.protocol == ROUTE_PROTOCOL) {
        netlink.delete_route(route.spec.destination).await?;
    }
    for link in netlink.links().await?.iter().filter(|l| l.veth && l.name.starts_with(HOST_PREFIX)) {
        netlink.delete_link(link.index).await?;
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<(), String> {
    gone(fs::remove_dir_all(path), path)
}

fn remove_file(path: &Path) -> Result<(), String> {
    gone(fs::remove_file(path), path)
}

fn gone(result: io::Result<()>, path: &Path) -> Result<(), String> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove {path:?}: {e}")),
        _ => Ok(()),
    }
}
