//! What virtual machines are served by the agent itself: metadata and names. Addresses and routers they get from the
//! pipeline ([`told`] says what).
//!
//! ```text
//!  machine ─▶ 169.254.169.254:80, gateway:53 ─▶ pipeline: source = the port's service address ─▶ vrouter0
//!                                                                                                  │
//!     nova-metadata ◀── who it is, signed ── metadata ◀── 169.254.1.1, [fe80::1%vrouter0] ◀────────┤
//!     resolvers     ◀── opaque messages ──── dns      ◀────────────────────────────────────────────┘
//! ```
//! Who asks is known by the source address alone, which the pipeline writes and no machine can choose. Everything a
//! machine may use up is bounded per port, so that one cannot starve the others, and in total.

mod advertise;
mod directory;
pub mod dns;
mod listen;
pub mod metadata;
mod resolvers;
mod shares;
pub mod told;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::Dataplane;
use dataplane_core::ServiceTargets;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{MetadataConfig, VmConfig};
use crate::overlay::Overlay;
use advertise::Advertiser;
use listen::Sockets;

pub use directory::{Directory, Machine};
pub use resolvers::Resolvers;

/// All that serves them.
#[derive(Debug)]
pub struct Vm {
    targets: ServiceTargets,
    directory: Directory,
    /// The overlay's ports as the directory has them.
    revision: Option<u64>,
    advertiser: Advertiser,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Vm {
    /// Starts what the configuration asks for, at the gateway's addresses. What cannot listen is not served, and said.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: &VmConfig, v4: Ipv4Addr, v6: Ipv6Addr) -> Vm {
        let (targets, directory) = (ServiceTargets::default(), Directory::new());
        let mut vm =
            Vm { targets, directory, revision: None, advertiser: Advertiser::new(), tasks: Vec::new() };
        match listen::both(v4, v6).await {
            Ok(sockets) => vm.forward_names(config, sockets),
            Err(error) => warn!(%error, "names are not forwarded for virtual machines"),
        }
        let Some(metadata) = &config.metadata else { return vm };
        match listen::both(v4, v6).await {
            Ok(sockets) => vm.relay_metadata(metadata, sockets),
            Err(error) => warn!(%error, "no metadata for virtual machines"),
        }
        vm
    }

    /// Where the pipeline leads the machines.
    pub fn targets(&self) -> ServiceTargets {
        self.targets
    }

    /// Learns of the overlay's ports, if they have changed.
    pub fn update(&mut self, overlay: &Overlay) {
        let revision = Some(overlay.ports_revision());
        if self.revision != revision {
            self.directory.update(overlay);
            self.revision = revision;
        }
    }

    /// To be called once a second: some ports get a router advertisement.
    pub fn advertise(&mut self, dataplane: &Dataplane) {
        self.advertiser.tick(&dataplane.fib(), dataplane);
    }

    fn forward_names(&mut self, config: &VmConfig, sockets: Sockets) {
        let resolvers = Arc::new(Resolvers::new(config.resolvers.clone()));
        let forwarder = Arc::new(dns::Forwarder::new(resolvers, self.directory.clone()));
        self.targets.dns = sockets.port;
        for socket in sockets.datagrams {
            self.tasks.push(tokio::spawn(dns::serve_datagrams(socket, Arc::clone(&forwarder))));
        }
        for listener in sockets.streams {
            self.tasks.push(tokio::spawn(dns::serve_streams(listener, Arc::clone(&forwarder))));
        }
    }

    fn relay_metadata(&mut self, config: &MetadataConfig, sockets: Sockets) {
        let proxy = Arc::new(metadata::Proxy::new(config.clone(), self.directory.clone()));
        self.targets.metadata = sockets.port;
        for listener in sockets.streams {
            self.tasks.push(tokio::spawn(metadata::serve(listener, Arc::clone(&proxy))));
        }
        info!(host = config.host, port = config.port, "metadata for virtual machines");
    }
}
