//! The service manager: what it is told, and what it holds for us while we are away.
//!
//! ```text
//!  start ─▶ LISTEN_FDS, LISTEN_FDNAMES ─▶ inherited   sockets of the last run, by name
//!  open  ─▶ FDSTORE=1 FDNAME=… FDPOLL=0 ─▶ Store      held from now on, however we end
//!  loop  ─▶ READY=1, STATUS=…, RELOADING=1, STOPPING=1, WATCHDOG=1 while all workers move packets
//! ```
//! systemd's own protocol (sd_notify(3), sd_listen_fds(3), "File Descriptor Store"), which other managers speak too.
//! Without `NOTIFY_SOCKET` nothing is told and nothing is held.

mod hand_over;
mod listener;
mod store;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

pub use hand_over::hand_over;
pub use listener::adopt_listener;
pub use store::Store;

/// What we know of the manager that started us.
#[derive(Debug, Default)]
pub struct Manager {
    /// What the last run left with it.
    pub inherited: BTreeMap<String, OwnedFd>,
    /// What it holds for the next.
    pub store: Arc<Store>,
    /// It ends us when it has not heard of us for so long.
    pub watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names. To be called once, before anything else is opened.
    pub fn from_environment() -> Manager {
        let inherited = store::inherited();
        let store = Arc::new(Store::new(is_there(), inherited.keys().cloned()));
        Manager { inherited, store, watchdog: sd_notify::watchdog_enabled() }
    }
}

/// Whether there is a manager that listens.
pub fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Packets flow, callers are served.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// What `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// The configuration is read again; [`ready`] ends that.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    tell(&[NotifyState::Reloading, now.unwrap_or(NotifyState::Status("reloading"))]);
}

/// The end has begun.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// All is well for now.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The kernel's monotonic clock, the same for all processes of this boot.
pub fn monotonic_usec() -> Option<u64> {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(usec)) => u64::try_from(usec).ok(),
        _ => None,
    }
}

fn tell(state: &[NotifyState<'_>]) {
    match sd_notify::notify(state) {
        Ok(()) => debug!(?state, "service manager told"),
        Err(error) => warn!(%error, "the service manager does not listen"),
    }
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_hold_another_assignment() {
        assert_eq!(one_line("all well\nWATCHDOG=trigger"), "all well WATCHDOG=trigger");
    }

    #[test]
    fn without_a_manager_nothing_is_inherited_and_nobody_watches() {
        // Under a test runner there is none; under one that is started by systemd its variables are for itself.
        let manager = Manager::default();
        assert!(manager.inherited.is_empty() && manager.watchdog.is_none());
        assert_eq!(manager.store.count(), 0);
    }
}
