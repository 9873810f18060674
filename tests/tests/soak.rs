//! Churn for as long as one likes, and nothing grows: pods come and go, routes flap, sessions are cleared, the
//! configuration is read again, everything is asked for, and the agent's memory, descriptors and threads, the host's
//! links, routes and chains stay what they were.
//!
//! `VROUTER_SOAK=60 cargo nextest run -p vrouter-tests --test soak --no-capture` does it for an hour; without, a minute.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use agent_api::{AttachPort, Client, DetachPort, PortKey, PortKind, path};
use serde_json::Value;
use vrouter_tests::agreement::wait_agreement;
use vrouter_tests::fixture::pair;
use vrouter_tests::process::{command, run};
use vrouter_tests::random::Random;
use vrouter_tests::sandbox::Sandbox;
use vrouter_tests::{Answer, Lab, Namespace, Node, PATIENCE, Probe, sys, transfer, wait_until};
use vrouter_types::{MacAddr, Prefix};

/// Pods that come and go in one round.
const GUESTS: usize = 5;
/// Routes that the neighbor announces and withdraws.
const ROUTES: u8 = 64;

/// What must not grow, in this order.
const NAMES: [&str; 8] = [
    "descriptors",
    "threads",
    "links",
    "addresses",
    "host routes",
    "nftables chains",
    "state files",
    "neighbours",
];

#[derive(Debug, Clone)]
struct Sample {
    at: Duration,
    rss_kb: u64,
    counts: [usize; NAMES.len()],
}

struct Scene {
    pods: Vec<Sandbox>,
    node: Node,
    far: Node,
    random: Random,
    _machine: Namespace,
    _lab: Lab,
}

impl Scene {
    fn new() -> Scene {
        let random = Random::seeded("soak");
        let lab = Lab::new();
        let (node, far) = pair(&lab);
        let machine = Namespace::new("machine");
        far.namespace().add_veth("tapflap", &machine, "eth0");
        let mut pods: Vec<Sandbox> =
            (0..2).map(|number| Sandbox::new(&node, &format!("stays-{number}"))).collect();
        pods.iter_mut().for_each(|pod| pod.add().unwrap());
        Scene { pods, node, far, random, _machine: machine, _lab: lab }
    }

    fn round(&mut self, number: usize) {
        let mut guests: Vec<Sandbox> =
            (0..GUESTS).map(|guest| Sandbox::new(&self.node, &format!("guest-{number}-{guest}"))).collect();
        thread::scope(|scope| {
            guests.iter_mut().for_each(|pod| {
                scope.spawn(|| pod.add().unwrap_or_else(|said| panic!("ADD: {said:?}")));
            });
        });
        self.flap_routes();
        let guest = &guests[self.random.below(GUESTS)];
        for address in guest.addresses() {
            assert_eq!(
                Probe::default().send(self.pods[0].namespace(), address),
                Answer::Reply,
                "to {address}"
            );
        }
        let to = (self.pods[1].addresses()[0], 5001).into();
        transfer(self.pods[0].namespace(), self.pods[1].namespace(), to, 1 << 20).unwrap();
        guest.check().unwrap_or_else(|said| panic!("CHECK: {said:?}"));
        self.pods[0].status().done();
        self.ask();
        match number % 8 {
            3 => sys::kill(self.node.pid(), libc::SIGHUP).unwrap(),
            5 => drop(self.node.ctl(&["clear", "bgp", &self.far.address().to_string(), "soft", "in"])),
            7 => drop(self.node.ctl(&["clear", "bgp", &self.far.address().to_string()])),
            _ => {}
        }
        thread::scope(|scope| {
            guests.iter_mut().for_each(|pod| {
                scope.spawn(|| pod.delete().unwrap_or_else(|said| panic!("DEL: {said:?}")));
            });
        });
    }

    /// A machine of the neighbor comes, with networks behind it, and goes.
    fn flap_routes(&mut self) {
        let key = PortKey { container: "tapflap".to_owned(), interface: "tapflap".to_owned() };
        let base = u8::try_from(self.random.below(200)).unwrap();
        let prefix = |number| Prefix::new([10, 90, base, number].into(), 32).unwrap();
        let request = AttachPort {
            vrf: Some("city".to_owned()),
            addresses: vec![[10, 91, 0, base].into()],
            prefixes: (0..ROUTES).map(prefix).collect(),
            ..AttachPort::new(key.clone(), PortKind::Tap, "tapflap".to_owned(), MacAddr([2, 0, 0, 0, 0, 9]))
        };
        let client = || Client::connect(self.far.socket(), Duration::from_secs(10)).unwrap();
        client().attach(&request).unwrap();
        self.node.wait_route("city", &format!("10.90.{base}.{}/32", ROUTES - 1));
        client().detach(&DetachPort { key }).unwrap();
    }

    /// Everything that can be asked.
    fn ask(&self) {
        let pages = [
            path::STATUS,
            path::PORTS,
            path::ROUTES,
            path::LABELS,
            path::VRFS,
            path::TUNNELS,
            path::DROPS,
            path::MEMORY,
            path::BGP_SUMMARY,
            path::BGP_NEIGHBORS,
            path::BGP_ROUTES,
            path::BGP_RTC,
        ];
        for page in pages {
            let client = Client::connect(self.node.socket(), Duration::from_secs(10)).unwrap();
            let answer: Value = client.with_max_reply(8 << 20).get(page).unwrap();
            assert!(answer.is_object(), "{page}");
        }
    }

    fn sample(&self, at: Duration) -> Sample {
        let proc = format!("/proc/{}", self.node.pid());
        let entries = |path: &str| fs::read_dir(path).unwrap().count();
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let host = self.node.namespace();
        let lines = |program: &str, words: &[&str]| {
            let output = run(host, &mut command(program, words));
            String::from_utf8_lossy(&output.stdout).lines().count()
        };
        let state = self.node.directory().join("state/ports");
        Sample {
            at,
            rss_kb: rss.trim().trim_end_matches(" kB").parse().unwrap(),
            counts: [
                entries(&format!("{proc}/fd")),
                entries(&format!("{proc}/task")),
                host.netlink(|netlink| netlink.links()).len(),
                host.netlink(|netlink| netlink.addresses()).len(),
                lines("ip", &["route", "show", "table", "all"]),
                lines("nft", &["list", "chains", "netdev"]),
                entries(&state.display().to_string()),
                lines("ip", &["neigh", "show", "nud", "permanent"]),
            ],
        }
    }
}

/// Kilobytes per minute, by least squares.
fn slope(samples: &[Sample]) -> f64 {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .map(|sample| (sample.at.as_secs_f64() / 60.0, f64::from(u32::try_from(sample.rss_kb).unwrap())))
        .collect();
    let count = f64::from(u32::try_from(points.len()).unwrap());
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    over / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

#[test]
fn churn_leaves_memory_descriptors_threads_and_the_hosts_tables_flat() {
    let minutes: f64 = std::env::var("VROUTER_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let mut scene = Scene::new();
    let (began, lasts) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let mut samples: Vec<Sample> = Vec::new();
    while began.elapsed() < lasts || samples.len() < 16 {
        scene.round(samples.len());
        let established = || scene.node.bgp_state(scene.far.address()) == "Established";
        wait_until("the session to be back", PATIENCE, established);
        samples.push(scene.sample(began.elapsed()));
    }
    wait_agreement("at the end", &scene.node, 11, &scene.pods, None);

    // The first rounds fill what is filled once.
    let samples = samples.split_off((samples.len() / 10).max(4));
    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    // What leaks raises the least that there is; what only comes and goes does not.
    let least = |of: &[Sample], value: &dyn Fn(&Sample) -> u64| of.iter().map(value).min().unwrap();
    println!(
        "{} rounds of {GUESTS} pods and {ROUTES} routes in {:.0} s: least of the first and of the last third",
        samples.len(),
        began.elapsed().as_secs_f64()
    );
    let mut grown = Vec::new();
    for (index, name) in NAMES.iter().enumerate() {
        let value = |sample: &Sample| u64::try_from(sample.counts[index]).unwrap();
        let (before, after) = (least(first, &value), least(last, &value));
        println!("  {name:<16} {before:>7} {after:>7}");
        if after > before {
            grown.push(format!("{name}: {before}, then {after}"));
        }
    }
    let rss = |sample: &Sample| sample.rss_kb;
    let (before, after) = (least(first, &rss), least(last, &rss));
    let growth = slope(&samples[third..]);
    println!(
        "  {:<16} {before:>7} {after:>7} kB; {growth:+.1} kB per minute over the last two thirds",
        "resident"
    );
    // Labels rest for a minute and arenas fill up; after that there is nothing to grow by.
    if after > before + before / 20 + 1024 {
        grown.push(format!("resident memory: {before} kB, then {after} kB"));
    }
    if minutes >= 10.0 && growth > 30.0 {
        grown.push(format!("resident memory: by {growth:.1} kB per minute"));
    }
    assert!(grown.is_empty(), "{grown:#?}\n{samples:#?}");
}
