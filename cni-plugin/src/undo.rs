//! What an ADD that failed half-way has to take back, in the opposite order of its making.
//!
//! The runtime calls DEL after a failed ADD, but not every runtime does in every case (containerd forgets it when another
//! plugin failed); so an ADD that fails leaves nothing.

use crate::call::Call;
use crate::veth::Links;
use crate::{detach, ipam, name};

/// What was begun. A step is noted before it is tried: it may have failed after its effect.
#[derive(Debug)]
pub(crate) struct Undo<'a> {
    call: &'a Call,
    pub(crate) delegated: bool,
    pub(crate) made_link: bool,
    pub(crate) attached: bool,
}

impl<'a> Undo<'a> {
    /// Nothing yet.
    pub(crate) fn new(call: &'a Call) -> Undo<'a> {
        Undo { call, delegated: false, made_link: false, attached: false }
    }

    /// Takes all of it back. The caller has a failure to report already; failures here are told on stderr.
    pub(crate) fn run(self) {
        let key = self.call.key();
        let complain = |what: &str, error: &dyn std::fmt::Display| {
            eprintln!("vrouter-cni: after the failed ADD of {key}: cannot {what}: {error}");
        };
        if self.attached
            && let Err(error) = detach::detach(&self.call.conf, &key)
        {
            complain("detach it", &error);
        }
        if self.made_link
            && let Err(error) = Links::open().and_then(|mut host| host.delete(&name::host_interface(&key)))
        {
            complain("remove its veth", &error);
        }
        if self.delegated
            && let Err(error) = ipam::forward(self.call, "DEL", ipam::TIMEOUT)
        {
            complain("give its addresses back", &error);
        }
    }
}
