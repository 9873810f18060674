//! FRR's bgpd as a route reflector for VPNv4 and VPNv6 routes: alone, without zebra. It knows no RT constraint.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, underlay_v4};
use crate::netns::Namespace;
use crate::process::{Daemon, command, run, run_ok};
use crate::wait::{PATIENCE, wait_for};

const BGPD: &str = "/usr/lib/frr/bgpd";

/// A running bgpd.
pub struct Frr {
    namespace: Namespace,
    directory: PathBuf,
    address: IpAddr,
    daemon: Option<Daemon>,
}

impl Frr {
    /// Starts bgpd on a site of its own, as reflector of these clients.
    ///
    /// # Panics
    /// When it does not answer, with its log.
    pub fn start(lab: &Lab, name: &str, host: u8, asn: u32, clients: &[IpAddr]) -> Frr {
        Frr::start_with(lab, name, host, asn, clients, "")
    }

    /// Like [`Frr::start`], with further lines for `router bgp`, as ` neighbor 192.0.2.11 password secret`.
    ///
    /// # Panics
    /// When it does not answer, with its log.
    pub fn start_with(lab: &Lab, name: &str, host: u8, asn: u32, clients: &[IpAddr], lines: &str) -> Frr {
        assert!(Path::new(BGPD).exists(), "no {BGPD}: apt-get install frr");
        let (namespace, directory) = (lab.site(name, host), lab.path(name));
        let address = underlay_v4(host).into();
        let made = std::fs::create_dir_all(&directory);
        made.unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
        let mut frr = Frr { namespace, directory, address, daemon: None };
        let written =
            std::fs::write(frr.directory.join("bgpd.conf"), reflector(asn, address, clients, lines));
        written.unwrap_or_else(|error| panic!("write bgpd.conf: {error}"));
        frr.start_again();
        frr
    }

    /// Starts bgpd after [`Frr::kill`].
    ///
    /// # Panics
    /// When it does not answer, with its log.
    pub fn start_again(&mut self) {
        let mut bgpd = Command::new(BGPD);
        let directory = &self.directory;
        bgpd.arg("-f").arg(directory.join("bgpd.conf")).args(["-Z", "-S", "-P", "0"]);
        bgpd.arg("--vty_socket").arg(directory).arg("-i").arg(directory.join("pid"));
        bgpd.arg("-z").arg(directory.join("zebra.api")).args(["--log", "stdout"]);
        self.daemon = Some(Daemon::start(&self.namespace, "bgpd", bgpd, &directory.join("bgpd.log")));
        wait_for("bgpd to answer", PATIENCE, || {
            let output = run(&self.namespace, &mut self.vtysh("show version"));
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }

    /// Ends bgpd as a crash would.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Where it listens.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a command in its shell.
    ///
    /// # Panics
    /// When the shell fails.
    pub fn show(&self, words: &str) -> String {
        run_ok(&self.namespace, &mut self.vtysh(words))
    }

    /// Runs a command that prints JSON in its shell.
    ///
    /// # Panics
    /// When the shell fails or prints none.
    pub fn show_json(&self, words: &str) -> Value {
        let text = self.show(&format!("{words} json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words} json: {error}\n{text}"))
    }

    /// The paths it has for a VPN prefix under a route distinguisher, as its JSON shows them; none if it has none.
    /// `family` is `ipv4` or `ipv6`.
    pub fn vpn_paths(&self, family: &str, rd: &str, prefix: &str) -> Vec<Value> {
        let detail = self.show_json(&format!("show bgp {family} vpn rd {rd} {prefix}"));
        let by_rd = detail.get(rd).unwrap_or(&detail);
        by_rd["paths"].as_array().cloned().unwrap_or_default()
    }

    fn vtysh(&self, words: &str) -> Command {
        let mut vtysh = command("vtysh", &["-d", "bgpd", "-c", words]);
        vtysh.arg("--vty_socket").arg(&self.directory);
        vtysh
    }
}

fn reflector(asn: u32, address: IpAddr, clients: &[IpAddr], lines: &str) -> String {
    let mut text = format!(
        "log stdout\nrouter bgp {asn}\n bgp router-id {address}\n no bgp default ipv4-unicast\n \
         bgp cluster-id {address}\n"
    );
    for client in clients {
        let _ = writeln!(text, " neighbor {client} remote-as {asn}");
        let _ = writeln!(text, " neighbor {client} timers 3 9");
        let _ = writeln!(text, " neighbor {client} timers connect 1");
    }
    let _ = writeln!(text, "{lines}");
    for family in ["ipv4 vpn", "ipv6 vpn"] {
        let _ = writeln!(text, " address-family {family}");
        for client in clients {
            let _ = writeln!(text, "  neighbor {client} activate");
            let _ = writeln!(text, "  neighbor {client} route-reflector-client");
        }
        let _ = writeln!(text, " exit-address-family");
    }
    text
}
