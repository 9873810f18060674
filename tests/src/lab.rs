//! The place where everything stands: a wide area network (one bridge in a namespace of its own), sites on it, and a
//! scratch directory.
//!
//! ```text
//!   site gw-1 (namespace)        wan (namespace)             site gw-2
//!   ┌────────────────────┐   ┌──────────────────┐   ┌────────────────────┐
//!   │ eth0 192.0.2.11/24 ├───┤ gw-1 ─ br0 ─ gw-2├───┤ eth0 192.0.2.12/24 │
//!   │ 2001:db8::11/64    │   │       tap-edge … │   │ 2001:db8::12/64    │
//!   └────────────────────┘   └──────────────────┘   └────────────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::netns::{self, Namespace};
use crate::sys;

/// The bridge inside the `wan` namespace.
const BRIDGE: &str = "br0";

/// A lab. Everything it made is gone when it and what it handed out are dropped, after a panic too.
pub struct Lab {
    wan: Namespace,
    directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Names of namespaces are unique among processes only, so the labs of one process take turns.
static TURN: Mutex<()> = Mutex::new(());

impl Lab {
    /// Makes an empty lab, after sweeping what labs of dead processes left. Waits for another lab of this process to be
    /// dropped.
    ///
    /// # Panics
    /// When not run as root, or when the kernel refuses.
    pub fn new() -> Lab {
        assert!(sys::is_root(), "this test makes network namespaces and needs root: run it with sudo");
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        netns::sweep();
        let directory = tempfile::Builder::new().prefix(&format!("vr-{}-", std::process::id())).tempdir();
        let directory = directory.unwrap_or_else(|error| panic!("make a scratch directory: {error}"));
        let wan = Namespace::new("wan");
        wan.add_bridge(BRIDGE);
        Lab { wan, directory, _turn: turn }
    }

    /// The scratch directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The namespace of the wide area network, whose links have the names of the sites.
    pub fn wan(&self) -> &Namespace {
        &self.wan
    }

    /// A namespace that is on no network.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(name)
    }

    /// A namespace on the wide area network: `eth0` with the addresses of this host number.
    pub fn site(&self, name: &str, host: u8) -> Namespace {
        let site = Namespace::new(name);
        // The kernel takes its time to remove what a site of the same name had.
        if self.wan.has_link(name) {
            self.wan.netlink(|netlink| netlink.delete_link(name));
        }
        site.add_veth("eth0", &self.wan, name);
        self.wan.netlink(|netlink| netlink.set_bridge(name, BRIDGE));
        site.add_address("eth0", underlay_v4(host).into(), 24);
        site.add_address("eth0", underlay_v6(host).into(), 64);
        site
    }

    /// A tap on the wide area network, for a virtual machine. It is a link of [`Lab::wan`].
    pub fn wan_tap(&self, name: &str) {
        self.wan.add_tap(name);
        self.wan.netlink(|netlink| netlink.set_bridge(name, BRIDGE));
    }

    /// Pulls a site's cable (`false`) or puts it back.
    pub fn set_link(&self, site: &str, up: bool) {
        self.wan.netlink(|netlink| netlink.set_up(site, up));
    }

    /// Sets the MTU of a site's uplink, both ends.
    pub fn set_uplink_mtu(&self, site: &Namespace, name: &str, mtu: u32) {
        self.wan.netlink(|netlink| netlink.set_mtu(name, mtu));
        site.netlink(|netlink| netlink.set_mtu("eth0", mtu));
    }
}

impl Default for Lab {
    fn default() -> Lab {
        Lab::new()
    }
}

/// The underlay address of a host number: `192.0.2.<host>`.
pub const fn underlay_v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

/// The IPv6 underlay address of a host number: `2001:db8::<host>`, the number in decimal digits.
pub fn underlay_v6(host: u8) -> Ipv6Addr {
    let text = format!("2001:db8::{host}");
    text.parse().unwrap_or(Ipv6Addr::LOCALHOST)
}

/// Both underlay addresses of a host number.
pub fn underlay(host: u8) -> [IpAddr; 2] {
    [underlay_v4(host).into(), underlay_v6(host).into()]
}
