//! The pods of this node that the agent has wired up, as it remembers them over restarts.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use tombolo_model::{Address, EndpointRecord, Identity};

/// A CNI attachment: one interface of one container (CNI specification 1.1, `CNI_CONTAINERID` and `CNI_IFNAME`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The container (sandbox) id.
    pub container: String,
    /// The interface's name inside of the container.
    pub interface: String,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}

/// The pod that an endpoint belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl PodRef {
    /// Whether the record speaks about this very pod, not about another one of the same name.
    pub fn is_of(&self, record: &EndpointRecord) -> bool {
        self.namespace == record.namespace && self.name == record.name && self.uid == record.uid
    }
}

/// What is known of an endpoint when its pod is wired up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wiring {
    /// The attachment it stands for.
    pub attachment: AttachmentId,
    /// The pod.
    pub pod: PodRef,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// Name of the host side of the veth pair.
    pub host_interface: String,
    /// Interface index of the host side of the veth pair.
    pub ifindex: u32,
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
    /// MAC address of the pod side.
    pub pod_mac: [u8; 6],
    /// Its addresses, at most one per family.
    pub addresses: Vec<Address>,
    /// Its identity.
    pub identity: Identity,
}

/// A local endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// Its number in maps, never 0; the same for its whole life.
    pub id: u32,
    /// What it is made of.
    #[serde(flatten)]
    pub wiring: Wiring,
}

/// All local endpoints. Serialises to what the agent keeps on disk; deserialising checks it. Fields that are not known are
/// those of a later version, which an earlier one leaves out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Endpoints {
    by_id: BTreeMap<u32, LocalEndpoint>,
    last_id: u32,
}

/// Why an endpoint cannot be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// The attachment exists.
    #[error("attachment {attachment} exists already as endpoint {id}: delete it first (CNI DEL)")]
    Exists {
        /// The attachment.
        attachment: AttachmentId,
        /// Its endpoint.
        id: u32,
    },
    /// Another endpoint has the address.
    #[error("address {address} belongs to endpoint {id} already: release it first (CNI DEL of {attachment})")]
    AddressInUse {
        /// The address.
        address: Address,
        /// The endpoint that has it.
        id: u32,
        /// That endpoint's attachment.
        attachment: AttachmentId,
    },
    /// All numbers are taken.
    #[error("no endpoint number is left")]
    NoNumber,
    /// A stored state holds a number twice, or number 0.
    #[error(
        "endpoint number {0} is 0 or used twice: the stored state is damaged; remove it and restart the pods"
    )]
    BadNumber(u32),
}

impl Endpoints {
    /// Adds an endpoint under a number of its own and returns it. Numbers come back as late as possible, so that
    /// what still speaks of a removed endpoint does not meet a new one.
    pub fn insert(&mut self, wiring: Wiring) -> Result<&LocalEndpoint, EndpointError> {
        self.check(&wiring)?;
        let id = self.free_id().ok_or(EndpointError::NoNumber)?;
        self.last_id = id;
        Ok(self.by_id.entry(id).or_insert(LocalEndpoint { id, wiring }))
    }

    /// Gives out no number up to this one any more before all others were used: something remembers it.
    pub fn skip_numbers(&mut self, remembered: u32) {
        self.last_id = self.last_id.max(remembered);
    }

    /// Removes the endpoint of an attachment; none when there is none.
    pub fn remove(&mut self, attachment: &AttachmentId) -> Option<LocalEndpoint> {
        let id = self.by_attachment(attachment)?.id;
        self.by_id.remove(&id)
    }

    /// Gives the endpoint another identity; whether that changed anything.
    pub fn set_identity(&mut self, id: u32, identity: Identity) -> bool {
        match self.by_id.get_mut(&id) {
            Some(endpoint) if endpoint.wiring.identity != identity => {
                endpoint.wiring.identity = identity;
                true
            }
            _ => false,
        }
    }

    /// The endpoint with this number.
    pub fn get(&self, id: u32) -> Option<&LocalEndpoint> {
        self.by_id.get(&id)
    }

    /// The endpoint of an attachment.
    pub fn by_attachment(&self, attachment: &AttachmentId) -> Option<&LocalEndpoint> {
        self.iter().find(|endpoint| endpoint.wiring.attachment == *attachment)
    }

    /// The endpoint with this address.
    pub fn by_address(&self, address: Address) -> Option<&LocalEndpoint> {
        self.iter().find(|endpoint| endpoint.wiring.addresses.contains(&address))
    }

    /// All endpoints by number.
    pub fn iter(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.by_id.values()
    }

    fn check(&self, wiring: &Wiring) -> Result<(), EndpointError> {
        if let Some(existing) = self.by_attachment(&wiring.attachment) {
            return Err(EndpointError::Exists { attachment: wiring.attachment.clone(), id: existing.id });
        }
        for &address in &wiring.addresses {
            if let Some(existing) = self.by_address(address) {
                let (id, attachment) = (existing.id, existing.wiring.attachment.clone());
                return Err(EndpointError::AddressInUse { address, id, attachment });
            }
        }
        Ok(())
    }

    fn free_id(&self) -> Option<u32> {
        let after = self.last_id.checked_add(1).unwrap_or(1);
        (after..=u32::MAX).chain(1..after).find(|id| !self.by_id.contains_key(id))
    }
}

/// The form on disk: a list, because JSON keys are text.
#[derive(Serialize, Deserialize)]
struct Stored {
    last_id: u32,
    endpoints: Vec<LocalEndpoint>,
    /// In the build that the test of an upgrade takes for another version.
    #[cfg(feature = "other-layout")]
    #[serde(default)]
    other: u32,
}

impl From<Endpoints> for Stored {
    fn from(endpoints: Endpoints) -> Self {
        Self {
            last_id: endpoints.last_id,
            endpoints: endpoints.by_id.into_values().collect(),
            #[cfg(feature = "other-layout")]
            other: 1,
        }
    }
}

impl TryFrom<Stored> for Endpoints {
    type Error = EndpointError;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let mut endpoints = Self { by_id: BTreeMap::new(), last_id: stored.last_id };
        for endpoint in stored.endpoints {
            endpoints.check(&endpoint.wiring)?;
            let id = endpoint.id;
            if id == 0 || endpoints.by_id.insert(id, endpoint).is_some() {
                return Err(EndpointError::BadNumber(id));
            }
        }
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring(n: u8) -> Wiring {
        Wiring {
            attachment: AttachmentId { container: format!("c{n}"), interface: "eth0".into() },
            pod: PodRef { namespace: "x".into(), name: format!("p{n}"), uid: format!("u{n}") },
            netns: format!("/run/netns/{n}"),
            host_interface: format!("tmb{n}"),
            ifindex: 10 + u32::from(n),
            host_mac: [2, 0, 0, 0, 0, n],
            pod_mac: [2, 0, 0, 0, 1, n],
            addresses: vec![format!("10.1.0.{n}").parse().unwrap()],
            identity: Identity::INIT,
        }
    }

    #[test]
    fn numbers_are_stable_and_come_back_late() {
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.insert(wiring(2)).unwrap().id, 1);
        assert_eq!(endpoints.insert(wiring(3)).unwrap().id, 2);
        assert!(endpoints.remove(&wiring(3).attachment).is_some());
        assert_eq!(endpoints.insert(wiring(4)).unwrap().id, 3);
        endpoints.last_id = u32::MAX;
        assert_eq!(endpoints.insert(wiring(5)).unwrap().id, 2);
    }

    #[test]
    fn attachments_and_addresses_are_unique() {
        let mut endpoints = Endpoints::default();
        endpoints.insert(wiring(2)).unwrap();
        assert!(matches!(endpoints.insert(wiring(2)), Err(EndpointError::Exists { id: 1, .. })));
        let thief = Wiring { addresses: wiring(2).addresses, ..wiring(3) };
        assert!(matches!(endpoints.insert(thief), Err(EndpointError::AddressInUse { id: 1, .. })));
        assert_eq!(endpoints.iter().count(), 1);
    }

    #[test]
    fn state_round_trips_and_is_checked() {
        let mut endpoints = Endpoints::default();
        endpoints.insert(wiring(2)).unwrap();
        endpoints.insert(wiring(3)).unwrap();
        assert!(endpoints.set_identity(1, Identity::from_bits(1 << 20 | 300)));
        let json = serde_json::to_string(&endpoints).unwrap();
        assert_eq!(serde_json::from_str::<Endpoints>(&json).unwrap(), endpoints);
        let later = json
            .replace(r#""id":2"#, r#""id":2,"later":[]"#)
            .replace(r#""last_id""#, r#""later":{},"last_id""#);
        let later = later.replace(r#"{"container""#, r#"{"later":1,"container""#);
        let later = later.replace(r#"{"namespace""#, r#"{"later":1,"namespace""#);
        assert_eq!(later.matches("later").count(), 6);
        assert_eq!(serde_json::from_str::<Endpoints>(&later).unwrap(), endpoints);
        let error = serde_json::from_str::<Endpoints>(&json.replace(r#""id":2"#, r#""id":1"#)).unwrap_err();
        assert!(error.to_string().contains("endpoint number 1"), "{error}");
    }
}
