//! What waits for the kernel's grace periods when ports close, tens of milliseconds for each: done for many at once, by a
//! thread of its own that is there while there is something to do.
//!
//! ```text
//!   close_port ──▶ links ─────────▶ once no worker holds one any more: closed
//!   release ─────▶ interfaces ────▶ their guards are taken away, many in a transaction
//!                      ▲
//!   open_port ─────────┘ takes its interface out, and waits for a transaction underway
//! ```
//! A worker that lets go of a packet socket last would wait itself, and its packets with it.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::hold;
use crate::guard;
use crate::port_link::{PortLink, set_buffers};

/// How long workers are given to let go of a socket. They are woken when a port closes.
const LET_GO: Duration = Duration::from_secs(2);
/// How long whoever stops the dataplane waits for guards to be taken away.
const FINISH: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Closing {
    pending: Mutex<Pending>,
    /// Something was done.
    progress: Condvar,
    /// Held while guards are put up or taken away.
    transaction: Mutex<()>,
}

#[derive(Debug, Default)]
struct Pending {
    links: Vec<Arc<PortLink>>,
    interfaces: BTreeSet<String>,
    /// No port is left: the table goes as a whole.
    all: bool,
    /// Whether the thread is there.
    is_running: bool,
}

impl Pending {
    fn has_guards(&self) -> bool {
        self.all || !self.interfaces.is_empty()
    }
}

impl Closing {
    /// Closes a link that no snapshot names any more.
    pub(super) fn close(self: &Arc<Self>, link: Arc<PortLink>) {
        self.add(|pending| pending.links.push(link));
    }

    /// Takes an interface's guard away, and with `all` those of all.
    pub(super) fn give_back(self: &Arc<Self>, interface: &str, all: bool) {
        self.add(|pending| {
            pending.interfaces.insert(interface.to_owned());
            pending.all |= all;
        });
    }

    /// These are to be guarded: until what is returned is dropped nothing else touches guards.
    pub(crate) fn claim(&self, interfaces: &[&str]) -> MutexGuard<'_, ()> {
        let transaction = hold(&self.transaction);
        let mut pending = hold(&self.pending);
        pending.all &= interfaces.is_empty();
        pending.interfaces.retain(|pending| !interfaces.contains(&pending.as_str()));
        transaction
    }

    /// Waits until guards are as they are to be.
    pub(super) fn finish(&self) {
        let until = Instant::now() + FINISH;
        let mut pending = hold(&self.pending);
        while pending.is_running && pending.has_guards() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                warn!("some interfaces stay shut to the host's stack: the kernel is slow");
                return;
            }
            let waited = self.progress.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(pending);
        // What was taken out of the list may be underway.
        drop(hold(&self.transaction));
    }

    fn add(self: &Arc<Self>, add: impl FnOnce(&mut Pending)) {
        let mut pending = hold(&self.pending);
        add(&mut pending);
        if pending.is_running {
            return;
        }
        pending.is_running = true;
        drop(pending);
        let closing = Arc::clone(self);
        let started = thread::Builder::new().name("closing".to_owned()).spawn(move || closing.work());
        if let Err(error) = started {
            debug!(%error, "no thread for it: ports close while their caller waits");
            self.work();
        }
    }

    fn work(&self) {
        while let Some(links) = self.next_links() {
            self.take_guards_away();
            for link in links {
                close(link);
                // Nobody waits for a socket, but for a guard perhaps.
                self.take_guards_away();
            }
        }
    }

    /// `None`: there is nothing to do, and whoever adds something starts another thread.
    fn next_links(&self) -> Option<Vec<Arc<PortLink>>> {
        let mut pending = hold(&self.pending);
        pending.is_running = pending.has_guards() || !pending.links.is_empty();
        pending.is_running.then(|| std::mem::take(&mut pending.links))
    }

    fn take_guards_away(&self) {
        let _transaction = hold(&self.transaction);
        let (interfaces, all) = {
            let mut pending = hold(&self.pending);
            if !pending.has_guards() {
                return;
            }
            (std::mem::take(&mut pending.interfaces), std::mem::take(&mut pending.all))
        };
        // Most interfaces that are gone have no chain any more, nor a table without any port.
        if !all || guard::clear().is_err() {
            guard::let_host_in(&interfaces.iter().map(String::as_str).collect::<Vec<_>>());
        }
        self.progress.notify_all();
    }
}

/// Closes a socket, which waits; but not for ever on somebody who holds it, and then closes it.
fn close(link: Arc<PortLink>) {
    // What still comes takes no memory.
    set_buffers(link.fd(), 0);
    let until = Instant::now() + LET_GO;
    while Arc::strong_count(&link) > 1 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn link() -> (Arc<PortLink>, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (Arc::new(PortLink::over(ours)), theirs)
    }

    fn wait_until(done: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if done() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("never");
    }

    #[test]
    fn a_link_is_closed_only_once_nobody_else_holds_it_and_the_thread_ends() {
        let closing = Arc::new(Closing::default());
        let (link, theirs) = link();
        let worker = Arc::clone(&link);
        closing.close(link);
        wait_until(|| hold(&closing.pending).links.is_empty());
        assert!(theirs.send(b"still open").is_ok());
        drop(worker);
        wait_until(|| theirs.send(b"?").is_err());
        wait_until(|| !hold(&closing.pending).is_running);
        assert!(theirs.as_fd().try_clone_to_owned().is_ok());
    }

    #[test]
    fn an_interface_that_is_opened_again_keeps_its_guard() {
        let closing = Arc::new(Closing::default());
        // Nothing is taken away meanwhile.
        let transaction = hold(&closing.transaction);
        for interface in ["vr-a", "vr-b"] {
            hold(&closing.pending).interfaces.insert(interface.to_owned());
        }
        hold(&closing.pending).all = true;
        drop(transaction);
        drop(closing.claim(&["vr-a"]));
        let pending = hold(&closing.pending);
        assert_eq!(
            (pending.interfaces.iter().collect::<Vec<_>>(), pending.all),
            (vec![&"vr-b".to_owned()], false)
        );
    }
}
