//! Sub-ports: several ports on one tap, told apart by VLAN tag.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use agent_api::{AttachPort, ErrorKind, PortKey};
use common::{Node, tap};
use vrouter_agent::event::Effect;

/// The tap's port with this tag.
fn sub_port(node: &mut Node, vlan: Option<u16>, address: &str) -> AttachPort {
    let mut request = tap(node, "tap1", "city", &[address]);
    request.vlan = vlan;
    if let Some(vlan) = vlan {
        request.key = PortKey { container: "tap1".to_owned(), interface: format!("vlan{vlan}") };
    }
    request
}

#[test]
fn a_tap_has_one_port_for_each_tag_and_each_is_opened_with_its_own() {
    let mut node = Node::new();
    for (vlan, address) in [(None, "10.1.1.1"), (Some(101), "10.1.1.2"), (Some(102), "10.1.1.3")] {
        let request = sub_port(&mut node, vlan, address);
        node.attach(request).unwrap();
        let opened = node.log.iter().rev().find_map(|effect| match effect {
            Effect::OpenPort { interface, vlan, .. } => Some((interface.as_str(), *vlan)),
            _ => None,
        });
        assert_eq!(opened, Some(("vrtap1", vlan)));
    }
    let mut again = sub_port(&mut node, Some(101), "10.1.1.9");
    again.key.interface = "other".to_owned();
    let error = node.attach(again).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(error.message, "VLAN 101 of interface vrtap1 already belongs to port tap1/vlan101");
}

#[test]
fn tags_that_are_none_are_refused() {
    let mut node = Node::new();
    for vlan in [0, 4095, 65535] {
        let request = sub_port(&mut node, Some(vlan), "10.1.1.1");
        assert_eq!(node.attach(request).unwrap_err().kind, ErrorKind::BadRequest, "{vlan}");
    }
}
