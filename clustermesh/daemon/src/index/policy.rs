//! Policies: from both resources, by one compiler, to the form that nodes enforce.

mod compile;
mod mesh;
mod network;
mod ports;
mod source;

use std::collections::BTreeSet;

use tombolo_model::{PolicyKey, Record, RecordKey};

use self::{compile::Compiled, source::Source};
use super::{Index, labels};

/// What the index keeps of a policy.
#[derive(Debug)]
pub(super) struct Entry {
    source: Source,
    /// Whether it names ports, so that it depends on pods.
    named_ports: bool,
    problems: Vec<String>,
}

/// What there is to say about a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyFinding {
    /// The policy.
    pub key: PolicyKey,
    /// Its generation when it was read.
    pub generation: Option<i64>,
    /// UID of the object.
    pub uid: String,
    /// Parts that are not in force and let nothing through; empty when all is in force.
    pub problems: Vec<String>,
}

impl Index {
    /// Puts a policy in, in place of one of the same key.
    fn apply_policy(&mut self, source: Source) {
        let key = source.key.clone();
        self.policies.insert(key.clone(), Entry { source, named_ports: false, problems: Vec::new() });
        self.reselect();
        self.compile_policy(&key, true);
    }

    fn delete_policy(&mut self, key: &PolicyKey) {
        self.policies.remove(key);
        self.findings.remove(key);
        self.publish(RecordKey::Policy(key.clone()), None);
        self.reselect();
    }

    /// Compiles the policies again that name ports: pods have changed.
    pub(super) fn recompile_named_ports(&mut self) {
        let named = self.policies.iter().filter(|(_, entry)| entry.named_ports).map(|(key, _)| key.clone());
        for key in named.collect::<Vec<_>>() {
            self.compile_policy(&key, false);
        }
    }

    fn compile_policy(&mut self, key: &PolicyKey, new: bool) {
        let Some(entry) = self.policies.get(key) else { return };
        let Compiled { policy, problems, named_ports } = compile::compile(&entry.source, self);
        if new || problems != entry.problems {
            let finding = PolicyFinding {
                key: key.clone(),
                generation: entry.source.generation,
                uid: entry.source.uid.clone(),
                problems: problems.clone(),
            };
            self.findings.insert(key.clone(), finding);
        }
        if let Some(entry) = self.policies.get_mut(key) {
            entry.named_ports = named_ports;
            entry.problems = problems;
        }
        self.publish(RecordKey::Policy(key.clone()), policy.map(Record::Policy));
    }

    /// Takes the labels into the identities that policies select by, and only those.
    fn reselect(&mut self) {
        let pod_keys = self.policies.values().flat_map(|entry| entry.source.pod_label_keys());
        let selected: BTreeSet<String> =
            pod_keys.filter(|key| labels::is_churning(key)).map(str::to_owned).collect();
        if selected != self.selected {
            self.selected = selected;
            self.relabel_all();
        }
    }
}
