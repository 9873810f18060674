//! Flows as control sees them, and what a snapshot that needs them needs beside.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use dataplane_core::{Fib, FlowTable, FlowUse, FlowView};
use tracing::{info, warn};

use crate::control::{Dataplane, hold};
use crate::guard;

/// The flow table, and what the kernel does for packets that leave with the node's address.
#[derive(Debug)]
pub(crate) struct Flows {
    pub(crate) table: Arc<FlowTable>,
    /// Ports of the node that workloads' packets leave with.
    ports: RangeInclusive<u16>,
    masquerading: Mutex<Masquerading>,
}

#[derive(Debug)]
enum Masquerading {
    /// Perhaps the last run left it on.
    Unknown,
    /// Nobody asks for it.
    Off,
    On,
    /// Why the kernel did not do it.
    Failed(String),
}

impl Flows {
    pub(crate) fn new(table: FlowTable, ports: RangeInclusive<u16>) -> Flows {
        Flows { table: Arc::new(table), ports, masquerading: Mutex::new(Masquerading::Unknown) }
    }

    /// Makes ready what packets of this snapshot will need. Costs something once.
    pub(crate) fn prepare(&self, fib: &Fib, host_interface: Option<&str>) {
        let snat = fib.vrfs.iter().flatten().any(|vrf| vrf.snat.is_some());
        let stateful = |port: &dataplane_core::Port| {
            port.policy.is_some()
                || !port.nat.is_empty()
                || port.services.as_ref().is_some_and(|services| services.metadata || services.dns)
        };
        if snat || fib.ports.iter().flatten().any(|port| stateful(port)) {
            self.table.prepare();
        }
        let Some(interface) = host_interface else { return };
        let mut masquerading = hold(&self.masquerading);
        match *masquerading {
            Masquerading::Unknown | Masquerading::Off if snat => {
                *masquerading = match guard::masquerade(interface, &self.ports) {
                    Ok(()) => {
                        info!(ports = ?self.ports, "workloads may leave with the node's address");
                        Masquerading::On
                    }
                    Err(error) => {
                        warn!(%error, "workloads cannot leave with the node's address");
                        Masquerading::Failed(error.to_string())
                    }
                };
            }
            Masquerading::Unknown | Masquerading::On | Masquerading::Failed(_) if !snat => {
                guard::stop_masquerading();
                *masquerading = Masquerading::Off;
            }
            _ => {}
        }
    }
}

impl Dataplane {
    /// The flows that are alive.
    pub fn flows(&self) -> impl Iterator<Item = FlowView> {
        self.flows.table.flows(self.now_ms())
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How full the flow table is.
    pub fn flow_use(&self) -> FlowUse {
        self.flows.table.usage(self.now_ms())
    }

    /// Why workloads cannot leave with the node's address, where some VRF lets them.
    pub fn masquerade_failure(&self) -> Option<String> {
        match &*hold(&self.flows.masquerading) {
            Masquerading::Failed(why) => Some(why.clone()),
            Masquerading::Unknown | Masquerading::Off | Masquerading::On => None,
        }
    }
}
