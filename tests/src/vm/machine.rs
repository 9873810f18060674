//! A namespace in a machine's place: its `eth0` is the far end of a veth whose near end stands for the tap. Clients of
//! Debian get it its addresses, as they would inside.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vrouter_types::MacAddr;

use crate::lab::Lab;
use crate::netns::Namespace;
use crate::node::Node;
use crate::process::{run, run_ok};

/// What Debian's own `/etc/udhcpc/default.script` does, but for the host's files.
const SCRIPT: &str = r#"#!/bin/busybox sh
set >"@OUT@.$1"
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
/sbin/ip -4 address flush dev $interface
[ -z "$mtu" ] || /sbin/ip link set $interface mtu $mtu
/sbin/ip address add $ip/$mask dev $interface
if [ -n "$staticroutes" ]; then
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        via="via $2"
        [ $2 != 0.0.0.0 ] || via=
        /sbin/ip -4 route replace $1 $via dev $interface
        shift 2
    done
else
    for address in $router; do /sbin/ip -4 route replace default via $address dev $interface; done
fi
"#;

/// The script of busybox's client; what it is told goes to files of this name with the event behind it.
pub fn udhcpc_script(out: &str) -> String {
    SCRIPT.replace("@OUT@", out)
}

/// What the script has written.
pub fn read_lease(text: &str) -> Lease {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

/// What a DHCP client was told, by udhcpc's names.
pub type Lease = BTreeMap<String, String>;

/// A machine's stand-in.
pub struct Machine {
    namespace: Namespace,
    directory: PathBuf,
    name: String,
    tap: String,
    mac: MacAddr,
}

impl Machine {
    /// Makes it, with its tap on a node.
    pub fn plug(lab: &Lab, node: &Node, name: &str, mac: MacAddr) -> Machine {
        let namespace = lab.namespace(name);
        let tap = format!("tap{name}");
        node.namespace().add_veth(&tap, &namespace, "eth0");
        namespace.netlink(|netlink| {
            netlink.set_up("eth0", false)?;
            netlink.set_mac("eth0", mac)
        });
        namespace.set_sysctl("net/ipv6/conf/eth0/accept_dad", "0");
        namespace.netlink(|netlink| netlink.set_up("eth0", true));
        Machine { namespace, directory: lab.directory().to_owned(), name: name.to_owned(), tap, mac }
    }

    /// Where it lives.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of its tap on the node.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// Its MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Runs `vrouterctl port add` for it, with these further words.
    pub fn add_port(&self, node: &Node, words: &[&str]) -> String {
        let mac = self.mac.to_string();
        let common = ["port", "add", "--interface", &self.tap, "--mac", &mac];
        node.ctl(&[&common, words].concat())
    }

    /// Gets its IPv4 address from busybox's client, with these further options, and answers what it was told.
    ///
    /// # Panics
    /// When it gets none.
    pub fn udhcpc(&self, options: &[&str]) -> Lease {
        let output = self.try_udhcpc(options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "udhcpc on {}: {said}", self.name);
        self.told("bound")
    }

    /// The same, whatever comes of it.
    pub fn try_udhcpc(&self, options: &[&str]) -> Output {
        let script = self.script("udhcpc", &udhcpc_script(&self.path("lease").to_string_lossy()));
        let mut command = Command::new("/bin/busybox");
        command.args(["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s"]).arg(script);
        command.args(["-O", "staticroutes", "-O", "mtu", "-O", "search", "-O", "hostname"]).args(options);
        run(&self.namespace, &mut command)
    }

    /// What the client said of an event, as `bound` or `nak`.
    pub fn told(&self, event: &str) -> Lease {
        let path = self.path("lease").with_extension(event);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        read_lease(&text)
    }

    /// Runs ISC's client once, for IPv4 (`-4`) or IPv6 (`-6`), and answers the lease that it wrote. It sets the
    /// address itself.
    pub fn dhclient(&self, family: &str) -> String {
        let (leases, pid) = (self.path(&format!("leases{family}")), self.path("dhclient.pid"));
        // The lease is on disk before the address is set.
        let done = self.path(&format!("done{family}"));
        let script = format!(
            "#!/bin/sh\n[ -z \"$new_ip_address\" ] || ip address replace $new_ip_address/$new_subnet_mask dev $interface\n\
             [ -z \"$new_ip6_address\" ] || ip -6 address replace $new_ip6_address/128 dev $interface nodad\n\
             [ -z \"$new_ip_address$new_ip6_address\" ] || touch {}\nexit 0\n",
            done.display()
        );
        let script = self.script("dhclient", &script);
        let mut command = Command::new("/usr/sbin/dhclient");
        command.args([family, "-1", "-d", "--no-pid", "-cf", "/dev/null", "-sf"]).arg(script);
        command.arg("-lf").arg(&leases).arg("-pf").arg(pid).arg("eth0");
        // In the foreground it renews for ever; with a lease it is done.
        let mut daemon = crate::process::Daemon::start(
            &self.namespace,
            &format!("dhclient {family} of {}", self.name),
            command,
            &self.path("dhclient.log"),
        );
        let lease = crate::wait::wait_for("a lease", crate::wait::PATIENCE, || {
            let text = fs::read_to_string(&leases).unwrap_or_default();
            let whole = text.trim_end().ends_with('}') && done.exists();
            if whole { Ok(text) } else { Err(format!("{}{text}", daemon.log())) }
        });
        daemon.kill();
        lease
    }

    /// Fetches a URL, with these further options of curl; the body and behind it, on a line of its own, the status.
    pub fn curl(&self, url: &str, options: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"]);
        run_ok(&self.namespace, command.args(options).arg(url))
    }

    /// Asks a name server for a name, and answers what busybox's nslookup printed.
    pub fn nslookup(&self, name: &str, server: IpAddr) -> Output {
        run(&self.namespace, Command::new("/bin/busybox").args(["nslookup", name, &server.to_string()]))
    }

    /// Its routes, as `ip` prints them.
    pub fn routes(&self, family: &str) -> String {
        run_ok(&self.namespace, Command::new("ip").args([family, "route"]))
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let all = self.namespace.netlink(|netlink| netlink.addresses());
        all.into_iter().filter(|(link, _)| link == "eth0").map(|(_, address)| address).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}-{name}", self.name))
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let written = write_script(&path, text);
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}

fn write_script(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
