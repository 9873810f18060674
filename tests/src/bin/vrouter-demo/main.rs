//! The main job, shown: sensors in pods on two gateways send readings to Graphite in the datacenter, over BGP L3VPN and
//! MPLS-over-UDP, while a second tenant with the same addresses stays apart.
//!
//! Everything is real but the distance: each site is a network namespace with its own `vrouter-agent`, the pods are made
//! through `vrouter-cni`. Nothing is needed beside what cargo fetches; nothing stays behind.

mod narrator;
mod readings;
mod scene;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use clap::Parser;
use vrouter_tests::lab::Lab;
use vrouter_tests::netns::Namespace;
use vrouter_tests::pod::Pod;
use vrouter_tests::traffic;

use narrator::Narrator;
use readings::Arrival;
use scene::{GRAPHITE4, GRAPHITE6, Sites, Tenant};

/// Readings per sensor.
const READINGS: usize = 4;

/// Shows vrouter's main job on this machine: two gateways, a datacenter, sensors and their readings.
///
/// Makes network namespaces and removes them again. Needs root and a minute.
#[derive(Parser)]
#[command(name = "vrouter-demo", after_help = "Examples:\n  cargo demo\n  cargo demo --stay")]
struct Options {
    /// Keep everything up afterwards, for a look around, until Ctrl-C
    #[arg(long)]
    stay: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !nix_is_root() {
        eprintln!("vrouter-demo: needs root, to make network namespaces. Try: sudo -E cargo demo");
        return ExitCode::from(1);
    }
    println!("Building vrouter-agent, vrouterctl and vrouter-cni, if need be ...");
    vrouter_tests::binaries::binary("vrouter-agent");
    let narrator = match Narrator::new() {
        Ok(narrator) => narrator,
        Err(error) => {
            eprintln!("vrouter-demo: cannot watch for Ctrl-C: {error}");
            return ExitCode::from(1);
        }
    };
    match play(&narrator, options.stay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nvrouter-demo: {failure}");
            ExitCode::from(1)
        }
    }
}

/// The caller's effective user, as the kernel has it: the owner of `/proc/self`.
fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn play(narrator: &Narrator, stay: bool) -> Result<(), String> {
    narrator.chapter("Three sites on one wide area network, each with its own vrouter-agent.");
    let lab = Lab::new();
    let sites = Sites::start(&lab);
    for (node, what) in sites.all() {
        narrator.say(&format!("{:5} {:12} {what}", node.name(), node.address()));
    }
    sites.wait_established();
    narrator.chapter(
        "The agents found each other: iBGP for VPNv4, VPNv6 and route-target membership, 4-byte AS.",
    );
    narrator.command(&sites.gw1, &["show", "bgp", "summary"]);

    narrator.chapter("In the datacenter: a Graphite VM for each of two tenants, with the same addresses.");
    let (sender, arrivals) = readings::arrivals();
    let mut machines = Vec::new();
    for tenant in [Tenant::SmartCity, Tenant::Parking] {
        let machine = scene::add_graphite_vm(&lab, &sites.dc, tenant, narrator);
        readings::collect(&machine, tenant, &sender).map_err(|error| format!("listen in the VM: {error}"))?;
        machines.push(machine);
    }

    narrator.chapter("On the gateways: sensor pods, wired by vrouter-cni as kubelet has it done.");
    let sensors = add_sensors(&sites, narrator);
    for (tenant, _, pod, _) in &sensors {
        let node = if pod.container().starts_with("gw-1") { &sites.gw1 } else { &sites.gw2 };
        node.wait_route(tenant.vrf(), &format!("{GRAPHITE4}/32"));
        node.wait_route(tenant.vrf(), &format!("{GRAPHITE6}/128"));
        for address in pod.addresses() {
            let length = if address.is_ipv4() { 32 } else { 128 };
            sites.dc.wait_route(tenant.vrf(), &format!("{address}/{length}"));
        }
    }

    narrator.chapter("What each side learnt.");
    narrator.command(&sites.dc, &["show", "bgp", "routes", "--family", "vpnv4"]);
    narrator.command(&sites.gw1, &["show", "routes"]);
    narrator.command(&sites.gw1, &["show", "ports"]);
    let src = sensors.first().map(|(_, _, pod, _)| pod.v4().to_string()).unwrap_or_default();
    narrator.command(&sites.gw1, &["trace", "--vrf", "smart-city", &src, &GRAPHITE4.to_string()]);

    narrator.chapter("The sensors measure; Graphite receives (plaintext protocol, TCP 2003).");
    for (tenant, name, pod, graphite) in &sensors {
        readings::sense(pod, *tenant, name, *graphite, READINGS);
    }
    let wanted = sensors.len() * READINGS;
    let mut counts = [0_usize; 2];
    let deadline = Instant::now() + Duration::from_secs(20);
    while counts.iter().sum::<usize>() < wanted && !narrator.is_interrupted() {
        match arrivals.recv_timeout(Duration::from_millis(200)) {
            Ok(arrival) => counts[usize::from(arrival.at == Tenant::Parking)] += check(&arrival)?,
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return Err(format!("{} of {wanted} readings arrived", counts.iter().sum::<usize>())),
        }
    }
    narrator.say(&format!(
        "smart-city has its {} readings, parking its {}; both at {GRAPHITE4}, none at the other's.",
        counts[0], counts[1]
    ));

    if let (Some((_, _, pod, _)), Some(machine)) = (sensors.first(), machines.first()) {
        narrator.chapter("How much goes through: one TCP stream, pod on gw-1 to the VM, three seconds.");
        let transfer = bulk(pod, machine).map_err(|error| format!("bulk transfer: {error}"))?;
        narrator.say(&format!(
            "{:.2} Gbit/s through both vRouters in user space, all ends on this machine's {} cores.",
            transfer.rate() * 8.0 / 1e9,
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        ));
        narrator.command(&sites.gw1, &["show", "tunnels"]);
    }
    if stay && !narrator.is_interrupted() {
        look_around(narrator, &sites);
    }
    narrator.chapter("Done; removing everything.");
    drop(sensors);
    Ok(())
}

type Sensor = (Tenant, &'static str, Pod, IpAddr);

fn add_sensors(sites: &Sites, narrator: &Narrator) -> Vec<Sensor> {
    let wanted = [
        (&sites.gw1, Tenant::SmartCity, "lamp-1", IpAddr::from(GRAPHITE4)),
        (&sites.gw1, Tenant::SmartCity, "lamp-2", GRAPHITE6.into()),
        (&sites.gw2, Tenant::SmartCity, "lamp-3", GRAPHITE4.into()),
        (&sites.gw1, Tenant::Parking, "lot-1", GRAPHITE4.into()),
    ];
    let mut sensors = Vec::new();
    for (node, tenant, name, graphite) in wanted {
        let pod = node.add_pod_in(name, tenant.vrf());
        let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
        narrator.say(&format!(
            "{:6} on {} in {:10} {}",
            name,
            node.name(),
            tenant.vrf(),
            addresses.join(" ")
        ));
        sensors.push((tenant, name, pod, graphite));
    }
    sensors
}

/// Prints a reading; one that arrived at the wrong tenant is the worst that can happen.
fn check(arrival: &Arrival) -> Result<usize, String> {
    let Arrival { at, from, line } = arrival;
    println!("          Graphite of {:10} <- {line}   (from {})", at.vrf(), from.ip().to_canonical());
    if line.starts_with(at.metric()) {
        Ok(1)
    } else {
        Err(format!("{line:?} arrived at {}: tenants met", at.vrf()))
    }
}

fn bulk(pod: &Pod, machine: &Namespace) -> std::io::Result<traffic::Transfer> {
    let listener = machine.run(|| TcpListener::bind((GRAPHITE4, 5001)))?;
    let sink = std::thread::spawn(move || traffic::tcp_sink(&listener, 1));
    let to = SocketAddr::new(GRAPHITE4.into(), 5001);
    pod.namespace().run(|| traffic::tcp_source(to, 1, Duration::from_secs(3)))?;
    sink.join().map_err(|_| std::io::Error::other("the sink panicked"))?
}

fn look_around(narrator: &Narrator, sites: &Sites) {
    narrator.chapter("Everything stays up until Ctrl-C. From another terminal, for example:");
    let ctl = vrouter_tests::binaries::binary("vrouterctl");
    for (node, words) in [
        (&sites.gw1, "show bgp neighbors"),
        (&sites.gw2, "show routes"),
        (&sites.dc, "--json show ports"),
        (&sites.gw1, "show drops"),
    ] {
        narrator.say(&format!("{} --socket {} {words}", ctl.display(), node.socket().display()));
    }
    narrator.say(&format!("ip netns exec {} tcpdump -ni eth0 udp port 6635", sites.gw1.namespace().name()));
    while !narrator.is_interrupted() {
        std::thread::sleep(Duration::from_millis(200));
    }
}
