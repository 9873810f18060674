//! Which routes of a VRF changed last: what forwarding must be told need not be all of it.

use std::collections::VecDeque;

use vrouter_types::Prefix;

/// So many are remembered. Where more have changed, it is no dearer to look at all.
const MOST: usize = 1024;

/// The last changes, with the VRF's revisions.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    recent: VecDeque<(u64, Prefix)>,
    /// All changes behind this revision are known.
    from: Option<u64>,
}

impl Changes {
    /// The route of the prefix is another as of this revision.
    pub(super) fn note(&mut self, revision: u64, prefix: Prefix) {
        let from = self.from.get_or_insert(revision.saturating_sub(1));
        if self.recent.len() >= MOST
            && let Some((gone, _)) = self.recent.pop_front()
        {
            *from = gone;
        }
        self.recent.push_back((revision, prefix));
    }

    /// The prefixes whose routes are others than they were as of this revision, some more than once. `None`: not known.
    pub(super) fn since(&self, revision: u64) -> Option<impl Iterator<Item = Prefix>> {
        let is_known = self.from.is_some_and(|from| from <= revision);
        let later = self.recent.iter().rev().take_while(move |(at, _)| *at > revision);
        is_known.then(|| later.map(|(_, prefix)| *prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(number: u32) -> Prefix {
        Prefix::host(std::net::Ipv4Addr::from(number).into())
    }

    fn since(changes: &Changes, revision: u64) -> Option<usize> {
        changes.since(revision).map(Iterator::count)
    }

    #[test]
    fn what_came_later_is_known_and_what_is_forgotten_is_not_guessed() {
        let mut changes = Changes::default();
        assert_eq!(since(&changes, 7), None, "nobody knows what was before");
        changes.note(8, prefix(1));
        assert_eq!((since(&changes, 6), since(&changes, 7), since(&changes, 8)), (None, Some(1), Some(0)));
        for number in 0..2000 {
            changes.note(9 + u64::from(number), prefix(number));
        }
        assert_eq!(since(&changes, 2008), Some(0));
        assert_eq!(since(&changes, 2008 - 1024), Some(1024));
        assert_eq!(since(&changes, 2008 - 1025), None);
    }
}
