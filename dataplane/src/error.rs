//! What can go wrong outside of the packet path.

use std::io;
use std::net::IpAddr;

use vrouter_types::PortId;

/// Why the dataplane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The host's tun interface could not be made.
    #[error("make the host interface {name}: {source} (this needs CAP_NET_ADMIN and /dev/net/tun)")]
    HostInterface {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A worker thread could not be started.
    #[error("start a worker: {0}")]
    Worker(io::Error),
    /// A tunnel socket could not be opened.
    #[error("open the underlay socket {what} on {address}: {source}")]
    Underlay {
        /// Which one.
        what: String,
        /// The tunnel source.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The interface of a port does not exist, here and now.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// The port.
        port: PortId,
        /// Its interface.
        interface: String,
    },
    /// The interface of a port exists but cannot be served.
    #[error("open port {port} on {interface}: {source} (this needs CAP_NET_RAW and CAP_NET_ADMIN)")]
    OpenPort {
        /// The port.
        port: PortId,
        /// Its interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The dataplane is stopping.
    #[error("the dataplane has stopped")]
    Stopped,
}
