//! GoBGP as route reflector between two gateways, with RT constraint: it sends each only what its VRFs import.

use vrouter_tests::fixture::{ASN, city_rd, gateway, vrf, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{
    AgentConfig, Answer, GoBgp, GoBgpPeer, Lab, Node, PATIENCE, Probe, wait_for, wait_until,
};

const OTHER_TARGET: &str = "target:4200000000:200";

fn reflector(lab: &Lab) -> GoBgp {
    let peers = [11, 12].map(|host| GoBgpPeer::client(underlay_v4(host).into(), ASN));
    GoBgp::start(lab, "gobgp", 1, ASN, &peers)
}

/// The first gateway has a second VRF, whose route target the other one does not import.
fn reflected(lab: &Lab) -> (GoBgp, Node, Node) {
    let gobgp = reflector(lab);
    let other = vrf("other", OTHER_TARGET, 40, 11).line("rd = \"192.0.2.11:200\"");
    let one = Node::start(lab, "gw-11", 11, &gateway(11, &[1]).vrf(&other));
    let two = Node::start(lab, "gw-12", 12, &gateway(12, &[1]));
    one.wait_established(gobgp.address());
    two.wait_established(gobgp.address());
    (gobgp, one, two)
}

#[test]
fn gobgp_sees_our_routes_and_targets_and_pods_meet() {
    let lab = Lab::new();
    let (gobgp, one, two) = reflected(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let rd = city_rd(11);
    for (family, prefix) in [("vpnv4", format!("{}/32", near.v4())), ("vpnv6", format!("{}/128", near.v6()))]
    {
        let paths = gobgp.paths(family, &format!("{rd}:{prefix}"));
        assert_eq!(paths.len(), 1, "{prefix}: {}", gobgp.cli(&format!("global rib -a {family}")));
        let label = paths[0]["nlri"]["labels"][0].as_u64().unwrap_or_default();
        assert!(label >= 16, "{paths:#?}");
        let shown = gobgp.cli(&format!("global rib -a {family}"));
        for wanted in ["MPLS in UDP", "MPLS in GRE"] {
            assert!(shown.contains(wanted), "{wanted} in {shown}");
        }
    }
    for address in far.addresses() {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "to {address}");
    }
    near.delete();
    wait_until("the route to be withdrawn from GoBGP", PATIENCE, || {
        gobgp.paths("vpnv4", &format!("{rd}:{}/32", near.v4())).is_empty()
    });
    two.wait_no_route("city", &format!("{}/32", near.v4()));
}

#[test]
fn gobgp_sends_only_what_we_ask_for_by_rt_constraint() {
    let lab = Lab::new();
    let (gobgp, one, two) = reflected(&lab);
    let asked = gobgp.cli("global rib -a rtc");
    for target in ["4200000000:100", "4200000000:200"] {
        assert!(
            asked.contains(target) || asked.contains(&target.replace("4200000000", "64086.59904")),
            "{asked}"
        );
    }
    let summary = |node: &Node| node.ctl(&["show", "bgp", "neighbors"]);
    assert!(summary(&one).to_lowercase().contains("rtc"), "{}", summary(&one));
    let (near, other) = (one.add_pod("near"), one.add_pod_in("other", "other"));
    wait_routes(&two, &near.addresses());
    // Nobody but its own node imports the other VRF's target, so GoBGP has the route at most from us, for nobody.
    let sent = gobgp.cli("neighbor 192.0.2.12 adj-out -a vpnv4");
    assert!(sent.contains(&near.v4().to_string()), "{sent}");
    assert!(!sent.contains(&other.v4().to_string()), "{sent}");
    // A second importer: now it is sent.
    let mut two = two;
    two.stop_agent();
    let other_vrf = vrf("other", OTHER_TARGET, 40, 12).line("rd = \"192.0.2.12:200\"");
    two.write_config(&gateway(12, &[1]).vrf(&other_vrf));
    two.start_agent();
    two.wait_established(gobgp.address());
    wait_routes(&two, &near.addresses());
    two.wait_route("other", &format!("{}/32", other.v4()));
    let far = two.add_pod_in("far-other", "other");
    one.wait_route("other", &format!("{}/32", far.v4()));
    assert_eq!(Probe::default().send(far.namespace(), other.v4().into()), Answer::Reply);
}

#[test]
fn a_reflector_that_names_no_encapsulation_gets_the_neighbors_default() {
    let lab = Lab::new();
    let gobgp = reflector(&lab);
    let config = AgentConfig::new(ASN)
        .vrf(&vrouter_tests::fixture::city(11))
        .neighbor_with(gobgp.address(), "default-encapsulation = \"mpls-over-gre\"");
    let node = Node::start(&lab, "gw-11", 11, &config);
    node.wait_established(gobgp.address());
    let route = "10.99.0.0/24 label 100 rd 192.0.2.1:1 rt 64086.59904:100 nexthop 192.0.2.1";
    gobgp.announce("vpnv4", route);
    let hops = wait_for("the announced route", PATIENCE, || {
        let hops = node.route("city", "10.99.0.0/24");
        if hops.is_empty() { Err(node.ctl(&["show", "bgp", "routes"])) } else { Ok(hops) }
    });
    assert_eq!(hops[0]["encapsulation"], "mpls-over-gre", "{hops:#?}");
    assert_eq!(hops[0]["label"], 100, "{hops:#?}");
    gobgp.withdraw("vpnv4", route);
    node.wait_no_route("city", "10.99.0.0/24");
}
