//! `[[vrf]]`, and what must hold between VRFs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use toml::Spanned;
use vrouter_types::{Prefix, RouteDistinguisher, RouteTarget};

use super::VrfConfig;
use super::document::Table;
use super::export::export_policy;
use super::sections::check_name;
use crate::openstack::Uuid;

/// What earlier tables said, with their lines.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, usize>,
    rds: BTreeMap<RouteDistinguisher, (String, usize)>,
    default: Option<(String, usize)>,
    pods: Vec<(usize, Prefix, usize)>,
    openstack: BTreeMap<Uuid, (String, usize)>,
}

/// `router_id` makes the default route distinguishers; `None` where it could not be read.
pub(super) fn vrfs(top: &Table<'_, '_>, router_id: Option<Ipv4Addr>) -> Vec<VrfConfig> {
    let mut seen = Seen::default();
    let mut vrfs = Vec::new();
    for (index, table) in top.tables("vrf", "[[vrf]]").into_iter().enumerate() {
        let vrf = vrf(&table, index, router_id);
        if let Some(vrf) = vrf {
            seen.check(&table, &vrf, &vrfs);
            vrfs.push(vrf);
        }
        table.finish();
    }
    vrfs
}

fn vrf(table: &Table<'_, '_>, index: usize, router_id: Option<Ipv4Addr>) -> Option<VrfConfig> {
    let name = table.text("name");
    match name {
        Some(name) => check_name(table, "name", name),
        None if !table.is_broken() => table.error(table.span(), "[[vrf]] needs name".to_owned()),
        None => {}
    }
    let rd = table.parsed::<RouteDistinguisher>("rd").or_else(|| default_rd(table, index, router_id));
    let import = route_targets(table, "import");
    let export = route_targets(table, "export");
    let pods: Vec<Spanned<Prefix>> = prefixes(table, "pods");
    pods.iter().for_each(|pods| check_pods(table, pods));
    let namespaces = namespaces(table);
    let default = table.boolean("default").unwrap_or(false);
    let policy = export_policy(table);
    let dscp = table.number("dscp", 0..=63).and_then(|dscp| u8::try_from(dscp).ok());
    let openstack_networks = super::openstack::uuids(table, "openstack-networks");
    let openstack_projects = super::openstack::uuids(table, "openstack-projects");
    let snat = table.boolean("snat").unwrap_or(false);
    let host_open = match table.text("host") {
        Some("open") => true,
        Some("closed") => false,
        Some(other) => {
            table.error(table.span_of("host"), format!("host {other:?} must be \"open\" or \"closed\""));
            false
        }
        None => default,
    };
    let pods = pods.into_iter().map(Spanned::into_inner).collect();
    Some(VrfConfig {
        name: name?.to_owned(),
        rd: rd?,
        import,
        export,
        policy,
        pods,
        namespaces,
        default,
        host_open,
        dscp,
        snat,
        openstack_networks,
        openstack_projects,
    })
}

fn default_rd(
    table: &Table<'_, '_>,
    index: usize,
    router_id: Option<Ipv4Addr>,
) -> Option<RouteDistinguisher> {
    if table.span_of("rd") != table.span() {
        return None;
    }
    let router_id = router_id?;
    if router_id.is_unspecified() {
        let message = "[[vrf]] needs rd, like rd = \"192.0.2.11:1\", where [bgp] has no router-id and [underlay] no \
                       IPv4 address to make one from";
        table.error(table.span(), message.to_owned());
        return None;
    }
    // A second's 65536th VRF has no default; nobody gets there before the labels run out.
    Some(RouteDistinguisher::from_ipv4(router_id, u16::try_from(index + 1).ok()?))
}

fn route_targets(table: &Table<'_, '_>, key: &'static str) -> Vec<RouteTarget> {
    let mut targets: Vec<RouteTarget> =
        table.parsed_list(key).unwrap_or_default().into_iter().map(Spanned::into_inner).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// Prefixes whose host bits are zero, as written.
pub(super) fn prefixes(table: &Table<'_, '_>, key: &'static str) -> Vec<Spanned<Prefix>> {
    let texts = table.texts(key).unwrap_or_default();
    texts.into_iter().filter_map(|text| as_written(table, key, &text)).collect()
}

/// One such prefix.
pub(super) fn prefix(table: &Table<'_, '_>, key: &'static str) -> Option<Prefix> {
    let text = table.text(key)?;
    as_written(table, key, &Spanned::new(table.span_of(key), text)).map(Spanned::into_inner)
}

fn as_written(table: &Table<'_, '_>, key: &'static str, text: &Spanned<&str>) -> Option<Spanned<Prefix>> {
    match text.get_ref().parse::<Prefix>() {
        Ok(prefix) => {
            let written = text.get_ref().split('/').next().and_then(|addr| addr.parse::<IpAddr>().ok());
            if written != Some(prefix.addr()) {
                let message =
                    format!("{key}: {:?} has bits behind its length; write {prefix}", text.get_ref());
                table.error(text.span(), message);
            }
            Some(Spanned::new(text.span(), prefix))
        }
        Err(error) => {
            table.error(text.span(), format!("{key}: {error}"));
            None
        }
    }
}

fn check_pods(table: &Table<'_, '_>, pods: &Spanned<Prefix>) {
    let prefix = *pods.get_ref();
    let unfit = match prefix.addr() {
        IpAddr::V4(addr) => {
            addr.is_multicast() || addr.is_loopback() || addr.is_link_local() || addr.is_unspecified()
        }
        IpAddr::V6(addr) => {
            addr.is_multicast() || addr.is_loopback() || addr.is_unicast_link_local() || addr.is_unspecified()
        }
    };
    if unfit {
        table.error(
            pods.span(),
            format!("pods: {prefix} holds addresses that no pod can have; choose another range"),
        );
    }
}

fn namespaces(table: &Table<'_, '_>) -> Option<Vec<String>> {
    let patterns = table.texts("namespaces")?;
    let legal = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.' | '*')
    };
    if patterns.is_empty() && !table.is_broken() {
        let message = "namespaces = [] would admit nobody; name some, or leave the key out to admit all";
        table.error(table.span_of("namespaces"), message.to_owned());
    }
    for pattern in &patterns {
        let text = pattern.get_ref();
        if text.is_empty() || !text.chars().all(legal) {
            let message =
                format!("namespaces: {text:?} is no namespace (small letters, digits, '-', and '*' for any)");
            table.error(pattern.span(), message);
        }
    }
    Some(patterns.into_iter().map(|pattern| pattern.into_inner().to_owned()).collect())
}

impl Seen {
    fn check(&mut self, table: &Table<'_, '_>, vrf: &VrfConfig, earlier: &[VrfConfig]) {
        if let Some(line) = self.names.insert(vrf.name.clone(), table.line_of("name")) {
            let message =
                format!("there are two VRFs named {:?}, the first in line {line}; rename one", vrf.name);
            table.error(table.span_of("name"), message);
        }
        if let Some((name, line)) = self.rds.get(&vrf.rd) {
            let message =
                format!("rd {} is also that of VRF {name:?}, line {line}; each VRF needs its own", vrf.rd);
            table.error(table.span_of("rd"), message);
        }
        self.rds.insert(vrf.rd, (vrf.name.clone(), table.line_of("rd")));
        if vrf.default {
            if let Some((name, line)) = &self.default {
                let message =
                    format!("VRF {name:?}, line {line}, is the default already; keep one default = true");
                table.error(table.span_of("default"), message);
            }
            self.default = Some((vrf.name.clone(), table.line_of("default")));
        }
        self.check_overlap(table, vrf, earlier);
        let both = [
            ("openstack-networks", &vrf.openstack_networks),
            ("openstack-projects", &vrf.openstack_projects),
        ];
        for (key, uuid) in
            both.into_iter().flat_map(|(key, uuids)| uuids.iter().map(move |uuid| (key, *uuid)))
        {
            if let Some((name, line)) = self.openstack.insert(uuid, (vrf.name.clone(), table.line_of(key))) {
                let message =
                    format!("{key}: {uuid} is also VRF {name:?}'s, line {line}; one VRF can have it");
                table.error(table.span_of(key), message);
            }
        }
    }

    /// Ranges may overlap between VRFs that never meet: that is what VRFs are for. Within one VRF, and between VRFs of
    /// which one imports what the other exports, two pods would get one address in one network.
    fn check_overlap(&mut self, table: &Table<'_, '_>, vrf: &VrfConfig, earlier: &[VrfConfig]) {
        let me = earlier.len();
        let line = table.line_of("pods");
        for pods in &vrf.pods {
            for (other, range, other_line) in self.pods.iter().filter(|(_, range, _)| range.overlaps(*pods)) {
                let message = match earlier.get(*other) {
                    None => format!("pods: {pods} overlaps {range} of the same VRF; keep one of them"),
                    Some(other) if meets(vrf, other) => format!(
                        "pods: {pods} overlaps {range} of VRF {:?}, line {other_line}, and the two exchange routes; \
                         give each its own range",
                        other.name
                    ),
                    Some(_) => continue,
                };
                table.error(table.span_of("pods"), message);
            }
            self.pods.push((me, *pods, line));
        }
    }
}

fn meets(one: &VrfConfig, other: &VrfConfig) -> bool {
    let takes = |importer: &VrfConfig, exporter: &VrfConfig| {
        importer.import.iter().any(|rt| exporter.export.contains(rt))
    };
    takes(one, other) || takes(other, one)
}
