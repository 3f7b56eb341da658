//! MeshIdentity objects and the identities that are still to be made.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tombolo_api::{MeshIdentity, MeshIdentitySpec};
use tombolo_model::{Identity, IdentityRecord, Labels, Record, RecordKey, label};

use super::{Index, Indexed, ObjectName};
use crate::allocator::Exhausted;

impl Indexed for MeshIdentity {
    fn apply(self, index: &mut Index) {
        let Some(identity) = self.metadata.name.as_deref().and_then(number) else { return };
        let labels = Labels(self.spec.labels);
        // An object left over from another name of the cluster keeps its number taken, no more.
        let own = labels.get(label::CLUSTER) == Some(index.cluster.as_str());
        if !index.allocator.restore(identity, &labels) || !own {
            return;
        }
        index.wanted.remove(&labels);
        let record = Record::Identity(IdentityRecord { id: identity, labels: labels.clone() });
        index.publish(RecordKey::Identity(identity), Some(record));
        index.publish_users(&labels);
    }

    fn delete((_, name): &ObjectName, index: &mut Index) {
        let Some(identity) = number(name) else { return };
        let Some(labels) = index.allocator.labels(identity).cloned() else { return };
        if index.allocator.get(&labels) == Some(identity) && index.users.contains_key(&labels) {
            // Still in use: it keeps its number, and the object is made again.
            index.wanted.insert(labels);
            return;
        }
        index.allocator.release(identity);
        index.publish(RecordKey::Identity(identity), None);
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.allocator.identities().map(|(id, _)| (String::new(), id.get().to_string())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Index {
    /// Up to `most` objects to create so that every pod has an identity; none when all have one.
    ///
    /// # Errors
    /// More sets of labels than numbers.
    pub fn wanted_identities(&self, most: usize) -> Result<Vec<MeshIdentity>, Exhausted> {
        let mut free = self.allocator.free();
        let wanted = self.wanted.iter().take(most).map(|labels| {
            // An object deleted while in use is made again with its number.
            let identity = self.allocator.get(labels).or_else(|| free.next()).ok_or(Exhausted)?;
            let spec = MeshIdentitySpec { labels: labels.0.clone() };
            Ok(MeshIdentity::new(&identity.get().to_string(), spec))
        });
        wanted.collect()
    }

    /// Identities that no pod has.
    pub fn unused_identities(&self) -> Vec<Identity> {
        let unused = |(identity, labels): (Identity, &Labels)| {
            let used = self.users.contains_key(labels) && self.allocator.get(labels) == Some(identity);
            (!used).then_some(identity)
        };
        self.allocator.identities().filter_map(unused).collect()
    }

    fn publish_users(&mut self, labels: &Labels) {
        for name in self.users.get(labels).cloned().unwrap_or_default() {
            self.publish_endpoint(&name);
        }
    }
}

fn number(name: &str) -> Option<Identity> {
    name.parse().ok().map(Identity::from_bits)
}
