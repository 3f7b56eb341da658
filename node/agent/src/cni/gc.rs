//! What brings endpoints and reality together again: GC, queued DELs, and the adoption at start.

use std::{collections::BTreeSet, fs};

use tombolo_cni::{Failure, failure::code, protocol::Attachment, queue};

use super::Manager;
use crate::{netlink::NetlinkError, pod_link::HOST_PREFIX};

impl Manager {
    /// GC: disconnects all that is not in `valid`; goes on after an error and reports all of them.
    pub(super) async fn gc(&self, valid: &[Attachment]) -> Result<(), Failure> {
        let valid: BTreeSet<(&str, &str)> =
            valid.iter().map(|a| (a.container_id.as_str(), a.ifname.as_str())).collect();
        let mut failures = Vec::new();
        for endpoint in self.endpoints().iter() {
            let id = &endpoint.wiring.attachment;
            if valid.contains(&(id.container.as_str(), id.interface.as_str())) {
                continue;
            }
            tracing::info!(attachment = %id, "removing an endpoint that the runtime no longer knows");
            if let Err(failure) = self.remove(id).await {
                failures.push(failure);
            }
        }
        match failures.first() {
            None => Ok(()),
            Some(first) => {
                let all: Vec<String> = failures.iter().map(|f| f.msg.clone()).collect();
                let msg = format!("{} endpoints could not be removed: {}", failures.len(), all.join("; "));
                Err(Failure::new(first.code, msg))
            }
        }
    }

    /// At start: carries out queued DELs, forgets endpoints whose devices are gone (the node was restarted),
    /// removes devices that belong to no endpoint (an ADD that was killed), and connects all others again.
    /// Returns how many could not be connected.
    pub async fn adopt(&self) -> Result<usize, NetlinkError> {
        self.replay().await;
        let links = self.host.links().await?;
        for endpoint in self.endpoints().iter() {
            let wiring = &endpoint.wiring;
            let there = links.iter().any(|l| l.name == wiring.host_interface && l.index == wiring.ifindex);
            if !there {
                tracing::info!(attachment = %wiring.attachment, "forgetting a pod whose interface is gone");
                if let Err(e) = self.remove(&wiring.attachment).await {
                    tracing::error!(attachment = %wiring.attachment, error = %e, "cannot forget an endpoint");
                }
            }
        }
        let unconnected = self.reconnect_all().await;
        let known: BTreeSet<String> =
            self.endpoints().iter().map(|e| e.wiring.host_interface.clone()).collect();
        for link in links.iter().filter(|l| l.veth && l.name.starts_with(HOST_PREFIX)) {
            if !known.contains(&link.name) {
                tracing::info!(interface = link.name, "removing what a killed ADD left");
                self.host.delete_link(link.index).await?;
            }
        }
        Ok(unconnected)
    }

    /// Connects all endpoints again, and returns for how many that failed.
    pub async fn reconnect_all(&self) -> usize {
        let mut failed = 0;
        for endpoint in self.endpoints().iter() {
            if let Err(e) = self.reconnect(endpoint).await {
                let attachment = &endpoint.wiring.attachment;
                tracing::error!(%attachment, error = %format!("{e:#}"), "cannot adopt an endpoint");
                failed += 1;
            }
        }
        failed
    }

    /// Carries out the DELs that found no agent; call it again after the socket is open, for those that came
    /// in between.
    pub async fn replay(&self) {
        let entries = match queue::list(&self.config.del_queue) {
            Ok(entries) => entries,
            Err(e) => {
                tracing::error!(dir = %self.config.del_queue.display(), error = %e, "cannot read the queue of DELs");
                return;
            }
        };
        for (path, entry) in entries {
            match entry {
                Err(e) => {
                    tracing::warn!(file = %path.display(), error = %e, "ignoring a file in the queue of DELs");
                }
                Ok(attachment) => {
                    if let Err(e) = self.del(&attachment).await {
                        tracing::error!(file = %path.display(), error = %e, "cannot carry out a queued DEL");
                        continue;
                    }
                    if let Err(e) = fs::remove_file(&path) {
                        let failure = Failure::new(code::IO, e.to_string());
                        tracing::error!(file = %path.display(), error = %failure, "cannot clear the queue of DELs");
                    }
                }
            }
        }
    }
}
