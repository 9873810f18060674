//! All that OpenStack has said and not taken back: plugs, attachments, and the instances that these make.

mod compose;
mod index;
mod restore;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use compose::NOWHERE;
pub use sync::STALE_MILLIS;

use agent_api::{ApiError, ErrorKind};
use serde::{Deserialize, Serialize};
use vrouter_types::{MacAddr, RouteTarget};

use super::attachment::AttachmentKey;
use super::{Attachment, Change, Detachment, LIMITS, Plug, PlugKind, Uuid, Write};
use crate::event::Millis;
use index::Few;

/// Numbers of route distinguishers for instances: the operator's own VRFs count from 1 up, ports from 61440.
const INSTANCE_RDS: std::ops::Range<u16> = 32_768..32_768 + INSTANCES;
/// So many; as many behind them are for those that the operator has taken.
const INSTANCES: u16 = 14_336;
/// Route distinguishers of ports: this and the port's number.
pub const FIRST_PORT_RD: u16 = 61_440;

/// A VPN instance: all attachments that name it share its VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The number in its route distinguisher, and of its file.
    pub number: u16,
    /// The caller's name for it.
    pub id: String,
    /// What it imports: the last attachment's word.
    pub import: Vec<RouteTarget>,
    /// What its routes carry: the last attachment's word.
    pub export: Vec<RouteTarget>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What the disk held.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// From the incumbent's directory.
    pub plugs: Vec<Plug>,
    /// From ours, by number.
    pub attachments: Vec<(u32, Attachment)>,
    /// From ours.
    pub instances: Vec<Instance>,
    /// Files of the incumbent's directory that are none of a port, or of another one, and why.
    #[serde(default)]
    pub skipped: Vec<(String, String)>,
    /// Ports that `/syncports` awaits, with the time in their files when it was called.
    #[serde(default)]
    pub awaited: Vec<(Uuid, String)>,
}

/// What a change touches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Touched {
    /// What to write, in order.
    pub writes: Vec<Write>,
    /// Taps whose port may be another now.
    pub taps: BTreeSet<String>,
    /// Instances that came, went or changed.
    pub instances: BTreeSet<String>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    plugs: BTreeMap<Uuid, Plug>,
    attachments: BTreeMap<AttachmentKey, (u32, Attachment)>,
    instances: BTreeMap<String, Instance>,
    /// Numbers in use, for quick choosing.
    numbers: BTreeSet<u16>,
    next_attachment: u32,
    /// Numbers of attachments' files.
    attachment_numbers: BTreeSet<u32>,
    /// Files that are left out, and why.
    skipped: BTreeMap<String, String>,
    /// Plugs by tap, by MAC address, and attachments by both.
    plug_by_tap: BTreeMap<String, Uuid>,
    plugs_by_mac: BTreeMap<MacAddr, Few<Uuid>>,
    attached_by_tap: BTreeMap<String, Few<AttachmentKey>>,
    attached_by_mac: BTreeMap<MacAddr, Few<AttachmentKey>>,
    awaited: sync::Awaited,
}

fn refuse(kind: ErrorKind, message: impl Into<String>) -> ApiError {
    ApiError::new(kind, message)
}

impl Ledger {
    /// Makes the change, or says why not and is as it was.
    pub fn change(&mut self, change: Change, now: Millis) -> Result<Touched, ApiError> {
        let mut touched = Touched::default();
        match change {
            Change::Plug(plugs) => {
                self.check_plugs(&plugs)?;
                plugs.into_iter().for_each(|plug| self.plug(plug, &mut touched));
            }
            Change::Unplug(id) => self.unplug(id, &mut touched),
            Change::UnplugInstance(instance) => {
                let of = self.plugs.values().filter(|plug| plug.instance == instance);
                let ids: Vec<Uuid> = of.map(|plug| plug.id).collect();
                ids.into_iter().for_each(|id| self.unplug(id, &mut touched));
            }
            Change::Link { id, up } => self.link(id, up, &mut touched)?,
            Change::Sync => self.sync(now, &mut touched),
            Change::Attach(attachments) => {
                self.check_attachments(&attachments)?;
                attachments.into_iter().for_each(|attachment| self.attach(attachment, &mut touched));
            }
            Change::Detach(detachments) => {
                detachments.iter().for_each(|detachment| self.detach(detachment, &mut touched));
            }
        }
        Ok(touched)
    }

    fn check_plugs(&self, plugs: &[Plug]) -> Result<(), ApiError> {
        let mut taps: BTreeMap<&str, Uuid> = BTreeMap::new();
        for plug in plugs {
            let known = self.plug_by_tap.get(&plug.interface).copied();
            let other = taps.insert(&plug.interface, plug.id).or(known).filter(|other| *other != plug.id);
            if let Some(other) = other {
                let message = format!("interface {} already belongs to port {other}", plug.interface);
                return Err(refuse(ErrorKind::Conflict, message));
            }
        }
        let new = plugs.iter().filter(|plug| !self.plugs.contains_key(&plug.id)).count();
        if self.plugs.len() + new > LIMITS.ports {
            return Err(refuse(ErrorKind::Exhausted, format!("at most {} ports", LIMITS.ports)));
        }
        Ok(())
    }

    fn plug(&mut self, plug: Plug, touched: &mut Touched) {
        self.came(plug.id, touched);
        self.skipped.remove(&plug.id.to_string());
        if let Some(known) = self.plugs.get_mut(&plug.id).filter(|known| known.says_the_same(&plug)) {
            // Whoever said it last.
            known.clone_from(&plug);
        } else {
            self.touch_plug(plug.id, touched);
            self.take_plug(plug.id);
            let id = plug.id;
            self.put_plug(plug.clone());
            self.touch_plug(id, touched);
        }
        // Also for what is known: its caller may have made the file anew, and not durably.
        touched.writes.push(Write::Plug(Box::new(plug)));
    }

    fn unplug(&mut self, id: Uuid, touched: &mut Touched) {
        self.touch_plug(id, touched);
        self.take_plug(id);
        self.came(id, touched);
        self.skipped.remove(&id.to_string());
        // Also for what is unknown: the file may be there although it could not be read.
        touched.writes.push(Write::ForgetPlug(id));
    }

    fn link(&mut self, id: Uuid, up: bool, touched: &mut Touched) -> Result<(), ApiError> {
        let Some(plug) = self.plugs.get_mut(&id) else {
            // A failure, not a 404: the incumbent's word.
            return Err(refuse(ErrorKind::BadRequest, format!("Port Not found {id}")));
        };
        if plug.kind != PlugKind::Remote {
            return Err(refuse(ErrorKind::BadRequest, format!("Incorrect Port type for {id}")));
        }
        plug.link_up = up;
        touched.writes.push(Write::Plug(Box::new(plug.clone())));
        touched.taps.insert(plug.interface.clone());
        Ok(())
    }

    fn check_attachments(&self, attachments: &[Attachment]) -> Result<(), ApiError> {
        let mut held: BTreeMap<(&str, vrouter_types::Prefix), MacAddr> = BTreeMap::new();
        let mut entered: BTreeMap<&str, &str> = BTreeMap::new();
        for attachment in attachments {
            let prefix = attachment.prefix();
            let known = self.holder(attachment);
            let other = held.insert((&attachment.instance, prefix), attachment.mac).or(known);
            if let Some(other) = other.filter(|other| prefix.is_host() && *other != attachment.mac) {
                return Err(refuse(
                    ErrorKind::Conflict,
                    format!(
                        "ip_address {prefix} is already that of {other} in instance {}",
                        attachment.instance
                    ),
                ));
            }
            if !attachment.takes_packets() {
                continue;
            }
            let tap = self.tap_of(&attachment.interface, attachment.mac);
            let first = entered.insert(tap, &attachment.instance);
            let first = first.map(str::to_owned).or_else(|| self.entered_by(tap, attachment.mac));
            if let Some(first) = first.filter(|first| *first != attachment.instance) {
                return Err(refuse(
                    ErrorKind::Conflict,
                    format!(
                        "packets of {tap} already enter instance {first}; attach it to {} with direction \"to-port\", \
                         or detach it there first",
                        attachment.instance
                    ),
                ));
            }
        }
        let is_new = |attachment: &&Attachment| !self.attachments.contains_key(&attachment.key());
        if self.attachments.len() + attachments.iter().filter(is_new).count() > LIMITS.ports {
            return Err(refuse(ErrorKind::Exhausted, format!("at most {} attachments", LIMITS.ports)));
        }
        let names: BTreeSet<&str> =
            attachments.iter().map(|attachment| attachment.instance.as_str()).collect();
        let new = names.iter().filter(|name| !self.instances.contains_key(**name)).count();
        if self.instances.len() + new > LIMITS.instances {
            return Err(refuse(ErrorKind::Exhausted, format!("at most {} instances", LIMITS.instances)));
        }
        Ok(())
    }

    /// Who has the attachment's address in its instance.
    fn holder(&self, attachment: &Attachment) -> Option<MacAddr> {
        let (instance, prefix) = (&attachment.instance, attachment.prefix());
        let from = |mac| AttachmentKey { instance: instance.clone(), mac, prefix };
        // The MAC address stands between the two in the order, so all of the instance are looked at; they are few, but
        // in one shared by a thousand ports, where the ports' own addresses say the same sooner.
        let mut of = self.attachments.range(from(MacAddr([0; 6]))..);
        of.by_ref()
            .take_while(|(key, _)| key.instance == *instance)
            .find(|(key, _)| key.prefix == prefix && key.mac != attachment.mac)
            .map(|(key, _)| key.mac)
    }

    fn attach(&mut self, attachment: Attachment, touched: &mut Touched) {
        let key = attachment.key();
        if !self.instances.contains_key(&attachment.instance) {
            self.make_instance(&attachment);
            touched.instances.insert(attachment.instance.clone());
        }
        if let Some(instance) = self.instances.get_mut(&attachment.instance) {
            let description =
                attachment.instance_description.clone().or_else(|| instance.description.clone());
            let differs = instance.import != attachment.import
                || instance.export != attachment.export
                || instance.description != description;
            if differs || touched.instances.contains(&attachment.instance) {
                instance.import.clone_from(&attachment.import);
                instance.export.clone_from(&attachment.export);
                instance.description = description;
                touched.instances.insert(attachment.instance.clone());
                touched.writes.push(Write::Instance(Box::new(instance.clone())));
            }
        }
        let known = self.attachments.get(&key).map(|(number, known)| (*number, *known == attachment));
        let number = match known {
            Some((_, true)) => return,
            Some((number, false)) => number,
            None => self.free_attachment(),
        };
        self.touch_attachment(&key, touched);
        self.take_attachment(&key);
        touched.writes.push(Write::Attachment(number, Box::new(attachment.clone())));
        self.put_attachment(number, attachment);
        self.touch_attachment(&key, touched);
    }

    fn detach(&mut self, detachment: &Detachment, touched: &mut Touched) {
        let of = self.attached_by_mac.get(&detachment.mac).into_iter().flatten();
        let keys: Vec<AttachmentKey> = of.filter(|key| detachment.means(key)).cloned().collect();
        for key in keys {
            self.touch_attachment(&key, touched);
            if let Some((number, _)) = self.take_attachment(&key) {
                touched.writes.push(Write::ForgetAttachment(number));
            }
            let first = AttachmentKey {
                instance: key.instance.clone(),
                mac: MacAddr([0; 6]),
                prefix: vrouter_types::Prefix::host(std::net::Ipv4Addr::UNSPECIFIED.into()),
            };
            let next = self.attachments.range(first..).next();
            if next.is_none_or(|(other, _)| other.instance != key.instance)
                && let Some(instance) = self.instances.remove(&key.instance)
            {
                self.numbers.remove(&instance.number);
                touched.writes.push(Write::ForgetInstance(instance.number));
                touched.instances.insert(key.instance.clone());
            }
        }
    }

    fn make_instance(&mut self, attachment: &Attachment) {
        // There are more numbers than instances may be.
        let Some(number) = INSTANCE_RDS.clone().find(|number| !self.numbers.contains(number)) else { return };
        self.numbers.insert(number);
        let instance = Instance {
            number,
            id: attachment.instance.clone(),
            import: attachment.import.clone(),
            export: attachment.export.clone(),
            description: attachment.instance_description.clone(),
        };
        self.instances.insert(instance.id.clone(), instance);
    }
}

#[cfg(test)]
mod tests;
