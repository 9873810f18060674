//! What OpenStack has said and what came of it, as people and programs read it.

use std::collections::{BTreeMap, BTreeSet};

use agent_api::{AttachmentStatus, InstanceStatus, OpenStack, PlugStatus, TapStatus};
use serde_json::{Value, json};
use vrouter_types::Label;

use super::port_api::PortCall;
use super::port_api::{Operational, PortReply, port_view, vm_config};
use super::{Attachment, Direction, Ledger, Plug, Uuid};
use crate::overlay::{Overlay, Port, PortState};

/// `show openstack`.
pub fn openstack(overlay: &Overlay) -> OpenStack {
    let ledger = overlay.ledger();
    // Thousands of instances with thousands of attachments: each is looked at once.
    let mut attached: BTreeMap<&str, usize> = BTreeMap::new();
    ledger.attachments().for_each(|(_, it)| *attached.entry(&it.instance).or_default() += 1);
    let rds: BTreeMap<&str, _> =
        overlay.vrfs().iter().map(|vrf| (vrf.config.name.as_str(), vrf.config.rd)).collect();
    let configured: BTreeSet<&str> = overlay.config().vrfs.iter().map(|vrf| vrf.name.as_str()).collect();
    let instances = ledger.instances().map(|instance| InstanceStatus {
        name: instance.id.clone(),
        rd: rds.get(instance.id.as_str()).copied(),
        import: instance.import.clone(),
        export: instance.export.clone(),
        attachments: attached.get(instance.id.as_str()).copied().unwrap_or_default(),
        configured: configured.contains(instance.id.as_str()),
        description: instance.description.clone(),
    });
    let waiting: BTreeMap<&str, &str> = overlay.waiting().collect();
    let taps = ledger.taps();
    OpenStack {
        taps: taps.iter().map(|tap| tap_status(overlay, &waiting, tap)).collect(),
        instances: instances.collect(),
    }
}

/// How a tap stands.
fn standing(overlay: &Overlay, waiting: &BTreeMap<&str, &str>, tap: &str) -> (String, Option<Label>) {
    let port = overlay.port_by_key(&Ledger::port_key(tap));
    let state = match port.map(|port| &port.state) {
        Some(PortState::Up) => "up".to_owned(),
        Some(PortState::Waiting(why)) => why.clone(),
        None => waiting.get(tap).map_or_else(|| "unknown".to_owned(), |why| (*why).to_owned()),
    };
    (state, port.map(|port| port.saved.label))
}

fn tap_status(overlay: &Overlay, waiting: &BTreeMap<&str, &str>, tap: &str) -> TapStatus {
    let ledger = overlay.ledger();
    let port = overlay.port_by_key(&Ledger::port_key(tap));
    let (state, label) = standing(overlay, waiting, tap);
    let plug = ledger.plug_of(tap);
    let attachments = ledger.attachments_of(tap);
    TapStatus {
        interface: tap.to_owned(),
        state,
        port: port.map(|port| port.saved.port),
        vrf: port.map(|port| port.saved.vrf.clone()),
        label,
        mac: plug.map(|plug| plug.mac).or(attachments.first().map(|(_, first)| first.mac)),
        addresses: port.map(|port| port.saved.addresses.clone()).unwrap_or_default(),
        plug: plug.map(|plug| PlugStatus {
            id: plug.id.to_string(),
            name: plug.name.clone(),
            instance: plug.instance.to_string(),
            network: plug.network.to_string(),
            project: plug.project.to_string(),
        }),
        attachments: attachments.iter().map(|(_, it)| attachment_status(it)).collect(),
    }
}

fn attachment_status(attachment: &Attachment) -> AttachmentStatus {
    AttachmentStatus {
        instance: attachment.instance.clone(),
        prefix: attachment.prefix(),
        direction: direction(attachment.direction).to_owned(),
        local_pref: attachment.local_pref,
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Both => "both",
        Direction::ToPort => "to-port",
        Direction::FromPort => "from-port",
    }
}

/// `GET /attachments`: every attachment in the words of the attach, and how it stands.
pub fn attachments(overlay: &Overlay) -> Value {
    let waiting: BTreeMap<&str, &str> = overlay.waiting().collect();
    // Behind one tap there may be thousands.
    let mut standings: BTreeMap<&str, (String, Option<Label>)> = BTreeMap::new();
    let one = |(tap, it)| {
        let it: &Attachment = it;
        let (state, label) = standings.entry(tap).or_insert_with(|| standing(overlay, &waiting, tap));
        json!({
            "vpn_instance_id": it.instance,
            "vpn_type": "ipvpn",
            "mac_address": it.mac,
            "ip_address": format!("{}/{}", it.address, it.length),
            "gateway_ip": it.gateway,
            "local_port": { "linuxif": it.interface },
            "import_rt": texts(&it.import),
            "export_rt": texts(&it.export),
            "advertise_subnet": it.advertise_subnet,
            "local_pref": it.local_pref,
            "lb_consistent_hash_order": it.hash_order,
            "direction": direction(it.direction),
            "readvertise": it.readvertise.as_ref().map(|it| json!({ "from_rt": texts(&it.from), "to_rt": texts(&it.to) })),
            "instance_description": overlay.ledger().instance(&it.instance).and_then(|it| it.description.clone()),
            "description": it.description,
            "interface": tap,
            "label": label,
            "state": state,
        })
    };
    json!({ "attachments": overlay.ledger().attachments().map(one).collect::<Vec<_>>() })
}

/// Route targets as bagpipe's clients write them.
pub(super) fn texts(targets: &[vrouter_types::RouteTarget]) -> Vec<String> {
    targets.iter().map(|target| target.to_string().trim_start_matches("target:").to_owned()).collect()
}

/// What a question to the port API is answered.
pub fn port_reply(overlay: &Overlay, call: &PortCall) -> PortReply {
    let ledger = overlay.ledger();
    match call {
        PortCall::Change(_) => PortReply::done(),
        PortCall::Port(id) => match ledger.plug_by_id(*id) {
            Some(plug) => PortReply::found(port_view(plug, &operational(overlay, plug))),
            None => PortReply::not_found(),
        },
        PortCall::Vm(instance, only) => {
            let is_wanted =
                |plug: &&Plug| plug.instance == *instance && only.is_none_or(|id: Uuid| id == plug.id);
            let plugs = ledger.plugs().filter(is_wanted);
            // Its interface cannot be set up before it has an address.
            let known = plugs.filter(|plug| port_of(overlay, plug).is_some());
            let views: Vec<Value> = known.map(|plug| port_view(plug, &operational(overlay, plug))).collect();
            if views.is_empty() { PortReply::not_found() } else { PortReply::found(json!(views)) }
        }
        PortCall::VmConfig(name) => match overlay.vrf_of_namespace(&name.namespace) {
            Some(vrf) => PortReply::found(vm_config(name, vrf)),
            None => PortReply::not_found(),
        },
    }
}

fn port_of<'o>(overlay: &'o Overlay, plug: &Plug) -> Option<&'o Port> {
    overlay.port_by_key(&Ledger::port_key(&plug.interface))
}

fn operational(overlay: &Overlay, plug: &Plug) -> Operational {
    let Some(port) = port_of(overlay, plug) else { return Operational::default() };
    let attachments = overlay.ledger().attachments_of(&plug.interface);
    let gateway = dataplane_core::Gateway::default();
    let mut operational = Operational::default();
    for address in &port.saved.addresses {
        let attachment = attachments.iter().map(|(_, it)| it).find(|it| it.address == *address);
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let ours = if address.is_ipv4() { gateway.v4.into() } else { gateway.v6.into() };
        let view = (
            *address,
            attachment.map_or(whole, |it| it.length),
            attachment.and_then(|it| it.gateway).unwrap_or(ours),
        );
        let slot = if address.is_ipv4() { &mut operational.ipv4 } else { &mut operational.ipv6 };
        slot.get_or_insert(view);
    }
    operational
}
