//! `[[bgp.neighbor]]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use vrouter_types::{Encap, Prefix};

use super::document::Table;
use super::sections::{address, asn, hold_time};
use super::{BgpConfig, FamilyName, NeighborConfig, Password, UnderlayConfig, vrf};

const BGP_PORT: u16 = 179;
/// The kernel's TCP_MD5SIG_MAXKEYLEN.
const MAX_PASSWORD: usize = 80;

/// Where a neighbor's connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerAddress {
    /// One neighbor, at this address.
    One(IpAddr),
    /// Any number of neighbors that connect to us from here.
    Any(Prefix),
}

impl PeerAddress {
    fn is_ipv4(self) -> bool {
        match self {
            PeerAddress::One(address) => address.is_ipv4(),
            PeerAddress::Any(prefix) => prefix.is_ipv4(),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::One(address) => address.fmt(f),
            PeerAddress::Any(prefix) => prefix.fmt(f),
        }
    }
}

/// `seen`: the neighbors so far, with their lines.
pub(super) fn neighbor(
    table: &Table<'_, '_>,
    bgp: &BgpConfig,
    underlay: &UnderlayConfig,
    seen: &mut Vec<(PeerAddress, usize)>,
) -> Option<NeighborConfig> {
    let address = peer_address(table);
    let asn = self::asn(table).or(bgp.asn);
    let seconds = |key| table.number(key, 1..=65535).and_then(|seconds| u16::try_from(seconds).ok());
    let neighbor = NeighborConfig {
        address: address.unwrap_or(PeerAddress::One(IpAddr::from([0, 0, 0, 0]))),
        port: seconds("port").unwrap_or(BGP_PORT),
        // Without one `[bgp]` has said so already.
        asn: asn.unwrap_or(vrouter_types::Asn(0)),
        password: table.text("password-file").and_then(|file| password(table, file)),
        hold_time: hold_time(table),
        keepalive_time: seconds("keepalive-time"),
        connect_retry: seconds("connect-retry"),
        ttl_security: table.number("ttl-security", 1..=254).and_then(|hops| u8::try_from(hops).ok()),
        route_reflector_client: table.boolean("route-reflector-client").unwrap_or(false),
        max_prefixes: table.number("max-prefixes", 1..=u32::MAX),
        max_prefixes_restart: table.number("max-prefixes-restart", 1..=604_800),
        graceful_restart: table.boolean("graceful-restart"),
        passive: passive(table, address),
        local_address: self::address(table, "local-address"),
        description: table.text("description").map(str::to_owned),
        default_encapsulation: default_encapsulation(table, underlay),
        families: families(table),
    };
    if let Some(address) = address {
        check_address(table, address, neighbor.local_address, seen);
    }
    check_timers(table, &neighbor, bgp);
    check_role(table, &neighbor, bgp);
    (address.is_some() && asn.is_some()).then_some(neighbor)
}

fn peer_address(table: &Table<'_, '_>) -> Option<PeerAddress> {
    let address = address(table, "address").map(PeerAddress::One);
    let prefix = vrf::prefix(table, "prefix").map(PeerAddress::Any);
    match (address, prefix) {
        (Some(_), Some(_)) => {
            let message = "[[bgp.neighbor]] has both address and prefix; keep one, and write another [[bgp.neighbor]] \
                           for the other";
            table.error(table.span_of("prefix"), message.to_owned());
            None
        }
        (None, None) if !table.is_broken() => {
            let message = "[[bgp.neighbor]] needs address, like address = \"192.0.2.1\", or prefix for neighbors that \
                           connect to us";
            table.error(table.span(), message.to_owned());
            None
        }
        (address, prefix) => address.or(prefix),
    }
}

fn passive(table: &Table<'_, '_>, address: Option<PeerAddress>) -> bool {
    let passive = table.boolean("passive");
    match address {
        Some(PeerAddress::Any(prefix)) => {
            if passive == Some(false) {
                let message = format!("passive = false: nobody can connect to all of {prefix}; leave it out");
                table.error(table.span_of("passive"), message);
            }
            true
        }
        _ => passive.unwrap_or(false),
    }
}

fn check_address(
    table: &Table<'_, '_>,
    address: PeerAddress,
    local_address: Option<IpAddr>,
    seen: &mut Vec<(PeerAddress, usize)>,
) {
    let key = if matches!(address, PeerAddress::One(_)) { "address" } else { "prefix" };
    if let Some((_, line)) = seen.iter().find(|(other, _)| *other == address) {
        let message =
            format!("neighbor {address} is configured twice, first in line {line}; keep one of them");
        table.error(table.span_of(key), message);
    }
    seen.push((address, table.line_of(key)));
    if local_address.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
        let message = format!("local-address must be of the same family as the neighbor's, {address}");
        table.error(table.span_of("local-address"), message);
    }
}

fn check_timers(table: &Table<'_, '_>, neighbor: &NeighborConfig, bgp: &BgpConfig) {
    let hold_time = neighbor.hold_time.unwrap_or(bgp.hold_time);
    if let Some(keepalive) = neighbor.keepalive_time
        && keepalive >= hold_time
    {
        let message = format!(
            "keepalive-time {keepalive} must be less than the hold time, {hold_time}; a third of it is usual, and \
             what you get without this key"
        );
        table.error(table.span_of("keepalive-time"), message);
    }
    if neighbor.connect_retry.is_some() && neighbor.passive {
        let message =
            "connect-retry means nothing where we do not connect (passive); leave it out".to_owned();
        table.error(table.span_of("connect-retry"), message);
    }
    if neighbor.max_prefixes_restart.is_some() && neighbor.max_prefixes.is_none() && !table.is_broken() {
        let message =
            "max-prefixes-restart needs max-prefixes, the limit after which to wait so long".to_owned();
        table.error(table.span_of("max-prefixes-restart"), message);
    }
}

/// RFC 4456: a reflector and its clients are in one AS. And who waits for others must listen somewhere.
fn check_role(table: &Table<'_, '_>, neighbor: &NeighborConfig, bgp: &BgpConfig) {
    if neighbor.route_reflector_client && bgp.asn.is_some_and(|asn| asn != neighbor.asn) {
        let message = format!(
            "route-reflector-client: a client is in our own AS, not in {}; leave the key out, or asn",
            neighbor.asn
        );
        table.error(table.span_of("route-reflector-client"), message);
    }
    if let (PeerAddress::Any(prefix), None) = (neighbor.address, bgp.listen) {
        let message = format!(
            "prefix: neighbors from {prefix} connect to us; give [bgp] a listen address, like listen = \"0.0.0.0:179\""
        );
        table.error(table.span_of("prefix"), message);
    }
}

fn default_encapsulation(table: &Table<'_, '_>, underlay: &UnderlayConfig) -> Option<Encap> {
    let encap = table.parsed::<Encap>("default-encapsulation")?;
    if !underlay.encapsulations.contains(&encap) {
        let message = format!(
            "default-encapsulation {encap} is not among the encapsulations of [underlay]; add it there"
        );
        table.error(table.span_of("default-encapsulation"), message);
    }
    Some(encap)
}

fn families(table: &Table<'_, '_>) -> Vec<FamilyName> {
    let Some(families) = table.parsed_list::<FamilyName>("families") else {
        return vec![FamilyName::Vpnv4, FamilyName::Vpnv6, FamilyName::Rtc];
    };
    if families.is_empty() && !table.is_broken() {
        let message =
            "families must name at least one of \"vpnv4\", \"vpnv6\", \"rtc\"; leave it out for all";
        table.error(table.span_of("families"), message.to_owned());
    }
    families.into_iter().map(Spanned::into_inner).collect()
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
