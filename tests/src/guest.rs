//! Virtual machines under QEMU's own translator: Debian's kernel with a shell on its second serial line, attached to
//! taps. Boots in a few seconds. One is a VM on a hypervisor; another a datacenter's edge router with the kernel's own
//! MPLS, GRE and FOU.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vrouter_types::MacAddr;

use crate::echo::{connect_tcp, web_file};
use crate::guest_image::{DHCP_SCRIPT, Image};
use crate::lab::{Lab, underlay_v4};
use crate::netns::Namespace;
use crate::process::{Daemon, run_ok};
use crate::vm::{Lease, read_lease};
use crate::wait::wait_for;

/// How long a guest may take to boot, on a machine with better things to do.
const BOOT: Duration = Duration::from_secs(90);
const END: &str = "@@end";

/// A running virtual machine.
pub struct Guest {
    name: String,
    _qemu: Daemon,
    shell: BufReader<UnixStream>,
}

impl Guest {
    /// Boots a machine whose `eth0` is a tap of a namespace.
    ///
    /// # Panics
    /// When it does not boot, with its console.
    pub fn boot(lab: &Lab, name: &str, namespace: &Namespace, tap: &str, mac: MacAddr) -> Guest {
        let image = Image::get();
        let socket = lab.path(&format!("{name}.tty"));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "256", "-display", "none", "-nodefaults", "-no-reboot"]);
        qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
        qemu.args(["-append", "console=ttyS0 quiet panic=1 mitigations=off rdinit=/init"]);
        qemu.args(["-serial", "stdio"]);
        qemu.arg("-serial").arg(format!("unix:{},server=on,wait=off", socket.display()));
        qemu.arg("-netdev").arg(format!("tap,id=net0,ifname={tap},script=no,downscript=no"));
        qemu.arg("-device").arg(format!("virtio-net-pci,netdev=net0,mac={mac},romfile="));
        let mut daemon =
            Daemon::start(namespace, &format!("guest {name}"), qemu, &lab.path(&format!("{name}.console")));
        wait_for(&format!("guest {name} to boot"), BOOT, || {
            let console = daemon.log();
            assert!(daemon.is_running(), "guest {name} ended:\n{console}");
            if console.contains("guest ready") { Ok(()) } else { Err(console) }
        });
        let stream = wait_for("the guest's serial line", BOOT, || UnixStream::connect(&socket));
        let timed = stream.set_read_timeout(Some(Duration::from_secs(30)));
        timed.unwrap_or_else(|error| panic!("serial line of {name}: {error}"));
        Guest { name: name.to_owned(), _qemu: daemon, shell: BufReader::new(stream) }
    }

    /// Runs a line of shell inside and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&mut self, line: &str) -> String {
        match self.attempt(line) {
            Ok((0, printed)) => printed,
            Ok((status, printed)) => panic!("{}: {line}: status {status}\n{printed}", self.name),
            Err(error) => panic!("{}: {line}: {error}", self.name),
        }
    }

    /// Runs a line of shell inside and returns its status and what it printed.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn attempt(&mut self, line: &str) -> io::Result<(i32, String)> {
        writeln!(self.shell.get_mut(), "{{ {line}\n}} </dev/null 2>&1; status=$?; echo; echo {END} $status")?;
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            if self.shell.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = line.strip_prefix(END) {
                return Ok((status.trim().parse().unwrap_or(-1), printed.trim_end().to_owned()));
            }
            printed.push_str(&line);
        }
    }

    /// Gets an interface its IPv4 address by DHCP and answers what it was told.
    ///
    /// # Panics
    /// When it gets none.
    pub fn udhcpc(&mut self, interface: &str) -> Lease {
        self.run(&format!("/sbin/ip link set {interface} up"));
        let options = "-O staticroutes -O mtu -O search -O hostname";
        self.run(&format!("udhcpc -i {interface} -f -q -n -t 10 -T 2 -s {DHCP_SCRIPT} {options}"));
        read_lease(&self.run("cat /tmp/lease.bound"))
    }

    /// Gives `eth0` static addresses and default routes, as a cloud's metadata would tell it, and a web server.
    pub fn configure(&mut self, addresses: &[(IpAddr, u8)], gateways: &[IpAddr], mtu: u16) {
        self.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad");
        self.run(&format!("/sbin/ip link set eth0 mtu {mtu} up"));
        for (address, length) in addresses {
            self.run(&format!("/sbin/ip address add {address}/{length} dev eth0"));
        }
        for gateway in gateways {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            self.run(&format!("/sbin/ip {family} route add default via {gateway} dev eth0 onlink"));
        }
        self.serve_web();
    }

    /// Fetches this many megabytes of noise from the guest's web server at an address, into a file, and checks that they
    /// are the guest's.
    ///
    /// # Panics
    /// When they are not, or cannot be fetched.
    pub fn assert_download(&mut self, to: &Namespace, server: IpAddr, megabytes: u32, file: &Path) {
        self.run(&format!("dd if=/dev/urandom of=/tmp/www/noise bs=1M count={megabytes} 2>/dev/null"));
        let wanted = self.run("sha256sum </tmp/www/noise");
        let page =
            web_file(to, server, "noise").unwrap_or_else(|error| panic!("download from {server}: {error}"));
        std::fs::write(file, &page).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        assert_eq!(sha256(to, file), wanted, "{} octets from {server} differ", page.len());
    }

    /// Sends a file from a namespace to an address of the guest, and checks that it arrived.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_upload(&mut self, from: &Namespace, server: IpAddr, file: &Path) {
        let octets = std::fs::read(file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        let port = 9000;
        self.run(&format!("(nc -l -p {port} </dev/null >/tmp/upload; sync; touch /tmp/uploaded) &"));
        let mut stream = wait_for("the guest to listen", BOOT, || connect_tcp(from, (server, port).into()));
        let sent = stream.write_all(&octets).and_then(|()| stream.shutdown(std::net::Shutdown::Both));
        sent.unwrap_or_else(|error| panic!("upload to {server}: {error}"));
        wait_for("the guest to have it all", BOOT, || match self.attempt("test -e /tmp/uploaded") {
            Ok((0, _)) => Ok(()),
            other => Err(other),
        });
        let arrived = self.run("sha256sum </tmp/upload; rm /tmp/uploaded");
        assert_eq!(arrived, sha256(from, file), "{} octets to {server} differ", octets.len());
    }

    /// Serves `/tmp/www` on port 80; its front page is the guest's name.
    pub fn serve_web(&mut self) {
        let name = self.name.clone();
        self.run(&format!(
            "mkdir -p /tmp/www && echo {name} > /tmp/www/index.html && httpd -p 80 -h /tmp/www"
        ));
    }
}

/// What `sha256sum` says of a file, as it says of its standard input.
fn sha256(namespace: &Namespace, file: &Path) -> String {
    let printed = run_ok(namespace, Command::new("sha256sum").arg(file));
    format!("{}  -", printed.split_whitespace().next().unwrap_or_default())
}

/// A datacenter's edge router: a guest on the wide area network whose kernel forwards between labels and a VRF. The
/// VRF's network is a dummy interface that answers for itself.
///
/// ```text
///   wan ── eth0 ─┬─ udp1 (fou 6635) ─┐ label ┌───────────────┐
///                └─ gre1 ────────────┴──────▶│ vrf red ─ dm0 │  the VM's network
///                                            └───────────────┘
/// ```
pub struct Edge {
    guest: Guest,
    address: IpAddr,
}

/// The label that leads into the edge router's VRF.
pub const EDGE_LABEL: u32 = 100;

impl Edge {
    /// Boots it with a VRF whose network has these addresses.
    ///
    /// # Panics
    /// When it does not boot or its kernel refuses a setting.
    pub fn boot(lab: &Lab, host: u8, network: &[(IpAddr, u8)]) -> Edge {
        lab.wan_tap("edge");
        let mac = MacAddr([0x02, 0, 0, 0, 0xed, host]);
        let mut guest = Guest::boot(lab, "edge", lab.wan(), "edge", mac);
        let address: IpAddr = underlay_v4(host).into();
        for line in [
            &format!("/sbin/ip address add {address}/24 dev eth0"),
            "/sbin/ip link set eth0 up",
            "echo 1000 > /proc/sys/net/mpls/platform_labels",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
            "echo 1 > /proc/sys/net/ipv4/tcp_l3mdev_accept",
            "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done",
            "/sbin/ip link add red type vrf table 10",
            "/sbin/ip link set red up",
            "/sbin/ip link add dm0 type dummy",
            "/sbin/ip link set dm0 master red up",
            "/sbin/ip fou add port 6635 ipproto 137",
            &format!("/sbin/ip -f mpls route add {EDGE_LABEL} dev red"),
        ] {
            guest.run(line);
        }
        for (address, length) in network {
            let nodad = if address.is_ipv6() { "nodad" } else { "" };
            guest.run(&format!("/sbin/ip address add {address}/{length} dev dm0 {nodad}"));
        }
        guest.serve_web();
        Edge { guest, address }
    }

    /// Where its tunnels end.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The machine itself.
    pub fn guest(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// A tunnel of MPLS-over-UDP to another provider edge, as `udp1`.
    pub fn tunnel_udp(&mut self, remote: IpAddr) {
        let local = self.address;
        self.tunnel(
            "udp1",
            &format!(
                "type ipip mode mplsip local {local} remote {remote} ttl 64 encap fou encap-sport auto \
                 encap-dport 6635"
            ),
        );
    }

    /// A tunnel of MPLS-over-GRE to another provider edge, as `gre1`.
    pub fn tunnel_gre(&mut self, remote: IpAddr) {
        let local = self.address;
        self.tunnel("gre1", &format!("type gre local {local} remote {remote} ttl 64"));
    }

    fn tunnel(&mut self, name: &str, kind: &str) {
        self.guest.run(&format!("/sbin/ip link add {name} {kind}"));
        self.guest.run(&format!("/sbin/ip link set {name} up"));
        self.guest.run(&format!("echo 0 > /proc/sys/net/ipv4/conf/{name}/rp_filter"));
        self.guest.run(&format!("echo 1 > /proc/sys/net/mpls/conf/{name}/input"));
    }

    /// Sends what the VRF has for an address through a tunnel, with this label.
    pub fn route(&mut self, to: IpAddr, label: u32, tunnel: &str) {
        let (family, length) = if to.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
        self.guest.run(&format!(
            "/sbin/ip {family} route add {to}/{length} encap mpls {label} dev {tunnel} table 10"
        ));
    }
}
