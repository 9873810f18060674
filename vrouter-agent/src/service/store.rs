//! Descriptors that the service manager holds. Making owners of numbers that it passed is unsafe code.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dataplane::Keeper;
use sd_notify::NotifyState;
use tracing::warn;

/// What the manager holds, by name. What the last run left is in it until it is forgotten.
#[derive(Debug, Default)]
pub struct Store {
    is_there: bool,
    names: Mutex<BTreeSet<String>>,
    has_failed: AtomicBool,
}

impl Store {
    /// `is_there`: without a manager nothing is held.
    pub fn new(is_there: bool, names: impl Iterator<Item = String>) -> Store {
        Store { is_there, names: Mutex::new(names.collect()), has_failed: AtomicBool::new(false) }
    }

    /// How many descriptors it holds.
    pub fn count(&self) -> usize {
        self.names().len()
    }

    /// Whether a manager holds what it is given.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names cannot be left half done.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) {
        let told =
            if fds.is_empty() { sd_notify::notify(state) } else { sd_notify::notify_with_fds(state, fds) };
        if let Err(error) = told
            && !self.has_failed.swap(true, Relaxed)
        {
            warn!(%error, "the service manager does not hold our sockets: a restart will lose packets");
        }
    }
}

impl Keeper for Store {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        // What it holds already under this name is this very descriptor: it was adopted.
        if self.is_there && self.names().insert(name.to_owned()) {
            // An interface that goes down, or an ICMP error, is no reason to let go of a socket.
            let poll = NotifyState::Custom("FDPOLL=0");
            self.tell(&[NotifyState::FdStore, NotifyState::FdName(name), poll], &[fd]);
        }
    }

    fn forget(&self, name: &str) {
        if self.is_there && self.names().remove(name) {
            self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
        }
    }
}

/// What the manager passed to us, by name; of two with one name, the later.
pub(super) fn inherited() -> BTreeMap<String, OwnedFd> {
    let passed = match sd_notify::listen_fds_with_names() {
        Ok(passed) => passed,
        Err(error) => {
            warn!(%error, "what the service manager passes makes no sense");
            return BTreeMap::new();
        }
    };
    // SAFETY: sd_listen_fds(3): these descriptors were opened for us before we began and nobody else here knows them;
    // that each is open was seen when its close-on-exec flag was set. This is called once.
    passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn without_a_manager_nothing_is_held() {
        let store = Store::new(false, std::iter::empty());
        store.keep("gre", std::io::stderr().as_fd());
        assert_eq!(store.count(), 0);
        assert!(!store.is_there());
    }
}
