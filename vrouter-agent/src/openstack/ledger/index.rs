//! Who speaks of which tap: plugs by tap and by MAC address, attachments by both.

use std::collections::{BTreeMap, BTreeSet};

use vrouter_types::MacAddr;

use super::{Ledger, Touched};
use crate::openstack::attachment::AttachmentKey;
use crate::openstack::{Attachment, Plug, Uuid};

impl Ledger {
    pub(super) fn put_plug(&mut self, plug: Plug) {
        self.plug_by_tap.insert(plug.interface.clone(), plug.id);
        self.plugs_by_mac.entry(plug.mac).or_default().insert(plug.id);
        self.plugs.insert(plug.id, plug);
    }

    pub(super) fn take_plug(&mut self, id: Uuid) {
        let Some(plug) = self.plugs.remove(&id) else { return };
        self.plug_by_tap.remove(&plug.interface);
        remove(&mut self.plugs_by_mac, plug.mac, &id);
    }

    pub(super) fn put_attachment(&mut self, number: u32, attachment: Attachment) {
        let key = attachment.key();
        self.attached_by_tap.entry(attachment.interface.clone()).or_default().insert(key.clone());
        self.attached_by_mac.entry(attachment.mac).or_default().insert(key.clone());
        self.attachment_numbers.insert(number);
        self.attachments.insert(key, (number, attachment));
    }

    pub(super) fn take_attachment(&mut self, key: &AttachmentKey) -> Option<(u32, Attachment)> {
        let (number, attachment) = self.attachments.remove(key)?;
        self.attachment_numbers.remove(&number);
        remove(&mut self.attached_by_tap, attachment.interface.clone(), key);
        remove(&mut self.attached_by_mac, attachment.mac, key);
        Some((number, attachment))
    }

    /// Its tap, and those that attachments with its MAC address name.
    pub(super) fn touch_plug(&self, id: Uuid, touched: &mut Touched) {
        let Some(plug) = self.plugs.get(&id) else { return };
        touched.taps.insert(plug.interface.clone());
        let same_mac = self.attached_by_mac.get(&plug.mac).into_iter().flatten();
        let named = same_mac.filter_map(|key| self.attachments.get(key));
        touched.taps.extend(named.map(|(_, attachment)| attachment.interface.clone()));
    }

    pub(super) fn touch_attachment(&self, key: &AttachmentKey, touched: &mut Touched) {
        if let Some((_, attachment)) = self.attachments.get(key) {
            let tap = self.tap_of(&attachment.interface, attachment.mac).to_owned();
            touched.taps.extend([tap, attachment.interface.clone()]);
        }
    }

    /// The tap that an attachment is about: the one that it names, where that is plugged or nobody else has its MAC
    /// address; else the only plug with its MAC address.
    pub(super) fn tap_of<'l>(&'l self, named: &'l str, mac: MacAddr) -> &'l str {
        if self.plug_by_tap.contains_key(named) {
            return named;
        }
        let same_mac = self.plugs_by_mac.get(&mac).filter(|plugs| plugs.len() == 1);
        let plug = same_mac.and_then(|plugs| self.plugs.get(plugs.first()?));
        plug.map_or(named, |plug| &plug.interface)
    }
}

/// Takes one of many under a key.
fn remove<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: &V) {
    if let Some(values) = index.get_mut(&key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(&key);
        }
    }
}
