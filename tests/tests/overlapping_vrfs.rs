//! Two tenants with the same addresses, on one node and across two: nobody reaches, or answers as, the other.

use std::net::{IpAddr, SocketAddr};

use vrouter_tests::fixture::ASN;
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{AgentConfig, Answer, Lab, Node, Pod, Probe, Server, Vrf, ask_tcp, ask_udp};

const TENANTS: [(&str, &str); 2] = [("red", "target:4200000000:1"), ("blue", "target:4200000000:2")];

/// A node where both tenants have the very same pod ranges.
fn node(lab: &Lab, host: u8, peer: u8) -> Node {
    let mut config = AgentConfig::new(ASN).neighbor(underlay_v4(peer).into());
    for (name, target) in TENANTS {
        let pods = (format!("10.30.{host}.0/24"), format!("fd00:30:{host}::/64"));
        config = config.vrf(&Vrf::new(name, target).pods(&pods.0).pods(&pods.1));
    }
    Node::start(lab, &format!("gw-{host}"), host, &config)
}

fn wait_routes(node: &Node, vrf: &str, pod: &Pod) {
    node.wait_route(vrf, &format!("{}/32", pod.v4()));
    node.wait_route(vrf, &format!("{}/128", pod.v6()));
}

#[test]
fn tenants_with_the_same_addresses_never_meet() {
    let lab = Lab::new();
    let (one, two) = (node(&lab, 11, 12), node(&lab, 12, 11));
    one.wait_established(two.address());
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for (tenant, _) in TENANTS {
        let client = one.add_pod_in(&format!("{tenant}-client"), tenant);
        let near = one.add_pod_in(&format!("{tenant}-near"), tenant);
        let far = two.add_pod_in(&format!("{tenant}-far"), tenant);
        for (place, server) in [("near", &near), ("far", &far)] {
            let name = format!("{tenant}-{place}");
            servers.push(Server::udp(server.namespace(), 7, &name));
            servers.push(Server::tcp(server.namespace(), 7, &name));
        }
        wait_routes(&one, tenant, &far);
        wait_routes(&two, tenant, &client);
        pods.push((tenant, client, near, far));
    }
    let [(_, red, red_near, red_far), (_, blue, blue_near, blue_far)] = &pods[..] else {
        panic!("two tenants")
    };
    assert_eq!(red.addresses(), blue.addresses(), "the tenants' clients have the same addresses");
    assert_eq!(red_near.addresses(), blue_near.addresses());
    assert_eq!(red_far.addresses(), blue_far.addresses());
    // Asked many times, by both, at once: each is answered by its own.
    for round in 0..20 {
        for (tenant, client, near, far) in &pods {
            for (place, server) in [("near", near), ("far", far)] {
                let address = server.addresses()[round % 2];
                let to = SocketAddr::new(address, 7);
                let name = format!("{tenant}-{place}");
                assert_eq!(ask_udp(client.namespace(), to, "x").expect("an answer"), format!("{name} x"));
                assert_eq!(ask_tcp(client.namespace(), to, "x").expect("an answer"), name);
            }
        }
    }
}

#[test]
fn a_tenant_alone_with_an_address_is_not_reached_by_the_other() {
    let lab = Lab::new();
    let (one, two) = (node(&lab, 11, 12), node(&lab, 12, 11));
    one.wait_established(two.address());
    let red = one.add_pod_in("red", "red");
    let (near, far) = (one.add_pod_in("blue-near", "blue"), two.add_pod_in("blue-far", "blue"));
    wait_routes(&one, "blue", &far);
    let taken: Vec<IpAddr> = red.addresses();
    for pod in [&near, &far] {
        for address in pod.addresses().into_iter().filter(|address| !taken.contains(address)) {
            let answer = Probe::hopeless().send(red.namespace(), address);
            assert_ne!(answer, Answer::Reply, "red reaches {address} of blue");
        }
    }
    assert!(one.route("red", &format!("{}/32", far.v4())).is_empty(), "red has no route into blue");
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply, "blue meets blue");
}
