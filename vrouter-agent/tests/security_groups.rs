//! Security groups from the API to the forwarding state.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use agent_api::{AddressPair, ErrorKind, FloatingIp, SecurityGroup};
use common::{CONFIG, Node, ip, prefix, tap};
use dataplane_core::policy::{Policy, Remote};
use dataplane_core::{Fib, StaticNat};
use vrouter_agent::event::{Effect, Event};
use vrouter_agent::fib_build::FibBuilder;
use vrouter_types::PortId;

fn group(text: &str) -> SecurityGroup {
    serde_json::from_str(text).unwrap()
}

fn put(node: &mut Node, text: &str) -> Result<bool, agent_api::ApiError> {
    let group = group(text);
    node.change_group(|call| Event::PutGroup { call, group })
}

fn delete(node: &mut Node, name: &str) -> Result<bool, agent_api::ApiError> {
    node.change_group(|call| Event::DeleteGroup { call, name: name.to_owned() })
}

/// A tap in these groups.
fn join(node: &mut Node, name: &str, address: &str, groups: &[&str]) -> PortId {
    let mut request = tap(node, name, "city", &[address]);
    request.security_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
    node.attach(request).unwrap().port
}

fn policy(fib: &Fib, port: PortId) -> Arc<Policy> {
    fib.port(port).unwrap().policy.clone().unwrap()
}

const WEB: &str = r#"{"name": "web", "rules": [
    {"direction": "ingress", "family": "ipv4", "protocol": "tcp", "portMin": 80},
    {"direction": "ingress", "family": "ipv4", "remoteGroup": "web"}],
    "members": ["10.9.0.0/24"]}"#;

#[test]
fn a_group_is_on_disk_before_it_is_in_force_and_that_before_it_is_acknowledged() {
    let mut node = Node::new();
    node.log.clear();
    assert_eq!(put(&mut node, WEB), Ok(false));
    assert!(matches!(
        node.log[..],
        [Effect::SaveGroup { .. }, Effect::PublishFib { soon: false }, Effect::Answer { .. }]
    ));
    assert_eq!(put(&mut node, WEB), Ok(true));
    assert_eq!(delete(&mut node, "web"), Ok(true));
    assert_eq!(delete(&mut node, "web"), Ok(false), "unknown groups are no error");
    assert!(node.groups.is_empty());
}

#[test]
fn a_group_that_could_not_be_written_is_as_it_was() {
    let mut node = Node::new();
    put(&mut node, WEB).unwrap();
    node.fail = Some(|effect| matches!(effect, Effect::SaveGroup { .. } | Effect::ForgetGroup { .. }));
    assert!(put(&mut node, r#"{"name": "web"}"#).is_err());
    assert_eq!(node.overlay.security_group("web").unwrap().rules.len(), 2);
    assert!(put(&mut node, r#"{"name": "other"}"#).is_err());
    assert_eq!(node.overlay.security_group("other"), None);
    assert!(delete(&mut node, "web").is_err());
    assert!(node.overlay.security_group("web").is_some());
}

#[test]
fn groups_outlive_the_agent() {
    let mut node = Node::new();
    put(&mut node, WEB).unwrap();
    let node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.overlay.security_group("web"), Some(group(WEB)));
}

#[test]
fn a_port_without_groups_has_no_policy_and_one_in_none_is_let_do_nothing() {
    let (mut node, mut fib) = (Node::new(), FibBuilder::new());
    let free = tap(&mut node, "tap0", "city", &["10.20.11.2"]);
    let free = node.attach(free).unwrap().port;
    let closed = join(&mut node, "tap1", "10.20.11.3", &[]);
    let snapshot = fib.build(&node.overlay);
    assert_eq!(snapshot.port(free).unwrap().policy, None);
    let policy = policy(&snapshot, closed);
    assert!(policy.ingress.is_empty() && policy.egress.is_empty());
}

#[test]
fn the_default_group_lets_out_and_in_from_its_members() {
    let (mut node, mut fib) = (Node::new(), FibBuilder::new());
    let port = join(&mut node, "tap0", "10.20.11.2", &["default"]);
    join(&mut node, "tap1", "10.20.11.3", &["default"]);
    let policy = policy(&fib.build(&node.overlay), port);
    assert_eq!((policy.ingress.len(), policy.egress.len()), (2, 2));
    let Remote::Members(members) = &policy.ingress[0].remote else { panic!("{policy:?}") };
    assert!(members.contains(ip("10.20.11.3")) && !members.contains(ip("10.20.11.4")));
}

#[test]
fn members_are_ports_of_the_node_their_allowed_addresses_and_those_that_are_given() {
    let (mut node, mut fib) = (Node::new(), FibBuilder::new());
    put(&mut node, WEB).unwrap();
    let port = join(&mut node, "tap0", "10.20.11.2", &["web"]);
    let members = |node: &Node, fib: &mut FibBuilder| {
        let policy = policy(&fib.build(&node.overlay), port);
        let Remote::Members(members) = policy.ingress[1].remote.clone() else { panic!("{policy:?}") };
        (members, policy.generation)
    };
    let (before, generation) = members(&node, &mut fib);
    assert!(before.contains(ip("10.9.0.7")) && before.contains(ip("10.20.11.2")));
    assert_eq!(members(&node, &mut fib).1, generation, "nothing has changed");
    let mut other = tap(&mut node, "tap1", "city", &["10.20.11.3"]);
    other.security_groups = Some(vec!["web".to_owned()]);
    other.allowed = vec![AddressPair { prefix: prefix("10.20.30.1/32"), mac: None }];
    node.attach(other).unwrap();
    let (after, next) = members(&node, &mut fib);
    assert!(after.contains(ip("10.20.11.3")) && after.contains(ip("10.20.30.1")));
    assert_ne!(next, generation, "flows are to be looked at again");
    let unrelated = tap(&mut node, "tap2", "city", &["10.20.11.4"]);
    node.attach(unrelated).unwrap();
    assert_eq!(members(&node, &mut fib).1, next);
    let view = node.overlay.security_group_view("web").unwrap();
    assert_eq!((view.ports.len(), view.addresses.len(), view.built_in), (2, 4, false));
}

#[test]
fn an_unknown_group_allows_nothing_and_is_told() {
    let (mut node, mut fib) = (Node::new(), FibBuilder::new());
    let port = join(&mut node, "tap0", "10.20.11.2", &["web"]);
    assert!(policy(&fib.build(&node.overlay), port).ingress.is_empty());
    let told = |node: &Node| {
        node.overlay.problems().iter().any(|problem| problem.contains("\"web\", which does not"))
    };
    assert!(told(&node));
    put(&mut node, WEB).unwrap();
    assert!(!told(&node));
    assert_eq!(policy(&fib.build(&node.overlay), port).ingress.len(), 2);
}

#[test]
fn a_group_in_use_is_not_deleted_and_mistakes_are_refused() {
    let mut node = Node::new();
    put(&mut node, WEB).unwrap();
    join(&mut node, "tap0", "10.20.11.2", &["web"]);
    let error = delete(&mut node, "web").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("tap0/eth0"), "{error}");
    let error = put(&mut node, r#"{"name": "../ports/0"}"#).unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadRequest);
    let bad = r#"{"name": "x", "rules": [{"direction": "ingress", "family": "ipv4", "portMin": 5}]}"#;
    assert!(put(&mut node, bad).unwrap_err().message.contains("rule 1: ports need a protocol"));
    for number in 0..1023 {
        put(&mut node, &format!(r#"{{"name": "g{number}"}}"#)).unwrap();
    }
    assert_eq!(put(&mut node, r#"{"name": "one-too-many"}"#).unwrap_err().kind, ErrorKind::Exhausted);
    put(&mut node, WEB).expect("what exists can change");
}

#[test]
fn a_floating_address_is_translated_in_its_vrf_and_waits_for_one_that_is_not_there() {
    let (mut node, mut fib) = (Node::new(), FibBuilder::new());
    let mut request = tap(&mut node, "tap0", "city", &["10.20.11.2"]);
    let floating = |address: &str, vrf: &str| FloatingIp {
        address: ip(address),
        fixed: ip("10.20.11.2"),
        vrf: vrf.to_owned(),
    };
    let other = node.overlay.vrfs()[1].config.name.clone();
    request.floating_ips = vec![floating("198.51.100.2", &other)];
    let port = node.attach(request).unwrap().port;
    let vrf = node.overlay.vrfs()[1].id;
    let expected = StaticNat { fixed: ip("10.20.11.2"), floating: ip("198.51.100.2"), vrf };
    assert_eq!(fib.build(&node.overlay).port(port).unwrap().nat, [expected]);
}
