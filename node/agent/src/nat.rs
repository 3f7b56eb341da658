//! Looks after the ports of masqueraded connections: removes what has expired, and says before they run out.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::watch;
use tombolo_abi::{NatPorts, NatTimeouts};
use tombolo_loader::{Maps, Table, TableError};
use tombolo_model::Address;
use tombolo_node_core::nat::{SHORT, Usage, sweep};

use crate::{clock, maps::protocol_name, sysctl};

/// How often the entries are looked through.
const AGAIN: Duration = Duration::from_secs(10);

/// What masquerading may take, and what it has taken.
#[derive(Debug)]
pub struct Nat {
    /// The ports.
    pub ports: NatPorts,
    /// For how long it keeps them.
    pub timeouts: NatTimeouts,
    /// Whether pods are hidden at all.
    pub on: bool,
    usage: watch::Sender<Usage>,
}

impl Nat {
    /// Nothing is taken yet.
    pub fn new(on: bool, ports: NatPorts, timeouts: NatTimeouts) -> Self {
        Self { ports, timeouts, on, usage: watch::Sender::default() }
    }

    /// As it was when the entries were looked through last.
    pub fn usage(&self) -> Usage {
        self.usage.borrow().clone()
    }

    /// What will soon be refused, and what to do.
    pub fn problems(&self) -> Vec<String> {
        problems(&self.usage(), &self.ports)
    }

    /// Looks through the entries again and again. A failure is logged, and tried again.
    pub async fn watch(self: Arc<Self>, maps: Maps) -> io::Result<()> {
        let mut known = 0;
        loop {
            let (nat, maps) = (Arc::clone(&self), maps.clone());
            match tokio::task::spawn_blocking(move || nat.look_after(&maps)).await? {
                Ok(usage) => _ = self.usage.send_replace(usage),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot look after the ports of masqueraded connections");
                }
            }
            let problems = self.problems();
            // Once for each: the numbers in them change with every pass.
            if problems.len() > known {
                tracing::warn!(
                    "ports or entries of masquerading run short; `tombolo status` says towards where"
                );
                problems.iter().for_each(|problem| tracing::debug!("{problem}"));
            }
            known = problems.len();
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Puts the reservation back, which who applies all settings of a host once more may have taken away, and removes what
    /// has expired.
    fn look_after(&self, maps: &Maps) -> Result<Usage, TableError> {
        if self.on
            && let Err(e) = sysctl::reserve_ports(&self.ports)
        {
            tracing::warn!(error = %e, "the host may use ports behind which pods are hidden");
        }
        pass(maps, &self.timeouts)
    }
}

/// Removes what has expired.
fn pass(maps: &Maps, timeouts: &NatTimeouts) -> Result<Usage, TableError> {
    let mut snat = maps.snat()?;
    let entries = snat.entries()?;
    let (expired, usage) = sweep(&entries, clock::since_boot(), timeouts);
    // A packet may have come since.
    snat.delete_unchanged(&expired)?;
    Ok(usage)
}

fn problems(usage: &Usage, ports: &NatPorts) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(busiest) = usage.busiest.filter(|_| usage.part_of_ports(ports) >= SHORT) {
        let address = Address::from_octets(busiest.address);
        let (number, port) = (protocol_name(busiest.protocol), busiest.port);
        problems.push(format!(
            "{} of the {} ports behind which pods are hidden are in use towards {address} port {port} ({number}): \
             when none is left, new connections there are dropped (snat-exhausted); let pods reuse connections, or widen \
             natPorts",
            busiest.used,
            ports.count(),
        ));
    }
    if usage.part_of_entries() >= SHORT {
        problems.push(format!(
            "{} connections of pods to the outside fill {:.0} % of the map SNAT: when it is full, those that were silent \
             longest end; spread the pods over more nodes",
            usage.connections,
            usage.part_of_entries() * 100.0,
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use tombolo_abi::{protocol, v4_mapped};
    use tombolo_node_core::nat::Destination;

    use super::*;

    #[test]
    fn a_problem_names_destination_and_remedy_before_ports_run_out() {
        let at = |used| {
            let address = v4_mapped([203, 0, 113, 9]);
            let busiest = Some(Destination { address, port: 53, protocol: protocol::UDP, used });
            problems(&Usage { connections: used, busiest }, &NatPorts::one(1, 100))
        };
        assert_eq!(at(79), [""; 0]);
        let found = at(80).concat();
        for word in ["80 of the 100 ports", "203.0.113.9 port 53 (UDP)", "natPorts"] {
            assert!(found.contains(word), "{found}");
        }
        let full = problems(&Usage { connections: 60_000, busiest: None }, &NatPorts::DEFAULT).concat();
        assert!(full.contains("92 % of the map SNAT"), "{full}");
    }
}
