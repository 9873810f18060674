//! GoBGP: a route reflector for VPNv4, VPNv6 and RT-constraint routes, and a speaker that announces what a test tells
//! it to.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, underlay_v4};
use crate::netns::Namespace;
use crate::process::{Daemon, command, run, run_ok};
use crate::wait::{PATIENCE, wait_for};

/// A running gobgpd.
pub struct GoBgp {
    namespace: Namespace,
    address: IpAddr,
    daemon: Daemon,
}

/// One session of gobgpd.
#[derive(Debug, Clone)]
pub struct GoBgpPeer {
    /// The neighbor.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: u32,
    /// Whether it is a reflection client.
    pub client: bool,
    /// Families, as GoBGP names them.
    pub families: Vec<&'static str>,
}

impl GoBgpPeer {
    /// A reflection client with VPNv4, VPNv6 and RT constraint.
    pub fn client(address: IpAddr, asn: u32) -> GoBgpPeer {
        let families = vec!["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "rtc"];
        GoBgpPeer { address, asn, client: true, families }
    }

    /// The same without RT constraint.
    pub fn client_without_rtc(address: IpAddr, asn: u32) -> GoBgpPeer {
        let mut peer = GoBgpPeer::client(address, asn);
        peer.families.retain(|family| *family != "rtc");
        peer
    }
}

impl GoBgp {
    /// Starts gobgpd on a site of its own.
    ///
    /// # Panics
    /// When it does not answer, with its log.
    pub fn start(lab: &Lab, name: &str, host: u8, asn: u32, peers: &[GoBgpPeer]) -> GoBgp {
        let namespace = lab.site(name, host);
        let address: IpAddr = underlay_v4(host).into();
        let path = lab.path(&format!("{name}.toml"));
        let written = std::fs::write(&path, configuration(asn, address, peers));
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        let mut gobgpd = Command::new("gobgpd");
        gobgpd.arg("-f").arg(path).args(["--api-hosts", "127.0.0.1:50051", "-l", "info", "-p"]);
        let daemon = Daemon::start(&namespace, "gobgpd", gobgpd, &lab.path(&format!("{name}.log")));
        let gobgp = GoBgp { namespace, address, daemon };
        wait_for("gobgpd to answer", PATIENCE, || {
            let output = run(&gobgp.namespace, &mut command("gobgp", &["global"]));
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        });
        gobgp
    }

    /// Where it listens.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Runs `gobgp` and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its words.
    pub fn cli(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        run_ok(&self.namespace, &mut command("gobgp", &words))
    }

    /// Runs `gobgp -j`.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub fn cli_json(&self, words: &str) -> Value {
        let text = self.cli(&format!("{words} -j"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("gobgp {words}: {error}\n{text}"))
    }

    /// Announces a route: everything after the family in `gobgp global rib add`, as
    /// `10.1.0.0/24 label 10 rd 65000:1 rt 65000:2 nexthop 192.0.2.1`. `family` is `vpnv4` or `vpnv6`.
    pub fn announce(&self, family: &str, route: &str) {
        self.cli(&format!("global rib -a {family} add {route}"));
    }

    /// Takes back what [`GoBgp::announce`] announced.
    pub fn withdraw(&self, family: &str, route: &str) {
        self.cli(&format!("global rib -a {family} del {route}"));
    }

    /// The paths it has for a VPN prefix, as `RD:prefix`; none if it has none.
    pub fn paths(&self, family: &str, prefix: &str) -> Vec<Value> {
        let rib = self.cli_json(&format!("global rib -a {family}"));
        rib.get(prefix).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// Waits until the session with a neighbor is established.
    pub fn wait_established(&self, neighbor: IpAddr) {
        wait_for(&format!("gobgpd's session with {neighbor}"), PATIENCE, || {
            let shown = self.cli(&format!("neighbor {neighbor}"));
            if shown.contains("BGP state = ESTABLISHED") { Ok(()) } else { Err(shown) }
        });
    }
}

fn configuration(asn: u32, address: IpAddr, peers: &[GoBgpPeer]) -> String {
    let mut text = format!("[global.config]\n as = {asn}\n router-id = \"{address}\"\n port = 179\n");
    for peer in peers {
        let GoBgpPeer { address: neighbor, asn, client, families } = peer;
        let _ = write!(
            text,
            "[[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{neighbor}\"\n  peer-as = {asn}\n \
             [neighbors.timers.config]\n  connect-retry = 1\n  hold-time = 9\n  keepalive-interval = 3\n \
             idle-hold-time-after-reset = 1\n"
        );
        if *client {
            let _ = write!(
                text,
                " [neighbors.route-reflector.config]\n  route-reflector-client = true\n  \
                 route-reflector-cluster-id = \"{address}\"\n"
            );
        }
        for family in families {
            let _ = write!(
                text,
                " [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"{family}\"\n"
            );
        }
    }
    text
}
