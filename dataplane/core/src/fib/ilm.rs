//! The incoming label map: a flat array in pages, so that labels far apart cost memory only where they are.

use std::sync::Arc;

use vrouter_types::{Label, PortId};

const PAGE: usize = 256;
const NO_PORT: u32 = u32::MAX;

/// Which port a label of ours means. Reserved labels (RFC 3032 §2.1) never mean one.
#[derive(Debug, Clone, Default)]
pub struct Ilm {
    pages: Vec<Option<Arc<[u32; PAGE]>>>,
}

impl Ilm {
    /// No label means a port.
    pub fn new() -> Ilm {
        Ilm::default()
    }

    /// Makes a label mean a port. Reserved labels are not taken: `false`.
    pub fn insert(&mut self, label: Label, port: PortId) -> bool {
        if label.is_reserved() {
            return false;
        }
        let page = label.index() / PAGE;
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        let entries = self.pages[page].get_or_insert_with(|| Arc::new([NO_PORT; PAGE]));
        Arc::make_mut(entries)[label.index() % PAGE] = port.0;
        true
    }

    /// Makes a label mean nothing.
    pub fn remove(&mut self, label: Label) {
        if let Some(Some(entries)) = self.pages.get_mut(label.index() / PAGE) {
            Arc::make_mut(entries)[label.index() % PAGE] = NO_PORT;
        }
    }

    /// The port that a label means.
    pub fn lookup(&self, label: Label) -> Option<PortId> {
        let entries = self.pages.get(label.index() / PAGE)?.as_ref()?;
        match entries[label.index() % PAGE] {
            NO_PORT => None,
            port => Some(PortId(port)),
        }
    }

    /// A label that means this port; for people, since it searches.
    pub fn label_of(&self, port: PortId) -> Option<Label> {
        let pages = self.pages.iter().enumerate();
        let (page, at) = pages.filter_map(|(page, entries)| Some((page, entries.as_ref()?))).find_map(
            |(page, entries)| entries.iter().position(|entry| *entry == port.0).map(|at| (page, at)),
        )?;
        Label::new(u32::try_from(page * PAGE + at).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(value: u32) -> Label {
        Label::new(value).unwrap()
    }

    #[test]
    fn labels_from_one_end_to_the_other_find_their_ports() {
        let mut ilm = Ilm::new();
        for value in [16, 255, 256, 70_000, 0xf_ffff] {
            assert!(ilm.insert(label(value), PortId(value % 7)));
        }
        for value in [16, 255, 256, 70_000, 0xf_ffff] {
            assert_eq!(ilm.lookup(label(value)), Some(PortId(value % 7)));
        }
        for value in [0, 3, 17, 254, 257, 69_999, 0xf_fffe] {
            assert_eq!(ilm.lookup(label(value)), None, "{value}");
        }
        ilm.remove(label(256));
        assert_eq!(ilm.lookup(label(256)), None);
        assert_eq!(ilm.label_of(PortId(255 % 7)), Some(label(255)));
    }

    #[test]
    fn reserved_labels_are_not_taken() {
        let mut ilm = Ilm::new();
        for value in 0..16 {
            assert!(!ilm.insert(label(value), PortId(0)));
            assert_eq!(ilm.lookup(label(value)), None);
        }
    }

    #[test]
    fn a_changed_copy_leaves_the_published_one_alone() {
        let mut published = Ilm::new();
        published.insert(label(16), PortId(1));
        let mut next = published.clone();
        next.insert(label(16), PortId(2));
        assert_eq!(published.lookup(label(16)), Some(PortId(1)));
    }
}
