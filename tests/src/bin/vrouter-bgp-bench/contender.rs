//! The speakers under test, each configured for the same thing: reflect VPNv4 routes between internal clients that
//! connect to it, log nothing, run on processor 0.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use vrouter_tests::Namespace;
use vrouter_tests::process::{Daemon, command};

use crate::recipe::ASN;

/// Where the speaker under test listens.
pub(crate) const DUT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    Vrouter,
    Bird,
    Frr,
    Gobgp,
}

impl Contender {
    pub(crate) const ALL: [Contender; 4] =
        [Contender::Vrouter, Contender::Bird, Contender::Frr, Contender::Gobgp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Vrouter => "vrouter",
            Contender::Bird => "BIRD",
            Contender::Frr => "FRR",
            Contender::Gobgp => "GoBGP",
        }
    }

    /// Whether it knows RT constraint (RFC 4684).
    pub(crate) fn knows_rtc(self) -> bool {
        matches!(self, Contender::Vrouter | Contender::Gobgp)
    }

    /// The version it names; `None`: it is not installed.
    pub(crate) fn version(self) -> Option<String> {
        let output = match self {
            Contender::Vrouter => return Some(env!("CARGO_PKG_VERSION").to_owned()),
            Contender::Bird => Command::new("bird").arg("--version").output(),
            Contender::Frr => Command::new(BGPD).arg("--version").output(),
            Contender::Gobgp => Command::new("gobgpd").arg("--version").output(),
        };
        let output = output.ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let digits = |word: &&str| word.chars().any(|letter| letter.is_ascii_digit()) && word.contains('.');
        text.split_whitespace().find(digits).map(str::to_owned)
    }

    /// Starts it in a namespace that has its address.
    pub(crate) fn start(self, netns: &Namespace, directory: &Path, setup: &Setup) -> Dut {
        fs::create_dir_all(directory).unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
        let path = |name: &str| directory.join(name).display().to_string();
        let write = |name: &str, text: String| {
            fs::write(directory.join(name), text).unwrap_or_else(|error| panic!("write {name}: {error}"));
            path(name)
        };
        let mut words = vec!["-c".to_owned(), "0".to_owned()];
        let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
        match self {
            Contender::Vrouter => {
                let own = std::env::current_exe().unwrap_or_else(|error| panic!("who am I: {error}"));
                add(&[&own.display().to_string(), "speaker"]);
                add(if setup.is_edge { &["--edge"] } else { &[] });
                add(if setup.with_rtc { &["--rtc"] } else { &[] });
                setup.clients.iter().for_each(|client| add(&[&client.to_string()]));
            }
            Contender::Bird => {
                add(&["bird", "-f", "-c", &write("bird.conf", bird(setup)), "-s", &path("bird.ctl")])
            }
            Contender::Frr => {
                add(&[
                    BGPD,
                    "-f",
                    &write("bgpd.conf", frr(setup)),
                    "-Z",
                    "-S",
                    "-l",
                    &DUT.to_string(),
                    "-P",
                    "0",
                ]);
                add(&[
                    "--vty_socket",
                    &directory.display().to_string(),
                    "-i",
                    &path("pid"),
                    "-z",
                    &path("z.api"),
                ]);
            }
            Contender::Gobgp => {
                add(&["gobgpd", "-f", &write("gobgp.toml", gobgp(setup)), "--api-hosts", "127.0.0.1:50051"]);
                add(&["-l", "error"]);
            }
        }
        let log = directory.join("log");
        let daemon = Daemon::start(netns, self.name(), command("taskset", &words), &log);
        Dut { daemon }
    }
}

/// What a speaker is set up for.
pub(crate) struct Setup {
    pub(crate) clients: Vec<Ipv4Addr>,
    pub(crate) with_rtc: bool,
    /// Ours only: import everything into VRFs instead of reflecting it.
    pub(crate) is_edge: bool,
}

/// A running speaker.
pub(crate) struct Dut {
    daemon: Daemon,
}

impl Dut {
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }

    /// Seconds of processor time so far, all threads.
    pub(crate) fn cpu(&self) -> f64 {
        let root = format!("/proc/{}", self.daemon.pid());
        // The scheduler's nanoseconds leave out threads that have ended, the ticks do not.
        let threads = fs::read_dir(format!("{root}/task")).into_iter().flatten().flatten();
        let precise = threads
            .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
            .sum::<f64>();
        let ticks = ticks(&fs::read_to_string(format!("{root}/stat")).unwrap_or_default());
        (precise / 1e9).max(ticks / 100.0 - 0.02)
    }

    /// Octets of memory now, and the most there were.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
                * 1024.0
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// User and system time of a `/proc/PID/stat` in ticks.
fn ticks(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

/// How busy others keep the machine: what was used beyond the speaker and this process.
pub(crate) struct Foreign {
    start: Instant,
    busy: f64,
    known: f64,
}

impl Foreign {
    pub(crate) fn begin(dut: &Dut) -> Foreign {
        Foreign { start: Instant::now(), busy: machine_busy(), known: own_cpu() + dut.cpu() }
    }

    /// The share of the whole machine, in percent.
    pub(crate) fn percent(&self, dut: &Dut) -> f64 {
        let used = machine_busy() - self.busy - (own_cpu() + dut.cpu() - self.known);
        let processors =
            std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64).max(2.0);
        (used / (self.start.elapsed().as_secs_f64() * processors) * 100.0).max(0.0)
    }
}

fn machine_busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|ticks| ticks.parse().ok()).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().take(8).sum::<f64>() - idle) / 100.0
}

fn own_cpu() -> f64 {
    ticks(&fs::read_to_string("/proc/self/stat").unwrap_or_default()) / 100.0
}

/// Waits, for what takes its time and shows no sign.
pub(crate) fn rest(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

fn bird(setup: &Setup) -> String {
    let mut text = format!(
        "router id {DUT};\nlog stderr {{ warning, error, fatal, bug }};\nprotocol device {{}}\nipv4 table master4;\n\
         vpn4 table vt;\n"
    );
    for (index, client) in setup.clients.iter().enumerate() {
        let _ = writeln!(
            text,
            "protocol bgp p{index} {{ local {DUT} as {ASN}; neighbor {client} as {ASN}; passive; multihop; rr client; \
             rr cluster id {DUT}; vpn4 mpls {{ table vt; import all; export all; igp table master4; }}; }}"
        );
    }
    text
}

fn frr(setup: &Setup) -> String {
    let mut text = format!(
        "router bgp {ASN}\n bgp router-id {DUT}\n no bgp default ipv4-unicast\n bgp cluster-id {DUT}\n"
    );
    for client in &setup.clients {
        let _ = writeln!(
            text,
            " neighbor {client} remote-as {ASN}\n neighbor {client} passive\n neighbor {client} update-source {DUT}\n \
             neighbor {client} timers connect 1"
        );
    }
    text.push_str(" address-family ipv4 vpn\n");
    for client in &setup.clients {
        let _ = writeln!(text, "  neighbor {client} activate\n  neighbor {client} route-reflector-client");
    }
    text.push_str(" exit-address-family\n");
    text
}

fn gobgp(setup: &Setup) -> String {
    let mut text = format!(
        "[global.config]\n as = {ASN}\n router-id = \"{DUT}\"\n local-address-list = [\"{DUT}\"]\n port = 179\n"
    );
    for client in &setup.clients {
        let _ = write!(
            text,
            "[[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{client}\"\n  peer-as = {ASN}\n \
             [neighbors.transport.config]\n  passive-mode = true\n  local-address = \"{DUT}\"\n \
             [neighbors.route-reflector.config]\n  route-reflector-client = true\n  \
             route-reflector-cluster-id = \"{DUT}\"\n"
        );
        let families: &[&str] =
            if setup.with_rtc { &["l3vpn-ipv4-unicast", "rtc"] } else { &["l3vpn-ipv4-unicast"] };
        for family in families {
            let _ = write!(
                text,
                " [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"{family}\"\n"
            );
        }
    }
    text
}

const BGPD: &str = "/usr/lib/frr/bgpd";
