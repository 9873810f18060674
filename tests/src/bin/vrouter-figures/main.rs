//! Figures: ours beside the kernel's, Open vSwitch's and the reference plugins' in one interleaved run, medians, ratios.
//!
//! Absolute numbers of a shared machine mean little; the ratio of two things measured within the same minute does. CPU
//! is that of the ends, the agents and the kernel's softirq threads, so that strangers on the machine do not count.

mod contender;
mod goals;
mod idle;
mod lifecycle;
mod measure;
mod openstack;
mod peers;
mod report;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Measures vRouter beside kernel VXLAN, kernel forwarding, Open vSwitch and the reference CNI plugins, and prints
/// ratios with the floors and goals of the design.
///
/// Needs root, a release build (`cargo figures`), and the Debian packages iproute2, ethtool and
/// containernetworking-plugins; rows against Open vSwitch need openvswitch-switch and are left out without it.
#[derive(Parser)]
#[command(
    name = "vrouter-figures",
    after_help = "All parts with five runs take about 20 minutes, of which `throughput` takes 18: every row is two seconds \
per contender and run.\n\nExamples:\n  cargo figures\n  cargo figures --runs 9 --only throughput --row tcp1,tcp4 \
--underlay on\n  cargo figures --only throughput --row tcp1 --beside ../old/vrouter-agent\n  cargo figures --json \
figures.json"
)]
struct Options {
    /// Interleaved runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_parser = ["size", "memory", "add", "openstack", "throughput", "idle"])]
    only: Vec<String>,
    /// Only these rows of `throughput`
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    row: Vec<String>,
    /// Only these underlays of `throughput`: `on` (offloads on), `nic` (sending offloads off, GRO on), `off` (all off),
    /// `node` (two pods of one node)
    #[arg(long, value_delimiter = ',', value_parser = ["on", "nic", "off", "node"])]
    underlay: Vec<String>,
    /// Only these contenders of `throughput`, by their names in the table
    #[arg(long, value_delimiter = ',')]
    contender: Vec<String>,
    /// Other builds of vrouter-agent (or scripts that start one), measured beside this one: `udp`, `gre` and `ours` with
    /// the file's name behind
    #[arg(long, value_delimiter = ',')]
    beside: Vec<PathBuf>,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

const ROWS: [&str; 9] = ["tcp1", "tcp4", "udp", "udp100", "udp1000", "imix", "imix100", "imix1000", "rtt"];

fn listed(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|listed| listed == name)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let wanted = |part: &str| listed(&options.only, part);
    if cfg!(debug_assertions) {
        eprintln!("vrouter-figures: a debug build: figures mean nothing. Run `cargo figures`.");
        return ExitCode::from(1);
    }
    let mut figures = report::Figures::default();
    if wanted("size") {
        lifecycle::sizes(&mut figures);
    }
    if wanted("memory") {
        lifecycle::memory(&mut figures);
    }
    if wanted("add") {
        lifecycle::add_latency(&mut figures, usize::from(options.runs) * 3);
    }
    if wanted("openstack") {
        openstack::measure(&mut figures);
    }
    if wanted("throughput") {
        throughput::compare(&mut figures, &options);
    }
    if wanted("idle") {
        idle::measure(&mut figures);
    }
    match options.json.map(|path| figures.save(&path)) {
        Some(Err(error)) => {
            eprintln!("vrouter-figures: {error}");
            ExitCode::from(1)
        }
        _ => ExitCode::SUCCESS,
    }
}
