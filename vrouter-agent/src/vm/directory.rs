//! Who stands behind a port, for servers that know it by its service address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use vrouter_types::PortId;

use crate::overlay::Overlay;

/// A virtual machine as the metadata service knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The instance's UUID.
    pub instance: Option<String>,
    /// Its project's.
    pub project: Option<String>,
    /// Its first address.
    pub address: Option<IpAddr>,
}

/// Shared with the servers; written when ports change.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<HashMap<PortId, Arc<Machine>>>>);

impl Directory {
    /// Nobody.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// Takes all machines from the overlay.
    pub fn update(&self, overlay: &Overlay) {
        let machines = overlay.ports().filter_map(|port| {
            let vm = port.saved.request.vm.as_ref()?;
            let (instance, project) = (vm.instance.clone(), vm.project.clone());
            let machine = Machine { instance, project, address: port.saved.addresses.first().copied() };
            Some((port.saved.port, Arc::new(machine)))
        });
        self.replace(machines.collect());
    }

    /// Replaces all machines.
    pub fn replace(&self, machines: HashMap<PortId, Arc<Machine>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = machines;
    }

    /// The machine behind a port.
    pub fn get(&self, port: PortId) -> Option<Arc<Machine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
    }

    /// The machine behind a service address, and its port.
    pub fn find(&self, address: IpAddr) -> Option<(PortId, Arc<Machine>)> {
        let port = dataplane_core::nat::service_port(address)?;
        Some((port, self.get(port)?))
    }
}
