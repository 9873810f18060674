//! The agent starts: ports come back as they were.

use std::collections::BTreeSet;

use agent_api::PortKind;
use vrouter_types::{Label, PortId};

use super::ports::MAX_PORTS;
use super::state::Backoff;
use super::{Overlay, Port};
use crate::event::{Effect, Restore, SavedPort};
use crate::openstack::Ledger;
use crate::openstack::ledger::{NOWHERE, Touched};

/// Nobody attaches so often.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

impl Overlay {
    /// Takes back what is on disk. Forwarding is published and interfaces are opened before anybody hears of it.
    pub(super) fn restore(&mut self, restore: Restore) -> Vec<Effect> {
        self.boot_id = restore.boot_id;
        self.groups = restore.groups.into_iter().map(|group| (group.name.clone(), group)).collect();
        self.restore_instances(Ledger::restore(restore.openstack));
        self.restore_routes(restore.routes, restore.stale_for);
        for (vrf, address) in restore.rested {
            // Nobody knows how long they have rested already.
            let (now, vrf) = (self.now, self.vrfs.iter_mut().find(|it| it.config.name == vrf));
            vrf.into_iter().for_each(|vrf| vrf.pool.release(address, now));
        }
        let links: BTreeSet<String> = restore.links.into_iter().collect();
        let mut ports = restore.ports;
        ports.sort_by_key(|saved| saved.sequence);
        self.labels.resume(restore.label_cursor.unwrap_or_else(|| behind(&ports)));
        let (mut effects, mut ids) = (Vec::new(), Vec::new());
        for saved in ports {
            if saved.sequence <= MAX_SEQUENCE {
                self.next_sequence = self.next_sequence.max(saved.sequence + 1);
            }
            let has_link = links.contains(&saved.request.host_interface);
            // A reboot ends every network namespace, and the runtime need not send a DEL for what went with it.
            if saved.request.kind == PortKind::Pod && saved.boot_id != self.boot_id && !has_link {
                effects.push(Effect::ForgetPort { port: saved.port, key: saved.request.key });
                continue;
            }
            ids.extend(self.take_back(saved, has_link));
        }
        self.restore_extras();
        // Opening an interface takes the kernel milliseconds, so each port forwards as soon as its own is open.
        let opens: Vec<Effect> = ids.iter().filter_map(|id| self.open(*id)).collect();
        effects.push(Effect::PublishFib { soon: false });
        effects.extend(opens);
        effects.extend(ids.into_iter().flat_map(|id| self.announce(id)).collect::<Vec<_>>());
        // What OpenStack said while the agent was away, or before it could say it all.
        let everything = self.everything();
        if everything != Touched::default() {
            effects.extend(self.follow(everything, None));
        }
        effects
    }

    /// `Some`: its interface exists, and it goes into service.
    pub(super) fn take_back(&mut self, saved: SavedPort, has_link: bool) -> Option<PortId> {
        let (id, label) = (saved.port, saved.label);
        let key = saved.request.key.clone();
        if id.0 >= MAX_PORTS || saved.addresses.is_empty() || saved.sequence > MAX_SEQUENCE {
            return self.orphan(saved, "its state file makes no sense".to_owned());
        }
        if let Err(error) = self.check_request(&saved.request) {
            return self.orphan(saved, error.message);
        }
        self.next_port = id.0 + 1;
        let Some(vrf) = self.vrf_by_name(&saved.vrf).map(|vrf| vrf.id) else {
            let why = format!("VRF {:?} is not configured any more", saved.vrf);
            return self.orphan(saved, why);
        };
        if !self.may_be_in(&key, vrf) {
            let why = format!("VRF {:?} is OpenStack's now, and was the configuration's then", saved.vrf);
            return self.orphan(saved, why);
        }
        let taken = self.ports.contains_key(&id) || self.keys.contains_key(&key);
        let wanted = prefixes(&saved);
        let has = |port: &&Port| port.vrf == vrf && port.prefixes().any(|prefix| wanted.contains(&prefix));
        if taken || (saved.vrf != NOWHERE && self.ports.values().find(has).is_some()) {
            return self.orphan(saved, "another port has its number, name or address".to_owned());
        }
        if !self.labels.claim(label, id) {
            return self.orphan(saved, format!("label {label} is another port's"));
        }
        let why = format!("interface {} is absent", saved.request.host_interface);
        let mut retry = Backoff::default();
        retry.defer(self.now);
        self.insert(Port::new(saved, vrf, why, retry));
        has_link.then_some(id)
    }

    fn orphan(&mut self, saved: SavedPort, why: String) -> Option<PortId> {
        // Its label stays its own if it can: other provider edges may still know it.
        self.labels.claim(saved.label, saved.port);
        self.orphans.insert(saved.request.key.clone(), (saved, why));
        None
    }
}

fn prefixes(saved: &SavedPort) -> Vec<vrouter_types::Prefix> {
    let addresses = saved.addresses.iter().copied().map(vrouter_types::Prefix::host);
    addresses.chain(saved.request.prefixes.iter().copied()).collect()
}

/// Where labels go on if the file that says so is lost: well behind the last one that a port has.
fn behind(ports: &[SavedPort]) -> Label {
    const WELL: u32 = 1024;
    let last = ports.iter().map(|saved| saved.label.value()).max();
    last.and_then(|last| Label::new(last + WELL).ok()).unwrap_or(Label::FIRST_UNRESERVED)
}
