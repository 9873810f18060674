//! Who speaks of which tap: plugs by tap and by MAC address, attachments by both.

use std::collections::BTreeMap;

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
        let same_mac = self.plugs_by_mac.get(&mac).map(|plugs| plugs.0.as_slice());
        let plug = same_mac.and_then(|plugs| if let [only] = plugs { self.plugs.get(only) } else { None });
        plug.map_or(named, |plug| &plug.interface)
    }
}

/// Takes one of many under a key.
fn remove<K: Ord, V: Ord>(index: &mut BTreeMap<K, Few<V>>, key: K, value: &V) {
    if let Some(values) = index.get_mut(&key) {
        values.remove(value);
        if values.0.is_empty() {
            index.remove(&key);
        }
    }
}

/// A set of mostly one, in order, which then takes the memory of one.
#[derive(Debug, Clone)]
pub(super) struct Few<V>(Vec<V>);

impl<V> Default for Few<V> {
    fn default() -> Few<V> {
        Few(Vec::new())
    }
}

impl<V: Ord> Few<V> {
    fn insert(&mut self, value: V) {
        let Err(place) = self.0.binary_search(&value) else { return };
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.insert(place, value);
    }

    fn remove(&mut self, value: &V) {
        if let Ok(place) = self.0.binary_search(value) {
            self.0.remove(place);
        }
    }
}

impl<'f, V> IntoIterator for &'f Few<V> {
    type Item = &'f V;
    type IntoIter = std::slice::Iter<'f, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_a_set_in_order() {
        let mut few = Few::default();
        [3, 1, 2, 3, 1].into_iter().for_each(|value| few.insert(value));
        assert_eq!(few.into_iter().collect::<Vec<_>>(), [&1, &2, &3]);
        [2, 7].iter().for_each(|value| few.remove(value));
        assert_eq!(few.into_iter().collect::<Vec<_>>(), [&1, &3]);
    }
}
