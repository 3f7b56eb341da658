//! The compiler: every part that it cannot express is left out, so that it lets nothing through, and named.

use tombolo_model::{Peer, Peers, Policy, Requirement, Rule, Selector, label};

use super::{
    super::{Index, labels, selector},
    ports::{Destination, Ports},
    source::{Clusters, PeerSource, RuleSource, Source},
};

/// A policy in the form that nodes enforce.
pub(super) struct Compiled {
    /// None when it cannot even be said whom it protects.
    pub(super) policy: Option<Policy>,
    pub(super) problems: Vec<String>,
    pub(super) named_ports: bool,
}

pub(super) fn compile(source: &Source, index: &Index) -> Compiled {
    let mut compiler = Compiler { source, index, problems: Vec::new(), named_ports: false };
    let policy = compiler.subject().map(|subject| {
        let ingress = compiler.rules("ingress", "from", source.ingress.as_deref(), &subject);
        let egress = compiler.rules("egress", "to", source.egress.as_deref(), &subject);
        Policy { key: source.key.clone(), subject, ingress, egress }
    });
    Compiled { policy, problems: compiler.problems, named_ports: compiler.named_ports }
}

struct Compiler<'a> {
    source: &'a Source,
    index: &'a Index,
    problems: Vec<String>,
    named_ports: bool,
}

impl Compiler<'_> {
    fn subject(&mut self) -> Option<Selector> {
        match selector::requirements(&self.source.subject, label::pod) {
            Ok(pods) => Some(pods.into_iter().chain([self.own_namespace(), self.own_cluster()]).collect()),
            Err(error) => {
                self.problems.push(format!("podSelector: {error}; the policy is not in force"));
                None
            }
        }
    }

    fn rules(
        &mut self,
        direction: &str,
        side: &str,
        rules: Option<&[RuleSource]>,
        subject: &Selector,
    ) -> Option<Vec<Rule>> {
        let rules = rules?.iter().enumerate();
        Some(
            rules
                .filter_map(|(i, rule)| {
                    let field = format!("{direction}[{i}]");
                    let peers = self.peers(&format!("{field}.{side}"), rule);
                    let destination = match (direction, &peers) {
                        ("ingress", _) => Destination::Subject(subject),
                        (_, Peers::Any) => Destination::Anybody,
                        (_, Peers::Of(peers)) => Destination::Peers(peers),
                    };
                    let ports = self.ports(&field, rule, &destination)?;
                    Some(Rule { peers, ports })
                })
                .collect(),
        )
    }

    fn peers(&mut self, field: &str, rule: &RuleSource) -> Peers {
        if rule.peers.is_empty() {
            return Peers::Any;
        }
        let mut peers = Vec::new();
        for (i, peer) in rule.peers.iter().enumerate() {
            let problem = match self.peer(peer) {
                Ok(peer) => {
                    let unsupported = matches!(peer, Peer::Prefix { .. });
                    peers.push(peer);
                    unsupported.then(|| ".ipBlock is not supported yet".to_owned())
                }
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem {
                self.problems.push(format!("{field}[{i}]{problem}; it lets nothing through"));
            }
        }
        Peers::Of(peers)
    }

    fn peer(&self, peer: &PeerSource) -> Result<Peer, String> {
        match peer {
            PeerSource::Block { cidr, except } => {
                let prefix = |text: &String| text.parse().map_err(|error| format!(".ipBlock: {error}"));
                let except = except.iter().map(prefix).collect::<Result<_, _>>()?;
                Ok(Peer::Prefix { prefix: prefix(cidr)?, except })
            }
            PeerSource::Pods { pods: None, namespaces: None, clusters: Clusters::Local } => {
                Err(" selects by nothing: give podSelector, namespaceSelector or ipBlock".to_owned())
            }
            PeerSource::Pods { pods, namespaces, clusters } => {
                let mut selector = Selector::default();
                if let Some(pods) = pods {
                    let churning = selector::keys(pods).find(|key| labels::is_churning(key));
                    if let (Some(key), Clusters::All | Clusters::Named(_)) = (churning, clusters) {
                        return Err(format!(
                            ".podSelector: label {key:?} differs from pod to pod and is known in the local cluster \
                             only; select by another label"
                        ));
                    }
                    let pods = selector::requirements(pods, label::pod);
                    selector.0.extend(pods.map_err(|error| format!(".podSelector: {error}"))?);
                }
                match namespaces {
                    Some(namespaces) => {
                        let namespaces = selector::requirements(namespaces, label::namespace);
                        selector
                            .0
                            .extend(namespaces.map_err(|error| format!(".namespaceSelector: {error}"))?);
                    }
                    None if pods.is_some() => selector.0.extend([self.own_namespace()]),
                    None => {}
                }
                selector.0.extend(self.clusters(clusters));
                Ok(Peer::Pods(selector))
            }
        }
    }

    fn clusters(&self, clusters: &Clusters) -> Option<Requirement> {
        match clusters {
            Clusters::Local => Some(self.own_cluster()),
            Clusters::Named(names) => Some(Requirement::In(label::CLUSTER.to_owned(), names.clone())),
            Clusters::All => None,
        }
    }

    /// None when the rule names ports and none of them is known: it lets nothing through.
    fn ports(
        &mut self,
        field: &str,
        rule: &RuleSource,
        destination: &Destination<'_>,
    ) -> Option<Vec<tombolo_model::PortRule>> {
        let mut ports = Ports { index: self.index, destination, named: false };
        let mut compiled = Vec::new();
        for (i, port) in rule.ports.iter().enumerate() {
            match ports.compile(port) {
                Ok(port) => compiled.extend(port),
                Err(problem) => {
                    self.problems.push(format!("{field}.ports[{i}]: {problem}; it lets nothing through"));
                }
            }
        }
        self.named_ports |= ports.named;
        // An empty list means all ports.
        (rule.ports.is_empty() || !compiled.is_empty()).then_some(compiled)
    }

    fn own_namespace(&self) -> Requirement {
        Requirement::equals(label::NAMESPACE, &self.source.key.namespace)
    }

    fn own_cluster(&self) -> Requirement {
        Requirement::equals(label::CLUSTER, self.index.cluster.as_str())
    }
}
