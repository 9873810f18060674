//! Whether the forwarding state that packets meet has a port as the overlay has it: the last part of a CNI CHECK. What
//! is desired and what is published are built one from the other, so a difference is a defect; CHECK is where it shows.

use agent_api::PortKey;
use dataplane_core::{Fib, Route};
use vrouter_types::Prefix;

use crate::overlay::{Overlay, Port};

/// What is not as it should be, for people. A port that is unknown or waits is another's to judge.
pub fn fault(overlay: &Overlay, fib: &Fib, key: &PortKey) -> Option<String> {
    let port = overlay.port_by_key(key).filter(|port| port.is_up())?;
    difference(fib, port).map(|what| format!("port {key} is not forwarded as it should be: {what}"))
}

fn difference(fib: &Fib, port: &Port) -> Option<String> {
    let (id, label) = (port.saved.port, port.saved.label);
    let Some(forwarded) = fib.port(id) else {
        return Some("the forwarding state does not know it".to_owned());
    };
    if forwarded.mac != port.saved.request.mac || forwarded.vrf != port.vrf {
        return Some("the forwarding state has another MAC address or VRF".to_owned());
    }
    if fib.ilm.lookup(label) != Some(id) {
        return Some(format!("label {label} does not lead to it"));
    }
    let Some(vrf) = fib.vrf(port.vrf) else { return Some("its VRF forwards nothing".to_owned()) };
    let leads_elsewhere = |prefix: &Prefix| vrf.routes.get(*prefix) != Some(&Route::Port(id));
    let lost = port.saved.addresses.iter().copied().map(Prefix::host).find(leads_elsewhere);
    lost.map(|prefix| format!("{prefix} does not lead to it"))
}
