//! Ports: attach, detach, check, failure, restart.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use agent_api::ErrorKind;
use common::{CONFIG, Node, ip, key, label, pod, prefix, tap};
use vrouter_agent::event::{Effect, Event, Millis};
use vrouter_agent::overlay::PortState;
use vrouter_types::PortId;

/// The kinds of effects in the log, in order.
fn kinds(log: &[Effect]) -> Vec<&'static str> {
    let kind = |effect: &Effect| match effect {
        Effect::SaveLabels { .. } => "save-labels",
        Effect::SavePort(_) => "save",
        Effect::ForgetPort { .. } => "forget",
        Effect::SaveGroup { .. } => "save-group",
        Effect::ForgetGroup { .. } => "forget-group",
        Effect::OpenPort { .. } => "open",
        Effect::OpenPorts(_) => "open all",
        Effect::SaveAll(_) => "save all",
        Effect::ClosePort(_) => "close",
        Effect::PublishFib { .. } => "publish",
        Effect::SetUnderlay(_) => "underlay",
        Effect::AddHostRoute(_) => "host+",
        Effect::RemoveHostRoute(_) => "host-",
        Effect::Originate(_) => "originate",
        Effect::Withdraw(_) => "withdraw",
        Effect::Answer { .. } => "answer",
        Effect::RemoveSpooled { .. } => "unspool",
        Effect::SetImports(_) => "imports",
        Effect::SetNeighbors { .. } => "neighbors",
        Effect::EndSessionsFrom(_) => "end-sessions",
    };
    log.iter().map(kind).collect()
}

#[test]
fn a_pod_is_on_disk_then_forwards_then_is_advertised_then_is_answered() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    let port = node.attach(request).unwrap();
    assert_eq!(
        kinds(&node.log),
        ["save-labels", "save", "open", "publish", "host+", "host+", "originate", "originate", "answer"]
    );
    assert_eq!((port.vrf.as_str(), port.label, port.mtu), ("city", label(16), 1468));
    assert_eq!(port.addresses, [ip("10.20.11.2"), ip("fd00:20:11::2")]);
    assert_eq!((port.gateway4, port.gateway6), ("169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()));
    assert_eq!(port.gateway_mac.to_string(), "00:00:5e:00:01:00");
    assert_eq!(
        node.routes(),
        ["192.0.2.11:1:10.20.11.2/32 16 192.0.2.11", "192.0.2.11:1:fd00:20:11::2/128 16 192.0.2.11"]
    );
    assert_eq!(node.disk[&port.port].addresses, port.addresses);
}

#[test]
fn a_detached_pod_is_withdrawn_first_and_leaves_nothing() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    node.attach(request).unwrap();
    node.log.clear();
    let gone = node.detach("c1").unwrap();
    assert_eq!(
        kinds(&node.log),
        ["withdraw", "withdraw", "host-", "host-", "publish", "close", "forget", "answer"]
    );
    assert!(gone.existed);
    assert_eq!(gone.host_interface.as_deref(), Some("vrc1"));
    node.assert_nothing_left();
    let again = node.detach("c1").unwrap();
    assert!(!again.existed && again.host_interface.is_none());
}

#[test]
fn the_same_attach_again_has_the_same_answer() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-lamps");
    let first = node.attach(request.clone()).unwrap();
    node.log.clear();
    assert_eq!(node.attach(request).unwrap(), first);
    assert_eq!(kinds(&node.log), ["answer"]);
}

#[test]
fn another_attach_of_the_same_key_replaces_the_port_cleanly() {
    let mut node = Node::new();
    let mut request = pod(&mut node, "c1", "city-lamps");
    let first = node.attach(request.clone()).unwrap();
    request.mac = "02:00:00:00:00:02".parse().unwrap();
    let second = node.attach(request).unwrap();
    assert_ne!((first.port, first.label), (second.port, second.label));
    assert_eq!(node.open.len(), 1);
    assert_eq!(node.disk.keys().copied().collect::<Vec<_>>(), [second.port]);
    assert!(node.advertised.values().all(|route| route.label == second.label));
    node.detach("c1").unwrap();
    node.assert_nothing_left();
}

#[test]
fn a_replacement_that_is_refused_leaves_the_old_port_alone() {
    let mut node = Node::new();
    let mut request = pod(&mut node, "c1", "city-lamps");
    let first = node.attach(request.clone()).unwrap();
    request.vrf = Some("nowhere".to_owned());
    node.log.clear();
    assert_eq!(node.attach(request).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(kinds(&node.log), ["answer"]);
    assert!(node.overlay.port(first.port).unwrap().is_up());
}

#[test]
fn the_vrf_is_the_annotation_then_the_configuration_then_the_namespaces_then_the_default() {
    for (asked, configured, namespace, vrf) in [
        (Some("city"), Some("tenant-b"), "city-a", "city"),
        (None, Some("tenant-b"), "b", "tenant-b"),
        (None, None, "city-a", "city"),
        (None, None, "b", "tenant-b"),
        (None, None, "kube-system", "main"),
        (Some("main"), None, "city-a", "main"),
    ] {
        let mut node = Node::new();
        let mut request = pod(&mut node, "c1", namespace);
        request.vrf = asked.map(str::to_owned);
        request.configured_vrf = configured.map(str::to_owned);
        assert_eq!(node.attach(request).unwrap().vrf, vrf, "{asked:?} {configured:?} {namespace}");
    }
}

#[test]
fn a_pod_may_only_enter_a_vrf_that_admits_its_namespace() {
    let mut node = Node::new();
    let mut request = pod(&mut node, "c1", "b");
    request.vrf = Some("city".to_owned());
    let error = node.attach(request.clone()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotAdmitted);
    assert!(
        error.message.contains("VRF \"city\" does not admit namespace \"b\" (it admits city-*)"),
        "{error}"
    );
    request.namespace = None;
    assert_eq!(node.attach(request).unwrap_err().kind, ErrorKind::NotAdmitted);
    node.assert_nothing_left();
}

#[test]
fn without_a_default_a_pod_that_matches_nothing_is_told_what_to_do() {
    let mut node = Node::with(&CONFIG.replace("default = true", ""));
    let request = pod(&mut node, "c1", "kube-system");
    let error = node.attach(request).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("vrouter.dev/vrf"), "{error}");
}

#[test]
fn an_exhausted_pool_names_itself_and_leaves_nothing() {
    let mut node = Node::new();
    for container in ["c1", "c2", "c3", "c4", "c5"] {
        let request = pod(&mut node, container, "default");
        node.attach(request).unwrap();
    }
    let (disk, labels) = (node.disk.clone(), node.overlay.labels().count());
    let request = pod(&mut node, "c6", "default");
    node.log.clear();
    let error = node.attach(request.clone()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(
        error.message.contains("VRF \"main\": no IPv4 address is left in 10.9.0.0/29 (all 5 in use)"),
        "{error}"
    );
    assert_eq!(kinds(&node.log), ["answer"]);
    assert_eq!((&node.disk, node.overlay.labels().count()), (&disk, labels));
    node.detach("c3").unwrap();
    assert_eq!(node.attach(request).unwrap().addresses, [ip("10.9.0.4")]);
}

#[test]
fn two_vrfs_with_the_same_addresses_never_meet() {
    let mut node = Node::new();
    let (a, b) = (pod(&mut node, "c1", "city-a"), pod(&mut node, "c2", "b"));
    let (a, b) = (node.attach(a).unwrap(), node.attach(b).unwrap());
    assert_eq!(a.addresses[0], b.addresses[0]);
    assert_ne!(a.label, b.label);
    let shared = ip("10.20.11.2");
    assert_eq!(node.overlay.host_owner(shared), None, "the host must not reach one for the other");
    assert!(!node.host_routes.contains(&shared));
    assert!(node.advertised.contains_key(&"192.0.2.11:1:10.20.11.2/32".parse().unwrap()));
    assert!(node.advertised.contains_key(&"192.0.2.11:2:10.20.11.2/32".parse().unwrap()));
    node.detach("c1").unwrap();
    assert_eq!(node.overlay.host_owner(shared), Some(b.port));
    assert!(node.host_routes.contains(&shared));
}

#[test]
fn the_default_vrfs_pod_has_a_shared_address_for_the_host() {
    let mut node = Node::new();
    let city = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    let main = tap(&mut node, "tap2", "main", &["10.1.1.1"]);
    node.attach(city).unwrap();
    let main = node.attach(main).unwrap();
    assert_eq!(node.overlay.host_owner(ip("10.1.1.1")), Some(main.port));
    assert!(node.host_routes.contains(&ip("10.1.1.1")));
}

#[test]
fn a_taken_address_interface_or_prefix_is_a_conflict_that_names_its_owner() {
    let mut node = Node::new();
    let mut first = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    first.prefixes = vec![prefix("10.7.0.0/24")];
    node.attach(first).unwrap();
    let same_address = tap(&mut node, "tap2", "city", &["10.1.1.1"]);
    let error = node.attach(same_address).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(
        error.message.contains("10.1.1.1/32 already belongs to port tap1/eth0 in VRF \"city\""),
        "{error}"
    );
    let mut same_prefix = tap(&mut node, "tap2", "city", &["10.1.1.2"]);
    same_prefix.prefixes = vec![prefix("10.7.0.0/24")];
    assert_eq!(node.attach(same_prefix).unwrap_err().kind, ErrorKind::Conflict);
    let mut same_interface = tap(&mut node, "tap2", "city", &["10.1.1.2"]);
    same_interface.host_interface = "vrtap1".to_owned();
    assert_eq!(node.attach(same_interface).unwrap_err().kind, ErrorKind::Conflict);
    let elsewhere = tap(&mut node, "tap2", "tenant-b", &["10.1.1.1"]);
    assert!(node.attach(elsewhere).is_ok(), "another VRF is another network");
}

#[test]
fn nonsense_is_refused_before_anything_is_done() {
    type Change = fn(&mut agent_api::AttachPort);
    let changes: [(&str, Change); 13] = [
        ("no container", |r| r.key.container.clear()),
        ("long container", |r| r.key.container = "x".repeat(129)),
        ("interface with a slash", |r| r.key.interface = "a/b".to_owned()),
        ("long host interface", |r| r.host_interface = "x".repeat(16)),
        ("group MAC", |r| r.mac = "01:00:5e:00:00:01".parse().unwrap()),
        ("no MAC", |r| r.mac = "00:00:00:00:00:00".parse().unwrap()),
        ("the gateway's MAC", |r| r.mac = "00:00:5e:00:01:00".parse().unwrap()),
        ("the gateway's address", |r| r.addresses = vec![ip("169.254.1.1")]),
        ("multicast", |r| r.addresses = vec![ip("224.0.0.1")]),
        ("an address twice", |r| r.addresses = vec![ip("10.1.1.1"), ip("10.1.1.1")]),
        ("link-local", |r| r.addresses = vec![ip("fe80::2")]),
        ("IPv6 with a small MTU", |r| (r.addresses, r.mtu) = (vec![ip("fd00::1")], Some(1279))),
        ("a long name", |r| r.name = Some("x".repeat(513))),
    ];
    for (what, change) in changes {
        let mut node = Node::new();
        let mut request = pod(&mut node, "c1", "city-a");
        change(&mut request);
        assert_eq!(node.attach(request).unwrap_err().kind, ErrorKind::BadRequest, "{what}");
        node.assert_nothing_left();
    }
    let mut node = Node::new();
    let mut no_address = tap(&mut node, "tap1", "city", &[]);
    assert_eq!(node.attach(no_address.clone()).unwrap_err().kind, ErrorKind::BadRequest);
    (no_address.addresses, no_address.vrf) = (vec![ip("10.1.1.1")], None);
    assert_eq!(node.attach(no_address).unwrap_err().kind, ErrorKind::BadRequest);
}

#[test]
fn a_failure_at_any_step_of_attach_leaves_nothing_and_says_why() {
    type Fails = fn(&Effect) -> bool;
    let steps: [(&str, Fails); 4] = [
        ("save labels", |effect| matches!(effect, Effect::SaveLabels { .. })),
        ("save port", |effect| matches!(effect, Effect::SavePort(_))),
        ("open port", |effect| matches!(effect, Effect::OpenPort { .. })),
        ("originate", |effect| matches!(effect, Effect::Originate(route) if !route.prefix.prefix.is_ipv4())),
    ];
    for (what, fail) in steps {
        let mut node = Node::new();
        let request = pod(&mut node, "c1", "city-a");
        node.fail = Some(fail);
        let error = node.attach(request.clone()).unwrap_err();
        assert_eq!(error.message, "it was made to fail", "{what}");
        node.assert_nothing_left();
        node.fail = None;
        let port = node.attach(request).unwrap();
        assert_eq!(port.label, label(17), "{what}: the first label rests");
    }
}

#[test]
fn a_host_route_that_fails_is_said_and_costs_no_port() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.fail = Some(|effect| matches!(effect, Effect::AddHostRoute(address) if address.is_ipv6()));
    node.attach(request).unwrap();
    assert!(node.overlay.problems().iter().any(|p| p.contains("the host cannot reach fd00:20:11::2")));
    assert_eq!(node.advertised.len(), 2);
}

#[test]
fn a_detach_whose_file_stays_is_not_acknowledged_and_is_tried_again() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    let port = node.attach(request).unwrap();
    node.fail = Some(|effect| matches!(effect, Effect::ForgetPort { .. }));
    assert_eq!(node.detach("c1").unwrap_err().kind, ErrorKind::Internal);
    assert_eq!(node.detach("c1").unwrap_err().kind, ErrorKind::Internal);
    assert!(node.open.is_empty() && node.advertised.is_empty());
    assert!(node.overlay.problems().iter().any(|problem| problem.contains("c1/eth0")));
    node.handle(Event::Tick { now: Millis(1_000) });
    assert!(node.disk.contains_key(&port.port));
    node.fail = None;
    node.handle(Event::Tick { now: Millis(10_000) });
    node.assert_nothing_left();
    assert!(node.overlay.problems().iter().all(|problem| !problem.contains("c1/eth0")));
}

#[test]
fn a_replacement_whose_old_file_stays_is_refused_and_undone() {
    let mut node = Node::new();
    let mut request = pod(&mut node, "c1", "city-a");
    node.attach(request.clone()).unwrap();
    request.mac = "02:00:00:00:00:02".parse().unwrap();
    node.fail = Some(|effect| matches!(effect, Effect::ForgetPort { .. }));
    assert!(node.attach(request).is_err());
    node.fail = None;
    node.handle(Event::Tick { now: Millis(1_000) });
    node.assert_nothing_left();
}

#[test]
fn a_spooled_delete_goes_once_its_port_is_gone() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.attach(request).unwrap();
    node.spool.insert("1.json".to_owned());
    let spooled = || Event::Spooled { file: "1.json".to_owned(), key: key("c1"), now: Millis(0) };
    node.fail = Some(|effect| matches!(effect, Effect::ForgetPort { .. }));
    node.handle(spooled());
    assert!(node.spool.contains("1.json"), "not done, so not forgotten");
    node.fail = None;
    node.handle(spooled());
    assert!(node.spool.is_empty());
    node.assert_nothing_left();
}

#[test]
fn check_answers_what_attach_did_while_all_of_it_stands() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    assert_eq!(node.check(request.clone()).unwrap_err().kind, ErrorKind::NotFound);
    let port = node.attach(request.clone()).unwrap();
    assert_eq!(node.check(request.clone()).unwrap(), port);
    let mut named = request.clone();
    named.addresses = port.addresses.clone();
    assert_eq!(node.check(named.clone()).unwrap(), port);
    named.addresses = vec![ip("10.20.11.77")];
    assert_eq!(node.check(named).unwrap_err().kind, ErrorKind::Conflict);
    let mut other_mac = request.clone();
    other_mac.mac = "02:00:00:00:00:09".parse().unwrap();
    assert_eq!(node.check(other_mac).unwrap_err().kind, ErrorKind::Conflict);
    node.handle(Event::LinkRemoved("vrc1".to_owned()));
    assert_eq!(node.check(request).unwrap_err().kind, ErrorKind::Unavailable);
}

#[test]
fn a_label_rests_after_it_is_withdrawn() {
    let mut node = Node::with(CONFIG);
    let request = pod(&mut node, "c1", "city-a");
    let first = node.attach(request.clone()).unwrap().label;
    node.detach("c1").unwrap();
    let second = node.attach(request).unwrap().label;
    assert_ne!(first, second);
    let resting = |node: &Node| node.overlay.labels().any(|(label, _)| label == first);
    node.handle(Event::Tick { now: Millis(59_999) });
    assert!(resting(&node));
    node.handle(Event::Tick { now: Millis(60_000) });
    assert!(!resting(&node));
}

#[test]
fn a_restart_brings_the_same_ports_labels_and_addresses_before_anybody_asks() {
    let mut node = Node::new();
    let mut before = Vec::new();
    for (container, namespace) in [("c1", "city-a"), ("c2", "b"), ("c3", "city-b")] {
        let request = pod(&mut node, container, namespace);
        before.push((request.clone(), node.attach(request).unwrap()));
    }
    let routes = node.routes();
    let mut node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.routes(), routes);
    let order = kinds(&node.log);
    let last_open = order.iter().rposition(|kind| *kind == "open").unwrap();
    let publish = order.iter().position(|kind| *kind == "publish").unwrap();
    let first_originate = order.iter().position(|kind| *kind == "originate").unwrap();
    assert!(publish < last_open && last_open < first_originate, "{order:?}");
    assert!(!order.contains(&"save") && !order.contains(&"forget"));
    for (request, port) in before {
        assert_eq!(node.attach(request.clone()).unwrap(), port);
        assert_eq!(node.check(request).unwrap(), port);
    }
}

#[test]
fn a_restart_reuses_no_label_port_number_or_address_of_a_port_that_just_went() {
    let mut node = Node::new();
    for container in ["c1", "c2"] {
        let request = pod(&mut node, container, "city-a");
        node.attach(request).unwrap();
    }
    node.detach("c2").unwrap();
    let mut node = node.restart(CONFIG, "boot-1");
    let request = pod(&mut node, "c3", "city-a");
    let port = node.attach(request).unwrap();
    assert!(port.label > label(17), "{}", port.label);
    assert!(!node.disk.values().any(|saved| saved.port == port.port && saved.request.key == key("c1")));
}

#[test]
fn a_lost_label_cursor_goes_on_well_behind_the_last_label() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.attach(request).unwrap();
    node.cursor = None;
    let mut node = node.restart(CONFIG, "boot-1");
    let request = pod(&mut node, "c2", "city-a");
    assert!(node.attach(request).unwrap().label > label(1_000));
}

#[test]
fn after_a_reboot_pods_without_interface_are_forgotten_and_taps_wait() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.attach(request).unwrap();
    let request = tap(&mut node, "tap1", "city", &["10.1.1.1"]);
    let vm = node.attach(request).unwrap();
    node.links.clear();
    let mut node = node.restart(CONFIG, "boot-2");
    assert_eq!(node.disk.keys().copied().collect::<Vec<_>>(), [vm.port]);
    assert!(node.advertised.is_empty() && node.open.is_empty());
    assert!(matches!(node.overlay.port(vm.port).unwrap().state, PortState::Waiting(_)));
    node.links.insert("vrtap1".to_owned());
    node.handle(Event::LinkAdded("vrtap1".to_owned()));
    assert_eq!(node.routes(), ["192.0.2.11:1:10.1.1.1/32 17 192.0.2.11"]);
    assert!(node.open.contains_key(&vm.port));
}

#[test]
fn in_the_same_boot_a_pod_without_interface_waits_for_its_delete() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.attach(request).unwrap();
    node.links.clear();
    let mut node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.overlay.ports().count(), 1);
    assert!(node.advertised.is_empty());
    assert!(node.detach("c1").unwrap().existed);
    node.assert_nothing_left();
}

#[test]
fn an_interface_that_cannot_be_opened_at_restart_costs_only_its_own_port() {
    let mut node = Node::new();
    for container in ["c1", "c2", "c3"] {
        let request = pod(&mut node, container, "city-a");
        node.attach(request).unwrap();
    }
    node.log.clear();
    let (links, disk, cursor) = (node.links.clone(), node.disk.clone(), node.cursor);
    let mut node = Node::new();
    (node.links, node.disk, node.cursor) = (links, disk, cursor);
    node.fail = Some(|effect| matches!(effect, Effect::OpenPort { interface, .. } if interface == "vrc2"));
    let restore = vrouter_agent::event::Restore {
        ports: node.disk.values().cloned().collect(),
        label_cursor: node.cursor,
        links: node.links.iter().cloned().collect(),
        boot_id: "boot-1".to_owned(),
        ..Default::default()
    };
    node.handle(Event::Restore(restore));
    assert_eq!(node.open.values().map(String::as_str).collect::<Vec<_>>(), ["vrc1", "vrc3"]);
    assert_eq!(node.advertised.len(), 4);
    assert!(!node.host_routes.contains(&ip("10.20.11.3")) && node.host_routes.contains(&ip("10.20.11.4")));
    node.fail = None;
    node.handle(Event::Tick { now: Millis(60_000) });
    assert_eq!((node.open.len(), node.advertised.len(), node.host_routes.len()), (3, 6, 6));
}

#[test]
fn a_port_whose_vrf_is_gone_is_kept_unserved_until_it_is_detached() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "b");
    let port = node.attach(request).unwrap();
    let config = CONFIG.replace("tenant-b", "tenant-c").replace("namespaces = [\"b\"]", "");
    let mut node = node.restart(&config, "boot-1");
    assert!(
        node.overlay.problems().iter().any(|p| p.contains("VRF \"tenant-b\" is not configured any more"))
    );
    assert!(node.advertised.is_empty() && node.disk.contains_key(&port.port));
    let request = pod(&mut node, "c2", "city-a");
    let other = node.attach(request).unwrap();
    assert_ne!((other.port, other.label), (port.port, port.label));
    assert!(node.detach("c1").unwrap().existed);
    assert!(!node.disk.contains_key(&port.port));
}

#[test]
fn saved_ports_that_contradict_each_other_do_not_both_serve() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    let port = node.attach(request).unwrap();
    let mut twin = node.disk[&port.port].clone();
    (twin.port, twin.sequence, twin.label) = (PortId(9), 9, label(40));
    twin.request.key = key("c9");
    node.disk.insert(twin.port, twin.clone());
    (twin.port, twin.request.key) = (PortId(u32::MAX), key("c10"));
    node.disk.insert(twin.port, twin);
    let node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.overlay.ports().map(|port| port.saved.port).collect::<Vec<_>>(), [port.port]);
    assert_eq!(node.overlay.problems().iter().filter(|problem| problem.contains("is not served")).count(), 2);
}

#[test]
fn a_tap_that_vanishes_is_withdrawn_and_comes_back_by_itself() {
    let mut node = Node::new();
    let request = tap(&mut node, "tap1", "city", &["10.1.1.1", "fd00::7"]);
    let port = node.attach(request).unwrap();
    node.log.clear();
    node.links.clear();
    node.handle(Event::LinkRemoved("vrtap1".to_owned()));
    assert_eq!(kinds(&node.log), ["withdraw", "withdraw", "host-", "host-", "publish", "close"]);
    assert!(node.disk.contains_key(&port.port));
    node.handle(Event::Tick { now: Millis(600_000) });
    assert!(node.advertised.is_empty() && node.open.is_empty());
    node.links.insert("vrtap1".to_owned());
    node.handle(Event::LinkAdded("vrtap1".to_owned()));
    assert_eq!((node.open.len(), node.advertised.len(), node.host_routes.len()), (1, 2, 2));
    assert!(node.advertised.values().all(|route| route.label == port.label));
}

#[test]
fn a_tap_that_is_not_there_yet_waits_visibly_and_joins_when_it_appears() {
    let mut node = Node::new();
    let request = tap(&mut node, "tap1", "city", &["10.1.1.1", "fd00::7"]);
    node.links.clear();
    let port = node.attach(request.clone()).unwrap();
    assert!(port.waits.as_deref().is_some_and(|why| why.contains("vrtap1")), "{port:?}");
    assert!(node.disk.contains_key(&port.port), "it is acknowledged, so it is on disk");
    assert!(node.advertised.is_empty() && node.open.is_empty() && node.host_routes.is_empty());
    assert!(
        node.overlay.problems().iter().any(|problem| problem.contains("waits") && problem.contains("vrtap1"))
    );
    assert_eq!(node.attach(request.clone()).unwrap(), port, "asked again, it still waits");
    let mut node = node.restart(CONFIG, "boot-1");
    assert!(node.advertised.is_empty() && node.open.is_empty());
    node.links.insert("vrtap1".to_owned());
    node.handle(Event::LinkAdded("vrtap1".to_owned()));
    assert_eq!((node.open.len(), node.advertised.len(), node.host_routes.len()), (1, 2, 2));
    let again = node.attach(request).unwrap();
    assert_eq!((again.waits, again.label, again.port), (None, port.label, port.port));
    node.detach("tap1").unwrap();
    node.assert_nothing_left();
}

#[test]
fn a_pod_without_its_interface_is_refused() {
    let mut node = Node::new();
    let request = pod(&mut node, "c1", "city-a");
    node.links.clear();
    assert_eq!(node.attach(request).unwrap_err().kind, agent_api::ErrorKind::NotFound);
    node.assert_nothing_left();
}

#[test]
fn a_workloads_mtu_is_what_the_largest_tunnel_header_leaves() {
    for (mtu, wanted, expected) in
        [(1500, None, 1468), (1500, Some(9000), 1468), (1500, Some(1400), 1400), (1420, None, 1388)]
    {
        let mut node = Node::new();
        node.underlay(Some("192.0.2.11"), mtu);
        let mut request = pod(&mut node, "c1", "city-a");
        request.mtu = wanted;
        assert_eq!(node.attach(request).unwrap().mtu, expected, "{mtu} {wanted:?}");
    }
    let mut node = Node::new();
    node.underlay(Some("192.0.2.11"), 1300);
    let (dual, v4) = (pod(&mut node, "c1", "city-a"), pod(&mut node, "c2", "b"));
    assert_eq!(node.attach(dual).unwrap().mtu, 1280, "IPv6 needs 1280");
    assert_eq!(node.attach(v4).unwrap().mtu, 1268);
    let mut node = Node::with(
        &CONFIG
            .replace("192.0.2.11", "2001:db8::11")
            .replace("asn = 64512", "asn = 64512\nrouter-id = \"192.0.2.11\""),
    );
    let request = pod(&mut node, "c1", "city-a");
    assert_eq!(node.attach(request).unwrap().mtu, 1448);
}

#[test]
fn a_port_that_fails_to_come_back_leaves_a_shared_address_with_its_other_owner() {
    let mut node = Node::new();
    let (city, b) = (pod(&mut node, "c1", "city-a"), pod(&mut node, "c2", "b"));
    node.attach(city).unwrap();
    let b = node.attach(b).unwrap();
    node.links.remove("vrc1");
    node.handle(Event::LinkRemoved("vrc1".to_owned()));
    assert!(node.host_routes.contains(&ip("10.20.11.2")));
    node.handle(Event::Tick { now: Millis(2_000) });
    assert_eq!(node.overlay.host_owner(ip("10.20.11.2")), Some(b.port));
    assert!(node.host_routes.contains(&ip("10.20.11.2")));
}

#[test]
fn a_file_with_an_absurd_sequence_stops_nobody() {
    let mut node = Node::new();
    for name in ["a", "b"] {
        let request = pod(&mut node, name, "city-x");
        node.attach(request).unwrap();
    }
    let planted = node.disk.values_mut().next().unwrap();
    planted.sequence = u64::MAX;
    let mut node = node.restart(CONFIG, "boot-1");
    assert_eq!(node.overlay.ports().count(), 1, "it makes no sense");
    let request = pod(&mut node, "c", "city-x");
    node.attach(request).unwrap();
    assert!(node.overlay.problems().iter().any(|it| it.contains("a/eth0")), "{:?}", node.overlay.problems());
}
