//! The tables of the configuration file, one function each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use vrouter_types::{Asn, Encap};

use super::document::{ConfigErrors, Document, Table};
use super::vrf;
use super::{
    BgpConfig, Config, DataplaneConfig, FamilyName, NeighborConfig, Password, UnderlayConfig, UnderlaySource,
};

const DEFAULT_STATE_DIR: &str = "/var/lib/vrouter";
const DEFAULT_HOLD_TIME: u16 = 90;
const BGP_PORT: u16 = 179;
const DEFAULT_ENTROPY_PORTS: u16 = 16;
const MAX_NAME: usize = 64;
/// The kernel's TCP_MD5SIG_MAXKEYLEN.
const MAX_PASSWORD: usize = 80;

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
    let document = Document::new(text);
    let root = document.parse();
    let top = Table::new(&document, root.get_ref(), "the file", 0..0);
    let agent = agent(&top);
    let underlay = underlay(&top);
    let bgp = bgp(&top, &underlay);
    let dataplane = dataplane(&top);
    let vrfs = vrf::vrfs(&top, bgp.as_ref().ok().map(|bgp| bgp.router_id));
    top.finish();
    document.finish(file)?;
    // Where a section could not be read, its error was noted, and finish() has returned it.
    let bgp = bgp.unwrap_or_else(|none| none);
    let (name, socket, state_dir, metrics) = agent;
    Ok(Config { name, socket, state_dir, metrics, underlay, bgp, dataplane, vrfs })
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

/// `Err`: the section is broken, and here is something to go on with.
fn bgp(top: &Table<'_, '_>, underlay: &UnderlayConfig) -> Result<BgpConfig, BgpConfig> {
    let from_underlay = match underlay.source {
        Some(UnderlaySource::Address(IpAddr::V4(address))) => Some(address),
        _ => None,
    };
    let mut bgp = BgpConfig {
        asn: None,
        router_id: from_underlay.unwrap_or(Ipv4Addr::UNSPECIFIED),
        hold_time: DEFAULT_HOLD_TIME,
        listen: None,
        neighbors: Vec::new(),
    };
    let Some(table) = top.table("bgp", "[bgp]") else { return Ok(bgp) };
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
    let mut seen: Vec<(IpAddr, usize)> = Vec::new();
    for neighbor in table.tables("neighbor", "[[bgp.neighbor]]") {
        bgp.neighbors.extend(self::neighbor(neighbor, bgp.asn, underlay, &mut seen));
    }
    let broken = table.is_broken();
    table.finish();
    if broken { Err(bgp) } else { Ok(bgp) }
}

fn neighbor(
    table: Table<'_, '_>,
    our_asn: Option<Asn>,
    underlay: &UnderlayConfig,
    seen: &mut Vec<(IpAddr, usize)>,
) -> Option<NeighborConfig> {
    let address = address(&table, "address");
    let asn = asn(&table).or(our_asn);
    let port = table.number("port", 1..=65535).and_then(|port| u16::try_from(port).ok()).unwrap_or(BGP_PORT);
    let password = table.text("password-file").and_then(|file| password(&table, file));
    let hold_time = hold_time(&table);
    let passive = table.boolean("passive").unwrap_or(false);
    let local_address = self::address(&table, "local-address");
    let description = table.text("description").map(str::to_owned);
    let default_encapsulation = table.parsed::<Encap>("default-encapsulation");
    let families = table.parsed_list::<FamilyName>("families");
    let table_span = table.span();
    match address {
        None if !table.is_broken() => {
            table
                .error(table_span, "[[bgp.neighbor]] needs address, like address = \"192.0.2.1\"".to_owned());
        }
        None => {}
        Some(address) => {
            if let Some((_, line)) = seen.iter().find(|(other, _)| *other == address) {
                let message =
                    format!("neighbor {address} is configured twice, first in line {line}; keep one of them");
                table.error(table.span_of("address"), message);
            }
            seen.push((address, table.line_of("address")));
            if local_address.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
                let message =
                    format!("local-address must be of the same family as the neighbor's, {address}");
                table.error(table.span_of("local-address"), message);
            }
        }
    }
    if let Some(encap) = default_encapsulation
        && !underlay.encapsulations.contains(&encap)
    {
        let message = format!(
            "default-encapsulation {encap} is not among the encapsulations of [underlay]; add it there"
        );
        table.error(table.span_of("default-encapsulation"), message);
    }
    if families.as_ref().is_some_and(Vec::is_empty) && !table.is_broken() {
        let message =
            "families must name at least one of \"vpnv4\", \"vpnv6\", \"rtc\"; leave it out for all";
        table.error(table.span_of("families"), message.to_owned());
    }
    let families = match families {
        Some(families) => families.into_iter().map(Spanned::into_inner).collect(),
        None => vec![FamilyName::Vpnv4, FamilyName::Vpnv6, FamilyName::Rtc],
    };
    table.finish();
    let (address, asn) = (address?, asn?);
    Some(NeighborConfig {
        address,
        port,
        asn,
        password,
        hold_time,
        passive,
        local_address,
        description,
        default_encapsulation,
        families,
    })
}

fn dataplane(top: &Table<'_, '_>) -> DataplaneConfig {
    let mut dataplane = DataplaneConfig { workers: None, entropy_ports: DEFAULT_ENTROPY_PORTS };
    let Some(table) = top.table("dataplane", "[dataplane]") else { return dataplane };
    dataplane.workers = table.number("workers", 1..=64).and_then(|workers| usize::try_from(workers).ok());
    if let Some(ports) = table.number("entropy-ports", 1..=256) {
        dataplane.entropy_ports = u16::try_from(ports).unwrap_or(DEFAULT_ENTROPY_PORTS);
    }
    table.finish();
    dataplane
}

fn asn(table: &Table<'_, '_>) -> Option<Asn> {
    table.number("asn", 1..=u32::MAX - 1).map(Asn)
}

/// RFC 4271 §4.2: zero, or at least three seconds.
fn hold_time(table: &Table<'_, '_>) -> Option<u16> {
    let seconds = table.number("hold-time", 0..=65535)?;
    if matches!(seconds, 1 | 2) {
        let message = format!("hold-time {seconds} must be 0 (none) or at least 3 seconds");
        table.error(table.span_of("hold-time"), message);
    }
    u16::try_from(seconds).ok()
}

fn address(table: &Table<'_, '_>, key: &'static str) -> Option<IpAddr> {
    let Spelled(address) = table.parsed::<Spelled<IpAddr>>(key)?;
    if address.is_unspecified() || address.is_multicast() {
        table.error(table.span_of(key), format!("{key} {address} must be an address of one host"));
        return None;
    }
    Some(address)
}

fn socket_address(table: &Table<'_, '_>, key: &'static str, like: &str) -> Option<SocketAddr> {
    let text = table.text(key)?;
    let address = text.parse();
    if address.is_err() {
        table.error(table.span_of(key), format!("{key}: {text:?} is no address with a port (like {like:?})"));
    }
    address.ok()
}

fn password(table: &Table<'_, '_>, file: &str) -> Option<Password> {
    let refuse = |message: String| table.error(table.span_of("password-file"), message);
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            refuse(format!("password-file {file}: {error}"));
            return None;
        }
    };
    let key = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    if key.is_empty() || key.len() > MAX_PASSWORD {
        refuse(format!("password-file {file}: its first line must hold 1 to {MAX_PASSWORD} octets"));
        return None;
    }
    Some(Password(key.to_vec()))
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

impl FromStr for FamilyName {
    type Err = String;

    fn from_str(text: &str) -> Result<FamilyName, String> {
        match text {
            "vpnv4" => Ok(FamilyName::Vpnv4),
            "vpnv6" => Ok(FamilyName::Vpnv6),
            "rtc" => Ok(FamilyName::Rtc),
            _ => Err(format!("{text:?} is no address family here (want \"vpnv4\", \"vpnv6\" or \"rtc\")")),
        }
    }
}
