//! Leader election by a Kubernetes Lease: at most one replica serves.
//!
//! The usual crates for this hold the lease with cooperative renewals and give no deadline after which the holder
//! must have stopped; here that deadline is the point. A candidate measures silence from the moment it saw the last
//! renewal, by its own clock; the leader gives up earlier, measured from before that renewal was sent. So clocks of
//! different machines are never compared (as client-go does it).

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tombolo_api::annotation;
use tracing::{debug, info, warn};

use crate::config::{Config, LeaseConfig};

/// The name of the Lease.
pub const LEASE: &str = "tombolo-clustermesh";

/// A replica's part in the election.
#[derive(Clone, Debug)]
pub struct Candidate {
    api: Api<Lease>,
    holder: String,
    address: String,
    timing: LeaseConfig,
}

/// The leadership of this replica; see [`Leadership::hold`].
#[derive(Debug)]
pub struct Leadership {
    candidate: Candidate,
    lease: Lease,
    /// After this moment another replica may lead.
    until: Instant,
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another replica has the Lease.
    #[error("the lease was taken by {0}")]
    Taken(String),
    /// The API server did not answer in time.
    #[error("the lease could not be renewed in time: {0}")]
    Expired(String),
}

/// Where the replica that leads is reached, as the Lease says; none if nobody holds it.
///
/// # Errors
/// The API server does not answer.
pub async fn address(client: &Client, namespace: &str) -> kube::Result<Option<SocketAddr>> {
    let lease = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(LEASE).await?;
    let held = lease.filter(|lease| {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        holder.is_some_and(|holder| !holder.is_empty())
    });
    let annotations = held.and_then(|lease| lease.metadata.annotations);
    Ok(annotations.and_then(|all| all.get(annotation::ADDRESS)?.parse().ok()))
}

impl Candidate {
    /// For the replica with this configuration.
    pub fn new(client: Client, config: &Config) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            holder: config.pod_name.clone(),
            address: config.address().to_string(),
            timing: config.lease.clone(),
        }
    }

    /// Waits until this replica leads.
    pub async fn campaign(self) -> Leadership {
        let mut observed = Observed::default();
        loop {
            match self.attempt(&mut observed).await {
                Ok(Some(leadership)) => {
                    info!(holder = self.holder, "this replica leads");
                    return leadership;
                }
                Ok(None) => {}
                Err(error) => warn!(%error, "cannot read or write the lease"),
            }
            sleep(self.retry()).await;
        }
    }

    async fn attempt(&self, observed: &mut Observed) -> kube::Result<Option<Leadership>> {
        let began = Instant::now();
        let written = match self.api.get_opt(LEASE).await? {
            None => self.api.create(&PostParams::default(), &self.lease(None)).await,
            // A replica that was restarted in its pod holds it still.
            Some(lease) if self.holds(&lease) || observed.is_free(&lease, Instant::now()) => {
                self.api.replace(LEASE, &PostParams::default(), &self.lease(Some(&lease))).await
            }
            Some(_) => return Ok(None),
        };
        match written {
            Ok(lease) => {
                Ok(Some(Leadership { candidate: self.clone(), lease, until: began + self.deadline() }))
            }
            // Another candidate was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(self.holder.as_str())
    }

    /// The Lease as it is to be; the resource version of `before` fences other writers.
    fn lease(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = before.and_then(|lease| lease.spec.as_ref());
        let kept = spec.filter(|_| before.is_some_and(|lease| self.holds(lease)));
        let mut metadata = before.map_or_else(
            || ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        metadata
            .annotations
            .get_or_insert_default()
            .insert(annotation::ADDRESS.to_owned(), self.address.clone());
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration_ms / 1000).ok(),
            acquire_time: kept.map_or_else(|| Some(now.clone()), |spec| spec.acquire_time.clone()),
            lease_transitions: Some(if kept.is_some() { transitions } else { transitions.saturating_add(1) }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// How long after a renewal the leader stops by itself: earlier than another may begin.
    fn deadline(&self) -> Duration {
        Duration::from_millis(self.timing.duration_ms.into()) * 4 / 5
    }

    fn retry(&self) -> Duration {
        Duration::from_millis(self.timing.retry_ms.into())
    }
}

impl Leadership {
    /// Keeps the leadership; returns when it is lost. What the leader does must be dropped then, at once.
    pub async fn hold(&mut self) -> Lost {
        let pause = Duration::from_millis(self.candidate.timing.renew_ms.into());
        let mut last_error = "the API server does not answer".to_owned();
        let mut next = Instant::now() + pause;
        loop {
            sleep_until(next.min(self.until)).await;
            let began = Instant::now();
            if began >= self.until {
                return Lost::Expired(last_error);
            }
            match timeout_at(self.until, self.renew()).await {
                Ok(Ok(())) => {
                    self.until = began + self.candidate.deadline();
                    next = began + pause;
                    debug!("lease renewed");
                }
                Ok(Err(Renewal::Taken(holder))) => return Lost::Taken(holder),
                Ok(Err(Renewal::Failed(error))) => {
                    last_error = error.to_string();
                    next = began + self.candidate.retry() / 4;
                }
                Err(_) => return Lost::Expired(last_error),
            }
        }
    }

    /// Gives the leadership up, so that another replica need not wait.
    ///
    /// # Errors
    /// The Lease could not be written; it expires.
    pub async fn release(mut self) -> kube::Result<()> {
        if let Some(spec) = self.lease.spec.as_mut() {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        self.candidate.api.replace(LEASE, &PostParams::default(), &self.lease).await.map(drop)
    }

    async fn renew(&mut self) -> Result<(), Renewal> {
        let lease = self.candidate.lease(Some(&self.lease));
        match self.candidate.api.replace(LEASE, &PostParams::default(), &lease).await {
            Ok(lease) => {
                self.lease = lease;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                // Somebody else wrote it: a new holder, or an earlier renewal whose answer was lost.
                let current = self.candidate.api.get_opt(LEASE).await.map_err(Renewal::Failed)?;
                let holder = current.as_ref().and_then(|l| l.spec.as_ref()?.holder_identity.clone());
                match current {
                    Some(current) if holder.as_ref() == Some(&self.candidate.holder) => {
                        self.lease = current;
                        Err(Renewal::Failed(kube::Error::Api(status)))
                    }
                    _ => Err(Renewal::Taken(holder.unwrap_or_else(|| "nobody".to_owned()))),
                }
            }
            Err(error) => Err(Renewal::Failed(error)),
        }
    }
}

enum Renewal {
    Taken(String),
    Failed(kube::Error),
}

/// The last state of the Lease that a candidate saw, and when it saw it first.
#[derive(Debug, Default)]
struct Observed(Option<(LeaseSpec, Instant)>);

impl Observed {
    /// Whether nobody holds the Lease: given up, or silent for its duration.
    fn is_free(&mut self, lease: &Lease, now: Instant) -> bool {
        let Some(spec) = &lease.spec else { return true };
        if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        match &self.0 {
            Some((seen, since)) if seen == spec => {
                let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
                now.duration_since(*since) >= Duration::from_secs(seconds)
            }
            _ => {
                self.0 = Some((spec.clone(), now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> Lease {
        let spec = LeaseSpec {
            holder_identity: (!holder.is_empty()).then(|| holder.to_owned()),
            lease_duration_seconds: Some(5),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn silence_is_measured_from_when_it_was_seen() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut observed = Observed::default();
        // However old the holder's own time is.
        assert!(!observed.is_free(&lease("a", 1), at(0)));
        assert!(!observed.is_free(&lease("a", 1), at(4)));
        assert!(!observed.is_free(&lease("a", 2), at(5)), "a renewal begins anew");
        assert!(!observed.is_free(&lease("b", 2), at(9)), "so does another holder");
        assert!(observed.is_free(&lease("b", 2), at(14)));
        assert!(observed.is_free(&lease("", 2), at(14)), "given up");
        assert!(observed.is_free(&Lease::default(), at(14)));
    }
}
