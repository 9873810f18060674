//! The host's own stack is kept away from workloads' interfaces: for many at once, and again after a restart.

use std::sync::atomic::Ordering;

use tracing::warn;
use vrouter_types::PortId;

use super::{Dataplane, hold};
use crate::adopt::Name;
use crate::offload::Offload;
use crate::{guard, sys};

impl Dataplane {
    /// Does for many interfaces at once what [`Dataplane::open_port`] does for each first, which mostly waits for the
    /// kernel: the host's own stack is shut out of their ingress. Absent interfaces, and those whose sockets and guards
    /// the last run has left, are left out.
    pub fn prepare_ports(&self, ports: &[(PortId, String)]) {
        let is_new = |(port, interface): &&(PortId, String)| {
            !self.kept.has(&Name::Port(*port, interface).to_string()) && sys::if_index(interface).is_ok()
        };
        let new: Vec<&str> = ports.iter().filter(is_new).map(|(_, interface)| interface.as_str()).collect();
        self.guard(&new);
        hold(&self.guarded).extend(new.into_iter().map(str::to_owned));
    }

    /// An interface is gone, or no port any more: what was its guard goes soon. Nothing happens where there is none.
    pub fn release(&self, interface: &str) {
        self.closing.give_back(interface, false);
    }

    /// Puts up again what somebody may have taken away of the guards that the last run left, while packets flow.
    pub fn check_guards(&self) {
        let interfaces = std::mem::take(&mut *hold(&self.unchecked));
        let present = interfaces.iter().map(String::as_str).filter(|name| sys::if_index(name).is_ok());
        self.guard(&present.collect::<Vec<_>>());
    }

    pub(super) fn guard(&self, interfaces: &[&str]) {
        if interfaces.is_empty() {
            return;
        }
        let _transaction = self.closing.claim(interfaces);
        let nftables = !self.config.without.contains(&Offload::Nftables);
        for (interface, what, error) in guard::shut_out_host(interfaces, nftables) {
            let nftables = what.contains("nftables");
            if nftables && self.without_nftables.swap(true, Ordering::Relaxed) {
                continue;
            }
            warn!(interface, %error, "the host's stack may see workloads' frames: cannot {what}");
        }
    }
}
