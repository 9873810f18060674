//! What control does with ports beside opening and closing them: sub-ports share an interface, and frames of control's
//! own go out.

use std::io;
use std::sync::Arc;

use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{Service, VnetHeader};
use tracing::warn;
use vrouter_types::PortId;

use super::Dataplane;
use crate::port_link::PortLink;
use crate::snapshot::Snapshot;
use crate::vlan;

/// Where an Ethernet frame has its type, or a tag in front of it.
const TYPE_AT: usize = 12;

impl Dataplane {
    /// Sends a router advertisement to a port, an Ethernet frame, complete with its checksums.
    ///
    /// # Errors
    /// When the port is not open, or the kernel refuses.
    pub fn advertise_router(&self, port: PortId, frame: &[u8]) -> io::Result<()> {
        let snapshot = self.snapshots.load();
        let link = snapshot.port(port).ok_or(io::ErrorKind::NotFound)?;
        let (addresses, rest) = frame.split_at_checked(TYPE_AT).ok_or(io::ErrorKind::InvalidInput)?;
        let tag = link.vlan.map(vlan::tag);
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let vnet: [u8; VNET_HEADER_LEN] = VnetHeader::NONE.encode();
        link.send(&[&vnet, addresses, tag, rest].concat())?;
        link.stats.traffic.sent(1, frame.len() as u64);
        link.stats.served(Service::RouterAdvertisement);
        Ok(())
    }
}

/// Whether another port is on this interface.
pub(super) fn is_shared(snapshot: &Snapshot, interface: &str) -> bool {
    links_on(snapshot, interface).next().is_some()
}

/// Tells the port that has an interface's other frames which tags are sub-ports' now; `changed`: there were others
/// before. Where the kernel refuses, that
/// port gets a copy of their frames too, and drops it.
pub(super) fn share(snapshot: &Snapshot, interface: &str, changed: bool) {
    let mut numbers: Vec<u16> = links_on(snapshot, interface).filter_map(|link| link.vlan).collect();
    if numbers.is_empty() && !changed {
        return;
    }
    numbers.sort_unstable();
    for parent in links_on(snapshot, interface).filter(|link| link.vlan.is_none()) {
        if let Err(error) = vlan::leave_to_others(parent.fd(), &numbers) {
            warn!(interface, %error, "frames of sub-ports reach their parent too");
        }
    }
}

fn links_on<'s>(snapshot: &'s Snapshot, interface: &'s str) -> impl Iterator<Item = &'s Arc<PortLink>> {
    snapshot.ports.iter().flatten().filter(move |link| link.interface() == interface)
}
