//! Takes everything of ours off the node. Goes on after errors, and can be repeated.

use std::{fs, io, path::Path};

use tombolo_loader::unload;

use crate::{
    config::Config,
    install::Installer,
    netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL},
    pod_link::HOST_PREFIX,
};

/// Removes configuration and plugin, pods' devices and the tunnel's, routes, BPF programs and maps, sockets and state
/// with the tunnel's key. What could not be removed, one sentence each. The tunnel's process must have ended, as it
/// cannot do without its device.
pub async fn run(config: &Config, installer: &Installer) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |result: Result<(), String>| failures.extend(result.err());
    // The configuration first: from now on the runtime does not call us.
    note(installer.remove().map_err(|e| e.to_string()));
    note(remove_links_and_routes(&config.tunnel_device).await.map_err(|e| e.to_string()));
    note(unload(&config.pin_dir).map_err(|e| e.to_string()));
    for dir in [&config.state_dir, &config.runtime_dir] {
        note(remove_dir(dir));
    }
    for socket in [&config.cni_socket, &config.api_socket, &config.tunnel_socket] {
        note(remove_file(socket));
    }
    failures
}

async fn remove_links_and_routes(tunnel: &str) -> Result<(), NetlinkError> {
    let netlink = Netlink::new()
        .map_err(|source| NetlinkError::Refused { what: "cannot open netlink".into(), source })?;
    for route in netlink.routes().await?.iter().filter(|r| r.protocol == ROUTE_PROTOCOL) {
        netlink.delete_route(route.spec.destination).await?;
    }
    // The tunnel's device is persistent, so that its routes outlive a restart of the process.
    let ours = |name: &str, veth: bool| if veth { name.starts_with(HOST_PREFIX) } else { name == tunnel };
    for link in netlink.links().await?.iter().filter(|l| ours(&l.name, l.veth)) {
        netlink.delete_link(link.index).await?;
    }
    Ok(())
}

/// In a pod the directory is a mount point in a read-only root, which stays while all in it goes.
fn remove_dir(path: &Path) -> Result<(), String> {
    use io::ErrorKind::{ReadOnlyFilesystem, ResourceBusy};
    match fs::remove_dir_all(path) {
        Err(e) if matches!(e.kind(), ResourceBusy | ReadOnlyFilesystem) && is_empty(path) => Ok(()),
        result => gone(result, path),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
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
