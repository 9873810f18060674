//! From what was said to what is wanted: of each tap, and of each instance.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agent_api::{AttachPort, PortKey, PortKind, Subnet, VmServices};
use vrouter_types::{MacAddr, Prefix, RouteDistinguisher, RouteTarget};

use super::{INSTANCES, Instance, Ledger};
use crate::config::{Config, VrfConfig};
use crate::openstack::attachment::AttachmentKey;
use crate::openstack::wanted::{Advert, Leak, Merits};
use crate::openstack::{Attachment, CONTAINER, Plug, PlugKind, RouteExtras, Uuid, Wanted};

/// The VRF of taps that are sent packets and whose own enter no instance: it is empty.
pub(crate) const NOWHERE: &str = "(to-port)";
/// Its route distinguisher's number. It never announces anything.
const NOWHERE_NUMBER: u16 = 32_767;

impl Ledger {
    /// The key of a tap's port.
    pub fn port_key(tap: &str) -> PortKey {
        PortKey { container: CONTAINER.to_owned(), interface: tap.to_owned() }
    }

    /// What is wanted of the tap; `None`: nobody speaks of it.
    pub fn wanted(&self, tap: &str, config: &Config) -> Option<Wanted> {
        let plug = self.plug_of(tap);
        let attachments = self.attachments_of(tap);
        let mac = plug.map(|plug| plug.mac).or(attachments.first().map(|(_, first)| first.mac))?;
        if plug.is_some_and(|plug| !plug.link_up) {
            return Some(Wanted::Waits("it is disabled (PUT /enable-port)".to_owned()));
        }
        let vrf = match self.vrf_of(plug, &attachments, config) {
            Ok(vrf) => vrf,
            Err(why) => return Some(Wanted::Waits(why)),
        };
        let kind = match plug {
            // The incumbent's CNI plugin names no address: it is the VRF's to give.
            Some(plug) if plug.kind == PlugKind::Namespace && plug.addresses().next().is_none() => {
                PortKind::Pod
            }
            _ => PortKind::Tap,
        };
        let mut request = AttachPort::new(Ledger::port_key(tap), kind, tap.to_owned(), mac);
        request.vrf = Some(vrf.clone());
        request.addresses = addresses(plug, &attachments, &vrf);
        if request.addresses.is_empty() && kind == PortKind::Tap {
            return Some(Wanted::Waits("nobody has told an address of it".to_owned()));
        }
        let others: BTreeSet<MacAddr> =
            attachments.iter().map(|(_, it)| it.mac).filter(|it| *it != mac).collect();
        request.macs = others.into_iter().collect();
        request.vlan = plug.and_then(Plug::vlan);
        request.name = plug.map(|plug| plug.name.clone()).filter(|name| !name.is_empty());
        hold(&mut request, &attachments);
        request.vm = (kind == PortKind::Tap).then(|| services(plug, &attachments, &request.addresses));
        Some(Wanted::Port(Box::new(request), extras(plug, &attachments, &vrf)))
    }

    /// Where packets of the tap enter: the attachment's word before that of the network, and that before the project's.
    fn vrf_of(
        &self,
        plug: Option<&Plug>,
        attachments: &[(u32, &Attachment)],
        config: &Config,
    ) -> Result<String, String> {
        if let Some((_, attachment)) = attachments.iter().find(|(_, attachment)| attachment.takes_packets()) {
            return Ok(attachment.instance.clone());
        }
        let Some(plug) = plug else {
            return Ok(NOWHERE.to_owned());
        };
        let by_network = |vrf: &&VrfConfig| vrf.openstack_networks.contains(&plug.network);
        let by_project =
            |vrf: &&VrfConfig| !plug.project.is_nil() && vrf.openstack_projects.contains(&plug.project);
        // The networks that `GET /vm-cfg` made up have the name of a VRF in them.
        let by_name = |vrf: &&VrfConfig| Uuid::of_name(&format!("vrf/{}", vrf.name)) == plug.network;
        let vrfs = || config.vrfs.iter();
        let found =
            vrfs().find(by_network).or_else(|| vrfs().find(by_project)).or_else(|| vrfs().find(by_name));
        if let Some(vrf) = found {
            return Ok(vrf.name.clone());
        }
        if attachments.is_empty() {
            return Err(format!(
                "network {} has no VRF: name it in openstack-networks of a [[vrf]], or attach it by the VPN API",
                plug.network
            ));
        }
        Ok(NOWHERE.to_owned())
    }

    /// The VRFs that are not the operator's: one per instance whose name the operator has not taken.
    pub fn vrfs(&self, config: &Config) -> Vec<VrfConfig> {
        let is_free = |name: &str| !config.vrfs.iter().any(|vrf| vrf.name == name);
        let instances = self.instances.values().filter(|instance| is_free(&instance.id));
        let mut vrfs: Vec<VrfConfig> = instances.map(|instance| instance_vrf(instance, config)).collect();
        // The taps that attachments are about, which need not be those that they name.
        let lost = self.taps().iter().any(|tap| {
            let attachments = self.attachments_of(tap);
            !attachments.is_empty() && attachments.iter().all(|(_, it)| !it.takes_packets())
        });
        if lost && is_free(NOWHERE) {
            vrfs.push(vrf(NOWHERE, NOWHERE_NUMBER, config));
        }
        vrfs
    }

    /// The VRF of one instance, where it is not the operator's.
    pub fn vrf(&self, name: &str, config: &Config) -> Option<VrfConfig> {
        if config.vrfs.iter().any(|vrf| vrf.name == name) {
            return None;
        }
        if name == NOWHERE {
            return Some(vrf(NOWHERE, NOWHERE_NUMBER, config));
        }
        self.instances.get(name).map(|instance| instance_vrf(instance, config))
    }

    /// The attachments about a tap, in the order in which they came.
    pub fn attachments_of(&self, tap: &str) -> Vec<(u32, &Attachment)> {
        let named = self.attached_by_tap.get(tap).into_iter().flatten();
        let mac = self.plug_of(tap).map(|plug| plug.mac);
        let same_mac = mac.and_then(|mac| self.attached_by_mac.get(&mac)).into_iter().flatten();
        let keys: BTreeSet<&AttachmentKey> = named.chain(same_mac).collect();
        let of = |key: &AttachmentKey| {
            let (number, attachment) = self.attachments.get(key)?;
            (self.tap_of(&attachment.interface, attachment.mac) == tap).then_some((*number, attachment))
        };
        let mut attachments: Vec<(u32, &Attachment)> = keys.into_iter().filter_map(of).collect();
        attachments.sort_by_key(|(number, _)| *number);
        attachments
    }

    /// The instance that the tap's packets enter.
    pub(super) fn entered_by(&self, tap: &str, mac: MacAddr) -> Option<String> {
        let same_mac = self.attached_by_mac.get(&mac).into_iter().flatten();
        let same_mac = same_mac.filter_map(|key| self.attachments.get(key));
        let same_mac = same_mac.filter(|(_, it)| self.tap_of(&it.interface, it.mac) == tap).map(|(_, it)| it);
        let of_tap = self.attachments_of(tap).into_iter().map(|(_, attachment)| attachment);
        of_tap.chain(same_mac).find(|it| it.takes_packets()).map(|it| it.instance.clone())
    }

    /// Every tap that somebody speaks of.
    pub fn taps(&self) -> BTreeSet<String> {
        let named = self.attachments.values().map(|(_, it)| self.tap_of(&it.interface, it.mac).to_owned());
        self.plug_by_tap.keys().cloned().chain(named).collect()
    }

    /// The plug of a tap.
    pub fn plug_of(&self, tap: &str) -> Option<&Plug> {
        self.plugs.get(self.plug_by_tap.get(tap)?)
    }

    /// The plug of this UUID.
    pub fn plug_by_id(&self, id: Uuid) -> Option<&Plug> {
        self.plugs.get(&id)
    }

    /// Every plug.
    pub fn plugs(&self) -> impl Iterator<Item = &Plug> {
        self.plugs.values()
    }

    /// Every attachment, with the tap that it is about.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, &Attachment)> {
        self.attachments.values().map(|(_, it)| (self.tap_of(&it.interface, it.mac), it))
    }

    /// Every instance.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// The instance of this name.
    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }
}

/// What the attachments let the port hold, each once and in the order in which it was said: many say the same.
fn hold(request: &mut AttachPort, attachments: &[(u32, &Attachment)]) {
    let mut pairs: BTreeSet<(Prefix, Option<MacAddr>)> = BTreeSet::new();
    let mut floating: BTreeSet<(&str, IpAddr, IpAddr)> = BTreeSet::new();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for (_, attachment) in attachments {
        let new = attachment.allowed.iter().filter(|pair| pairs.insert((pair.prefix, pair.mac)));
        request.allowed.extend(new.copied());
        let new =
            attachment.floating_ips.iter().filter(|it| floating.insert((&it.vrf, it.address, it.fixed)));
        request.floating_ips.extend(new.cloned());
        if let Some(groups) = &attachment.security_groups {
            let known = request.security_groups.get_or_insert_default();
            known.extend(groups.iter().filter(|name| named.insert(name)).cloned());
        }
    }
}

fn instance_vrf(instance: &Instance, config: &Config) -> VrfConfig {
    let vrf = vrf(&instance.id, instance.number, config);
    VrfConfig { import: instance.import.clone(), export: instance.export.clone(), ..vrf }
}

fn vrf(name: &str, number: u16, config: &Config) -> VrfConfig {
    let taken = |rd: &RouteDistinguisher| config.vrfs.iter().any(|vrf| vrf.rd == *rd);
    let rd = |number| RouteDistinguisher::from_ipv4(config.bgp.router_id, number);
    // The operator's own word holds. Each number has a second one that no other instance has.
    let number = if taken(&rd(number)) { number + INSTANCES } else { number };
    VrfConfig::new(name.to_owned(), rd(number))
}

/// The plug's, and those of attachments where its packets enter; where none enter, those of the others.
fn addresses(plug: Option<&Plug>, attachments: &[(u32, &Attachment)], vrf: &str) -> Vec<IpAddr> {
    let here = attachments.iter().filter(|(_, it)| it.instance == vrf || vrf == NOWHERE);
    let mut addresses: Vec<IpAddr> = plug.into_iter().flat_map(Plug::addresses).collect();
    for address in here.filter_map(|(_, it)| it.own_address()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

fn extras(plug: Option<&Plug>, attachments: &[(u32, &Attachment)], vrf: &str) -> RouteExtras {
    let mut extras = RouteExtras::default();
    let mut told = BTreeSet::new();
    let mut untold = BTreeSet::new();
    if vrf == NOWHERE {
        untold.extend(plug.into_iter().flat_map(Plug::addresses));
        untold.extend(addresses(plug, attachments, vrf));
    }
    for (_, attachment) in attachments {
        let merits = Merits { local_pref: attachment.local_pref, hash_order: attachment.hash_order };
        let prefix = attachment.prefix();
        let is_own = attachment.instance == vrf && prefix.is_host();
        match attachment.own_address() {
            Some(address) if attachment.instance == vrf && attachment.advertise_subnet => {
                told.insert(address);
            }
            Some(address) if is_own && attachment.announces() => {
                told.insert(address);
                extras.own.insert(address, merits);
            }
            Some(address) if is_own => {
                untold.insert(address);
            }
            _ => {}
        }
        if attachment.announces() && !is_own {
            let advert =
                Advert { vrf: attachment.instance.clone(), prefix, own_rd: !prefix.is_host(), merits };
            extras.adverts.push(advert);
        }
        if let Some(readvertise) = &attachment.readvertise {
            extras.leaks.push(Leak {
                vrf: attachment.instance.clone(),
                part: part(&extras.leaks, &attachment.instance, &readvertise.from),
                from: readvertise.from.clone(),
                to: readvertise.to.clone(),
                merits,
            });
        }
    }
    extras.silent = untold.difference(&told).copied().collect();
    extras
}

/// The number of what is taken from an instance: that of those before it that take the same, or the next.
fn part(before: &[Leak], instance: &str, from: &[RouteTarget]) -> usize {
    let of = || before.iter().filter(|leak| leak.vrf == instance);
    let same = of().find(|leak| leak.from == from).map(|leak| leak.part);
    same.unwrap_or_else(|| of().map(|leak| leak.part + 1).max().unwrap_or(0))
}

/// What the machine is told by DHCP and metadata: the instance's gateway and subnet where an attachment names them.
fn services(plug: Option<&Plug>, attachments: &[(u32, &Attachment)], addresses: &[IpAddr]) -> VmServices {
    let subnet = |(_, it): &(u32, &Attachment)| {
        let is_its_own = it.own_address().is_some_and(|address| addresses.contains(&address));
        let prefix = it.subnet().filter(|_| is_its_own)?;
        let gateway = it.gateway.filter(|gateway| gateway.is_ipv4() == prefix.is_ipv4());
        Some(Subnet { prefix, gateway, routes: Vec::new() })
    };
    let mut subnets: Vec<Subnet> = Vec::new();
    for subnet in attachments.iter().filter_map(subnet) {
        if !subnets.iter().any(|known| known.prefix == subnet.prefix) {
            subnets.push(subnet);
        }
    }
    let text = |uuid: Uuid| (!uuid.is_nil()).then(|| uuid.to_string());
    VmServices {
        instance: plug.and_then(|plug| text(plug.instance)),
        project: plug.and_then(|plug| text(plug.project)),
        host_name: plug.map(|plug| host_name(&plug.name)).filter(|name| !name.is_empty()),
        subnets,
        dhcp: true,
        metadata: plug.is_some_and(|plug| !plug.instance.is_nil()),
        ..VmServices::default()
    }
}

/// A display name as DNS takes it (RFC 1123 §2.1): nova does the same.
fn host_name(name: &str) -> String {
    let letter =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().take(63).map(letter).collect();
    name.trim_matches('-').to_owned()
}
