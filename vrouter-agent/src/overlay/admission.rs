//! Who may join what: which VRF a workload belongs in, whether it may, and whether what it asks makes sense.

use std::net::IpAddr;

use agent_api::{ApiError, AttachPort, ErrorKind, PortKey, PortKind};
use dataplane_core::Gateway;
use vrouter_types::{Prefix, VrfId};

use super::underlay::{MIN_IPV4_MTU, MIN_IPV6_MTU};
use super::{Overlay, Port, Vrf};
use crate::config::is_interface_name;
use crate::openstack::CONTAINER;
use crate::openstack::ledger::NOWHERE;

/// containerd and CRI-O use 64 hexadecimal digits.
const MAX_CONTAINER: usize = 128;
const MAX_ADDRESSES: usize = 16;
const MAX_PREFIXES: usize = 64;
const MAX_TEXT: usize = 512;
/// What may be many, and how many: the port's file must be one that is read back.
const MAX_PAIRS: usize = 1_024;
const MAX_MACS: usize = 1_024;
const MAX_FLOATING: usize = 128;
const MAX_GROUPS: usize = 64;

impl Overlay {
    /// The VRF that a workload belongs in: what it asks for, what the CNI configuration says, whose namespaces match,
    /// the default. And whether it is admitted there.
    pub(super) fn choose_vrf(&self, request: &AttachPort) -> Result<VrfId, ApiError> {
        let vrf = self.named_vrf(request)?;
        // What an instance admits is OpenStack's to say, and nobody is admitted where a port's leaks come from.
        if request.key.container != CONTAINER && !self.is_operators(vrf) {
            let message = format!(
                "VRF {:?} is not of the agent's configuration but of OpenStack, whose VPN API alone attaches to it",
                vrf.config.name
            );
            return Err(ApiError::new(ErrorKind::NotAdmitted, message));
        }
        match (&vrf.config.namespaces, request.kind) {
            (None, _) | (_, PortKind::Tap) => Ok(vrf.id),
            (Some(patterns), PortKind::Pod) => {
                let namespace = request.namespace.as_deref();
                if namespace.is_some_and(|namespace| admits(patterns, namespace)) {
                    return Ok(vrf.id);
                }
                let who = namespace
                    .map_or("pods without a namespace".to_owned(), |name| format!("namespace {name:?}"));
                Err(ApiError::new(
                    ErrorKind::NotAdmitted,
                    format!(
                        "VRF {:?} does not admit {who} (it admits {}); choose another VRF, or add the namespace to \
                         the agent's configuration",
                        vrf.config.name,
                        patterns.join(", ")
                    ),
                ))
            }
        }
    }

    /// Whether the port may be attached by whoever asks: those that OpenStack's APIs make are theirs alone. The name is
    /// all that tells them apart, so nobody else may use it.
    pub(super) fn check_maker(&self, request: &AttachPort) -> Result<(), ApiError> {
        if request.key.container != CONTAINER {
            return Ok(());
        }
        let message = format!("a port of container {CONTAINER:?} is OpenStack's, and made by its APIs alone");
        Err(ApiError::new(ErrorKind::NotAdmitted, message))
    }

    /// Whether a port may be in this VRF, whatever it was when it was named: an instance of OpenStack may have got the
    /// name that a VRF of the operator's had, and is another tenant's.
    pub(super) fn may_be_in(&self, key: &PortKey, vrf: VrfId) -> bool {
        key.container == CONTAINER || self.vrf(vrf).is_some_and(|vrf| self.is_operators(vrf))
    }

    /// The VRF of a floating address of the port; `None`: there is none of this name, or it is another tenant's.
    pub(crate) fn floating_vrf(&self, port: &Port, name: &str) -> Option<VrfId> {
        let vrf = self.vrf_by_name(name)?.id;
        self.may_be_in(&port.saved.request.key, vrf).then_some(vrf)
    }

    fn is_operators(&self, vrf: &Vrf) -> bool {
        self.config.vrfs.iter().any(|config| config.name == vrf.config.name)
    }

    fn named_vrf(&self, request: &AttachPort) -> Result<&Vrf, ApiError> {
        if let Some(name) = request.vrf.as_deref().or(request.configured_vrf.as_deref()) {
            return self.vrf_by_name(name).ok_or_else(|| {
                let operators = self.vrfs.iter().filter(|vrf| self.is_operators(vrf));
                let names: Vec<&str> = operators.map(|vrf| vrf.config.name.as_str()).collect();
                let message =
                    format!("there is no VRF {name:?} on this node (there are: {})", names.join(", "));
                ApiError::new(ErrorKind::NotFound, message)
            });
        }
        if request.kind == PortKind::Tap {
            return Err(ApiError::new(ErrorKind::BadRequest, "a tap must name its VRF"));
        }
        let matches = |vrf: &&Vrf| {
            let patterns = vrf.config.namespaces.as_deref().unwrap_or_default();
            request.namespace.as_deref().is_some_and(|namespace| admits(patterns, namespace))
        };
        let default = || self.vrfs.iter().find(|vrf| vrf.config.default);
        self.vrfs.iter().find(matches).or_else(default).ok_or_else(|| {
            let message = "the workload names no VRF, no VRF's namespaces match, and no VRF is the default; annotate \
                           the pod with vrouter.dev/vrf, or set default = true in the agent's configuration";
            ApiError::new(ErrorKind::NotFound, message)
        })
    }

    /// The VRF that a pod of this namespace joins if it names none.
    pub fn vrf_of_namespace(&self, namespace: &str) -> Option<&str> {
        let admits_it = |vrf: &&Vrf| {
            let patterns = vrf.config.namespaces.as_deref();
            patterns.is_some_and(|patterns| admits(patterns, namespace))
        };
        let default = || {
            let default = self.vrfs.iter().find(|vrf| vrf.config.default);
            default.filter(|vrf| vrf.config.namespaces.as_ref().is_none_or(|names| admits(names, namespace)))
        };
        self.vrfs.iter().find(admits_it).or_else(default).map(|vrf| vrf.config.name.as_str())
    }

    /// Whether the request makes sense on its own.
    pub(super) fn check_request(&self, request: &AttachPort) -> Result<(), ApiError> {
        let bad = |message: String| Err(ApiError::new(ErrorKind::BadRequest, message));
        let key = &request.key;
        if key.container.is_empty()
            || key.container.len() > MAX_CONTAINER
            || !is_interface_name(&key.interface)
        {
            return bad(format!("{key:?} is no port key: want a container and the name of an interface"));
        }
        if !is_interface_name(&request.host_interface) {
            return bad(format!("{:?} is no name of an interface", request.host_interface));
        }
        if request.vlan.is_some_and(|vlan| request.kind != PortKind::Tap || !(1..=4094).contains(&vlan)) {
            return bad("a sub-port is a tap's, with a VLAN tag from 1 to 4094".to_owned());
        }
        if request.mac.is_group() || request.mac.is_zero() || request.mac == Gateway::default().mac {
            return bad(format!("{} is no MAC address that a workload can have", request.mac));
        }
        let texts =
            [&request.netns, &request.namespace, &request.name, &request.vrf, &request.configured_vrf];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT) {
            return bad(format!("a text is longer than {MAX_TEXT} octets"));
        }
        check_bounds(request)?;
        if request.kind == PortKind::Tap && request.addresses.is_empty() {
            return bad("a tap must name at least one address".to_owned());
        }
        for (index, address) in request.addresses.iter().enumerate() {
            if !is_workload_address(*address) {
                return bad(format!("{address} is no address that a workload can have"));
            }
            if request.addresses[..index].contains(address) {
                return bad(format!("{address} is named twice"));
            }
        }
        let has_ipv6 = request.addresses.iter().any(IpAddr::is_ipv6);
        let least = if has_ipv6 { MIN_IPV6_MTU } else { MIN_IPV4_MTU };
        if request.mtu.is_some_and(|mtu| mtu < least) {
            return bad(format!("the MTU must be at least {least}"));
        }
        Ok(())
    }

    /// Whether what it asks for is free; `except` is the port that it would replace.
    pub(super) fn check_free(&self, request: &AttachPort, vrf: VrfId) -> Result<(), ApiError> {
        let conflict = |message: String| Err(ApiError::new(ErrorKind::Conflict, message));
        let others = || self.ports.values().filter(|port| port.saved.request.key != request.key);
        let same_interface = |other: &AttachPort| {
            (&other.host_interface, other.vlan) == (&request.host_interface, request.vlan)
        };
        if let Some(other) = others().find(|port| same_interface(&port.saved.request)) {
            let (key, interface) = (&other.saved.request.key, &request.host_interface);
            let tag = request.vlan.map(|vlan| format!("VLAN {vlan} of ")).unwrap_or_default();
            return conflict(format!("{tag}interface {interface} already belongs to port {key}"));
        }
        // No packet is sent to an address there, so that tenants may have the same.
        if self.vrf(vrf).is_some_and(|vrf| vrf.config.name == NOWHERE) {
            return Ok(());
        }
        for port in others().filter(|port| port.vrf == vrf) {
            let wanted =
                request.addresses.iter().copied().map(Prefix::host).chain(request.prefixes.iter().copied());
            for prefix in wanted {
                if port.prefixes().any(|taken| taken == prefix) {
                    let (key, name) = (&port.saved.request.key, &port.saved.vrf);
                    return conflict(format!("{prefix} already belongs to port {key} in VRF {name:?}"));
                }
            }
        }
        Ok(())
    }
}

fn check_bounds(request: &AttachPort) -> Result<(), ApiError> {
    let groups = request.security_groups.as_deref().unwrap_or_default();
    for (what, many, most) in [
        ("addresses", request.addresses.len(), MAX_ADDRESSES),
        ("prefixes", request.prefixes.len(), MAX_PREFIXES),
        ("allowed address pairs", request.allowed.len(), MAX_PAIRS),
        ("MAC addresses", request.macs.len(), MAX_MACS),
        ("floating addresses", request.floating_ips.len(), MAX_FLOATING),
        ("security groups", groups.len(), MAX_GROUPS),
    ] {
        if many > most {
            let message = format!("a port has at most {most} {what}, and not {many}");
            return Err(ApiError::new(ErrorKind::BadRequest, message));
        }
    }
    Ok(())
}

fn is_workload_address(address: IpAddr) -> bool {
    let gateway = Gateway::default();
    let odd = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(odd
        || gateway.has(address)
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast())
}

fn admits(patterns: &[String], namespace: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern.as_bytes(), namespace.as_bytes()))
}

/// `*` stands for any letters, none included. Linear in pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|letter| *letter == b'*'))
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn star_stands_for_any_letters() {
        for (pattern, text, matches) in [
            ("city-*", "city-lamps", true),
            ("city-*", "city-", true),
            ("city-*", "city", false),
            ("*", "", true),
            ("*-prod", "a-b-prod", true),
            ("*-prod", "a-b-prod-x", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("default", "default", true),
            ("default", "default2", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }
}
