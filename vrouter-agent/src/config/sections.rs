//! The tables of the configuration file, one function each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use vrouter_types::{Asn, Encap};

use super::document::{ConfigErrors, Document, Table};
use super::neighbor::{self, PeerAddress};
use super::{BgpConfig, Config, DataplaneConfig, FlowConfig, UnderlayConfig, UnderlaySource, vrf};

const DEFAULT_STATE_DIR: &str = "/var/lib/vrouter";
const DEFAULT_HOLD_TIME: u16 = 90;
const DEFAULT_ENTROPY_PORTS: u16 = 16;
const DEFAULT_RESTART_TIME: u16 = 120;
const DEFAULT_STALE_TIME: u32 = 86_400;
/// Received paths that are kept at most: some 200 MB at worst, far beyond what any gateway imports.
const DEFAULT_MAX_PATHS: u32 = 1_000_000;
const MAX_NAME: usize = 64;

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
    let document = Document::new(text);
    let root = document.parse();
    let top = Table::new(&document, root.get_ref(), "the file", 0..0);
    let agent = agent(&top);
    let underlay = underlay(&top);
    let (bgp, router_id) = bgp(&top, &underlay);
    let dataplane = dataplane(&top);
    let (openstack, vm) = super::openstack::openstack(&top);
    let vrfs = vrf::vrfs(&top, router_id);
    top.finish();
    document.finish(file)?;
    let (name, socket, state_dir, metrics) = agent;
    Ok(Config { name, socket, state_dir, metrics, underlay, bgp, dataplane, openstack, vm, vrfs })
}

fn agent(top: &Table<'_, '_>) -> (String, PathBuf, PathBuf, Option<SocketAddr>) {
    let mut agent =
        (host_name(), PathBuf::from(agent_api::DEFAULT_SOCKET), PathBuf::from(DEFAULT_STATE_DIR), None);
    let Some(table) = top.table("agent", "[agent]") else { return agent };
    if let Some(name) = table.text("name") {
        check_name(&table, "name", name);
        agent.0 = name.to_owned();
    }
    for (key, path) in [("socket", &mut agent.1), ("state-dir", &mut agent.2)] {
        let Some(text) = table.text(key) else { continue };
        if !text.starts_with('/') {
            table.error(table.span_of(key), format!("{key} {text:?} must be a path that begins with /"));
        }
        *path = PathBuf::from(text);
    }
    agent.3 = socket_address(&table, "metrics", "127.0.0.1:9469");
    table.finish();
    agent
}

fn underlay(top: &Table<'_, '_>) -> UnderlayConfig {
    let mut underlay =
        UnderlayConfig { source: None, encapsulations: Encap::ALL.to_vec(), accept_from: Vec::new() };
    let Some(table) = top.table("underlay", "[underlay]") else { return underlay };
    let address = address(&table, "address");
    let interface = table.text("interface");
    if let Some(name) = interface
        && !is_interface_name(name)
    {
        table.error(table.span_of("interface"), format!("{name:?} is no interface name (1 to 15 letters)"));
    }
    if table.span_of("address") != table.span() && table.span_of("interface") != table.span() {
        let message = "[underlay] names both an address and an interface; keep the one that stays the same";
        table.error(table.span_of("interface"), message.to_owned());
    }
    underlay.source = match (address, interface) {
        (Some(address), _) => Some(UnderlaySource::Address(address)),
        (None, interface) => interface.map(|name| UnderlaySource::Interface(name.to_owned())),
    };
    if let Some(encapsulations) = table.parsed_list::<Encap>("encapsulations") {
        let mut order: Vec<Encap> = Vec::new();
        for encap in &encapsulations {
            if order.contains(encap.get_ref()) {
                table.error(
                    encap.span(),
                    format!("{:?} stands twice in encapsulations", encap.get_ref().to_string()),
                );
            }
            order.push(*encap.get_ref());
        }
        if order.is_empty() && !table.is_broken() {
            let message = "encapsulations must name at least one of \"mpls-over-udp\" and \"mpls-over-gre\"";
            table.error(table.span_of("encapsulations"), message.to_owned());
        }
        underlay.encapsulations = order;
    }
    underlay.accept_from =
        vrf::prefixes(&table, "accept-from").into_iter().map(Spanned::into_inner).collect();
    table.finish();
    underlay
}

/// The section, and the router ID where that could be read: what depends on it is not worth a second message.
fn bgp(top: &Table<'_, '_>, underlay: &UnderlayConfig) -> (BgpConfig, Option<Ipv4Addr>) {
    let from_underlay = match underlay.source {
        Some(UnderlaySource::Address(IpAddr::V4(address))) => Some(address),
        _ => None,
    };
    let mut bgp = BgpConfig {
        asn: None,
        router_id: from_underlay.unwrap_or(Ipv4Addr::UNSPECIFIED),
        cluster_id: from_underlay.unwrap_or(Ipv4Addr::UNSPECIFIED),
        graceful_restart: true,
        restart_time: DEFAULT_RESTART_TIME,
        long_lived_stale_time: DEFAULT_STALE_TIME,
        max_paths: DEFAULT_MAX_PATHS,
        hold_time: DEFAULT_HOLD_TIME,
        listen: None,
        neighbors: Vec::new(),
    };
    let Some(table) = top.table("bgp", "[bgp]") else {
        return (bgp, from_underlay.or(Some(Ipv4Addr::UNSPECIFIED)));
    };
    bgp.asn = asn(&table);
    if bgp.asn.is_none() && !table.is_broken() {
        table.error(table.span(), "[bgp] needs asn, this node's AS number, like asn = 64512".to_owned());
    }
    match (table.parsed::<Spelled<Ipv4Addr>>("router-id"), from_underlay) {
        (Some(Spelled(id)), _) if id.is_unspecified() || id.is_multicast() => {
            table.error(table.span_of("router-id"), format!("router-id {id} must be an address of one host"));
        }
        (Some(Spelled(id)), _) => bgp.router_id = id,
        (None, None) if table.span_of("router-id") == table.span() => {
            let message = "[bgp] needs router-id, like router-id = \"192.0.2.11\", where the underlay is no IPv4 \
                           address: a node's BGP identity must not change with its uplink";
            table.error(table.span(), message.to_owned());
        }
        (None, _) => {}
    }
    if let Some(hold_time) = hold_time(&table) {
        bgp.hold_time = hold_time;
    }
    bgp.listen = socket_address(&table, "listen", "0.0.0.0:179");
    restart(&table, &mut bgp);
    let mut seen: Vec<(PeerAddress, usize)> = Vec::new();
    for neighbor in table.tables("neighbor", "[[bgp.neighbor]]") {
        bgp.neighbors.extend(neighbor::neighbor(&neighbor, &bgp, underlay, &mut seen));
        neighbor.finish();
    }
    let router_id = (!table.is_broken()).then_some(bgp.router_id);
    table.finish();
    (bgp, router_id)
}

/// What holds when sessions go: ours or a neighbor's (RFC 4724, RFC 9494), and how much is kept at all.
fn restart(table: &Table<'_, '_>, bgp: &mut BgpConfig) {
    bgp.cluster_id = bgp.router_id;
    match table.parsed::<Spelled<Ipv4Addr>>("cluster-id") {
        Some(Spelled(id)) if id.is_unspecified() => {
            let message = "cluster-id 0.0.0.0 names no cluster; leave it out for the router-id".to_owned();
            table.error(table.span_of("cluster-id"), message);
        }
        Some(Spelled(id)) => bgp.cluster_id = id,
        None => {}
    }
    bgp.graceful_restart = table.boolean("graceful-restart").unwrap_or(true);
    // RFC 4724 §3: twelve bits.
    if let Some(seconds) = table.number("restart-time", 1..=4095) {
        bgp.restart_time = u16::try_from(seconds).unwrap_or(DEFAULT_RESTART_TIME);
    }
    // RFC 9494 §3: twenty-four bits.
    if let Some(seconds) = table.number("long-lived-stale-time", 0..=0xff_ffff) {
        bgp.long_lived_stale_time = seconds;
    }
    if let Some(paths) = table.number("max-paths", 1..=100_000_000) {
        bgp.max_paths = paths;
    }
}

fn dataplane(top: &Table<'_, '_>) -> DataplaneConfig {
    let mut dataplane = DataplaneConfig {
        workers: None,
        entropy_ports: DEFAULT_ENTROPY_PORTS,
        without: Vec::new(),
        flows: FlowConfig::default(),
    };
    let Some(table) = top.table("dataplane", "[dataplane]") else { return dataplane };
    dataplane.workers = table.number("workers", 1..=64).and_then(|workers| usize::try_from(workers).ok());
    if let Some(ports) = table.number("entropy-ports", 1..=256) {
        dataplane.entropy_ports = u16::try_from(ports).unwrap_or(DEFAULT_ENTROPY_PORTS);
    }
    if let Some(without) = table.parsed_list::<dataplane::Offload>("without") {
        dataplane.without = without.iter().map(|offload| offload.get_ref().to_string()).collect();
    }
    dataplane.flows = super::flows::flows(&table);
    table.finish();
    dataplane
}

pub(super) fn asn(table: &Table<'_, '_>) -> Option<Asn> {
    table.number("asn", 1..=u32::MAX - 1).map(Asn)
}

/// RFC 4271 §4.2: zero, or at least three seconds.
pub(super) fn hold_time(table: &Table<'_, '_>) -> Option<u16> {
    let seconds = table.number("hold-time", 0..=65535)?;
    if matches!(seconds, 1 | 2) {
        let message = format!("hold-time {seconds} must be 0 (none) or at least 3 seconds");
        table.error(table.span_of("hold-time"), message);
    }
    u16::try_from(seconds).ok()
}

pub(super) fn address(table: &Table<'_, '_>, key: &'static str) -> Option<IpAddr> {
    let Spelled(address) = table.parsed::<Spelled<IpAddr>>(key)?;
    if address.is_unspecified() || address.is_multicast() {
        table.error(table.span_of(key), format!("{key} {address} must be an address of one host"));
        return None;
    }
    Some(address)
}

/// A list of addresses of single hosts, with their places.
pub(super) fn addresses(table: &Table<'_, '_>, key: &'static str) -> Vec<Spanned<IpAddr>> {
    let listed = table.parsed_list::<Spelled<IpAddr>>(key).unwrap_or_default();
    let mut addresses = Vec::new();
    for item in listed {
        let (span, address) = (item.span(), item.into_inner().0);
        if address.is_unspecified() || address.is_multicast() {
            table.error(span.clone(), format!("{key}: {address} must be an address of one host"));
        }
        addresses.push(Spanned::new(span, address));
    }
    addresses
}

fn socket_address(table: &Table<'_, '_>, key: &'static str, like: &str) -> Option<SocketAddr> {
    let text = table.text(key)?;
    let address = text.parse();
    if address.is_err() {
        table.error(table.span_of(key), format!("{key}: {text:?} is no address with a port (like {like:?})"));
    }
    address.ok()
}

pub(super) fn check_name(table: &Table<'_, '_>, key: &'static str, name: &str) {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(legal) {
        let message = format!("{key} {name:?} must be 1 to {MAX_NAME} letters, digits, '.', '_' or '-'");
        table.error(table.span_of(key), message);
    }
}

/// What the kernel takes as an interface's name.
pub(crate) fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && !matches!(name, "." | "..")
        && name.chars().all(|letter| letter.is_ascii_graphic() && !matches!(letter, '/' | ':'))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "vrouter".to_owned() } else { name.to_owned() }
}

/// Adds to the standard library's messages what was found and what is wanted.
struct Spelled<T>(T);

impl FromStr for Spelled<IpAddr> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Spelled)
            .map_err(|_| format!("{text:?} is no IP address (want one like 192.0.2.11 or 2001:db8::11)"))
    }
}

impl FromStr for Spelled<Ipv4Addr> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Spelled)
            .map_err(|_| format!("{text:?} is no IPv4 address (want one like 192.0.2.11)"))
    }
}
