//! `[[bgp.neighbor]]`.

use std::net::IpAddr;
use std::str::FromStr;

use toml::Spanned;
use vrouter_types::{Asn, Encap};

use super::document::Table;
use super::sections::{address, asn, hold_time};
use super::{FamilyName, NeighborConfig, Password, UnderlayConfig};

const BGP_PORT: u16 = 179;
/// The kernel's TCP_MD5SIG_MAXKEYLEN.
const MAX_PASSWORD: usize = 80;

/// `seen`: the neighbors so far, with their lines.
pub(super) fn neighbor(
    table: &Table<'_, '_>,
    our_asn: Option<Asn>,
    underlay: &UnderlayConfig,
    seen: &mut Vec<(IpAddr, usize)>,
) -> Option<NeighborConfig> {
    let address = self::address(table, "address");
    let asn = self::asn(table).or(our_asn);
    let port = table.number("port", 1..=65535).and_then(|port| u16::try_from(port).ok()).unwrap_or(BGP_PORT);
    let password = table.text("password-file").and_then(|file| password(table, file));
    let hold_time = hold_time(table);
    let passive = table.boolean("passive").unwrap_or(false);
    let local_address = self::address(table, "local-address");
    let description = table.text("description").map(str::to_owned);
    let default_encapsulation = default_encapsulation(table, underlay);
    let families = families(table);
    match address {
        Some(address) => check_addresses(table, address, local_address, seen),
        None if table.is_broken() => {}
        None => table
            .error(table.span(), "[[bgp.neighbor]] needs address, like address = \"192.0.2.1\"".to_owned()),
    }
    Some(NeighborConfig {
        address: address?,
        port,
        asn: asn?,
        password,
        hold_time,
        passive,
        local_address,
        description,
        default_encapsulation,
        families,
    })
}

fn check_addresses(
    table: &Table<'_, '_>,
    address: IpAddr,
    local_address: Option<IpAddr>,
    seen: &mut Vec<(IpAddr, usize)>,
) {
    if let Some((_, line)) = seen.iter().find(|(other, _)| *other == address) {
        let message =
            format!("neighbor {address} is configured twice, first in line {line}; keep one of them");
        table.error(table.span_of("address"), message);
    }
    seen.push((address, table.line_of("address")));
    if local_address.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
        let message = format!("local-address must be of the same family as the neighbor's, {address}");
        table.error(table.span_of("local-address"), message);
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
