//! Security groups: what may begin, what goes on, and what a flood costs.

use std::sync::Arc;

use dataplane_core::policy::{Members, Policy, Remote, Rule, Service};
use dataplane_core::{DropReason, FlowLimits, FlowTable, HostFlows, Port, Snat, State, Verdict};
use vrouter_types::PortId;

use crate::lab::{CITY, CITY_2, Lab, Out, assert_drop};
use crate::packets::{ACK, ICMP, SYN, echo, flags, ip, labelled, tcp, udp, udp_ports};

const RST: u8 = 0x04;

fn any(v4: bool) -> Rule {
    Rule { v4, protocol: None, service: Service::Any, remote: Remote::Any }
}

fn set(lab: &mut Lab, port: PortId, generation: u64, ingress: Vec<Rule>, egress: Vec<Rule>) {
    let mut changed = Port::clone(lab.fib.port(port).unwrap());
    changed.policy = Some(Arc::new(Policy { generation, ingress: ingress.into(), egress: egress.into() }));
    lab.fib.insert_port(Arc::new(changed));
}

/// City's first workload may begin whatever it likes, and nothing may begin towards it.
fn lab() -> Lab {
    let mut lab = Lab::new();
    set(&mut lab, CITY, 1, vec![], vec![any(true), any(false)]);
    lab
}

fn web() -> Rule {
    Rule { v4: true, protocol: Some(6), service: Service::Ports(80..=80), remote: Remote::Any }
}

fn arrive(lab: &mut Lab, packet: &[u8]) -> Out {
    lab.underlay(&labelled(16, true, 64, packet))
}

/// An answer to a TCP packet of the helpers, from port 80 to port 40000.
fn answer(src: &str, dst: &str, flags: u8) -> Vec<u8> {
    let mut answer = tcp(src, dst, flags, &[], 0);
    let at = if src.contains(':') { 40 } else { 20 };
    answer[at..at + 4].copy_from_slice(&[0, 80, 0x9c, 0x40]);
    answer
}

#[test]
fn what_a_workload_begins_is_answered_and_nothing_else_comes_in() {
    for (pod, far, echoes) in
        [("10.20.11.2", "10.20.12.7", [8, 0]), ("fd00:20:11::2", "fd00:20:12::7", [128, 129])]
    {
        let mut lab = lab();
        assert_drop(&arrive(&mut lab, &udp_ports(far, pod, (9, 40000), 3)), DropReason::PolicyIngress);
        assert!(matches!(lab.port(CITY, &udp(pod, far, 3)).verdict, Verdict::ToUnderlay(_)));
        assert_eq!(arrive(&mut lab, &udp_ports(far, pod, (9, 40000), 3)).verdict, Verdict::ToPort(CITY));
        assert_drop(&arrive(&mut lab, &udp_ports(far, pod, (9, 40001), 3)), DropReason::PolicyIngress);
        assert_drop(&arrive(&mut lab, &tcp(far, pod, SYN, &[], 0)), DropReason::PolicyIngress);
        assert!(matches!(lab.port(CITY, &tcp(pod, far, SYN, &[], 0)).verdict, Verdict::ToUnderlay(_)));
        assert_eq!(arrive(&mut lab, &answer(far, pod, SYN | ACK)).verdict, Verdict::ToPort(CITY));
        assert_drop(&arrive(&mut lab, &echo(far, pod, echoes[0], 5)), DropReason::PolicyIngress);
        assert_drop(&arrive(&mut lab, &echo(far, pod, echoes[1], 5)), DropReason::PolicyIngress);
        assert!(matches!(lab.port(CITY, &echo(pod, far, echoes[0], 5)).verdict, Verdict::ToUnderlay(_)));
        assert_eq!(arrive(&mut lab, &echo(far, pod, echoes[1], 5)).verdict, Verdict::ToPort(CITY));
    }
}

#[test]
fn a_port_in_no_group_may_nothing() {
    let mut lab = Lab::new();
    set(&mut lab, CITY, 1, vec![], vec![]);
    assert_drop(&lab.port(CITY, &udp("10.20.11.2", "10.20.12.7", 3)), DropReason::PolicyEgress);
    assert_drop(&lab.port(CITY, &udp("10.20.11.2", "10.20.11.3", 3)), DropReason::PolicyEgress);
    assert_drop(&arrive(&mut lab, &udp("10.20.12.7", "10.20.11.2", 3)), DropReason::PolicyIngress);
    // But ask whether its router is there.
    assert!(matches!(lab.port(CITY, &echo("10.20.11.2", "169.254.1.1", 8, 1)).verdict, Verdict::Reply(_)));
    // And the host reaches it: a probe is the node's own.
    assert_eq!(lab.host(&udp("169.254.1.1", "10.20.11.2", 3)).verdict, Verdict::ToPort(CITY));
    assert_eq!(
        lab.port(CITY, &udp_ports("10.20.11.2", "169.254.1.1", (9, 40000), 3)).verdict,
        Verdict::ToHost
    );
}

#[test]
fn both_ends_on_one_node_have_their_say() {
    let mut lab = lab();
    let there = udp("10.20.11.2", "10.20.11.3", 3);
    assert_eq!(lab.port(CITY, &there).verdict, Verdict::ToPort(CITY_2), "a port without policy");
    let members: Members = ["10.20.11.2/32".parse().unwrap()].into_iter().collect();
    let friends = Rule { remote: Remote::Members(Arc::new(members)), ..any(true) };
    set(&mut lab, CITY_2, 2, vec![friends], vec![]);
    assert_eq!(lab.port(CITY, &there).verdict, Verdict::ToPort(CITY_2), "a member of its group");
    let back = udp_ports("10.20.11.3", "10.20.11.2", (9, 40000), 3);
    assert_eq!(lab.port(CITY_2, &back).verdict, Verdict::ToPort(CITY), "an answer");
    assert_drop(&lab.port(CITY_2, &udp("10.20.11.3", "10.20.11.2", 3)), DropReason::PolicyEgress);
    set(&mut lab, CITY_2, 3, vec![], vec![]);
    assert_drop(
        &lab.port(CITY, &udp_ports("10.20.11.2", "10.20.11.3", (7, 9), 3)),
        DropReason::PolicyIngress,
    );
    assert_eq!(lab.state.refused_by.take(), Some(CITY_2), "counted where the rules are");
}

#[test]
fn errors_about_a_known_flow_pass() {
    let mut lab = lab();
    let original = udp("10.20.11.2", "10.20.12.7", 3);
    let error = |about: &[u8]| {
        let message = [&[3, 1, 0, 0, 0, 0, 0, 0][..], about].concat();
        ip("10.20.12.1", "10.20.11.2", ICMP, message, 2)
    };
    assert_drop(&arrive(&mut lab, &error(&original)), DropReason::PolicyIngress);
    lab.port(CITY, &original);
    assert_eq!(arrive(&mut lab, &error(&original)).verdict, Verdict::ToPort(CITY));
    let other = udp_ports("10.20.11.2", "10.20.12.7", (1, 9), 3);
    assert_drop(&arrive(&mut lab, &error(&other)), DropReason::PolicyIngress);
}

#[test]
fn an_error_goes_to_whoever_sent_the_packet_that_it_is_about() {
    // RFC 5508 §7.2: what is quoted was sent by whom the error is for. Anything else only borrows a flow.
    for (pod, other, far, router) in [
        ("10.20.11.2", "10.20.11.9", "10.20.12.7", "10.20.12.1"),
        ("fd00:20:11::2", "fd00:20:11::9", "fd00:20:12::7", "fd00:20:12::1"),
    ] {
        let mut lab = lab();
        let mut two = Port::clone(lab.fib.port(CITY).unwrap());
        two.addresses.push(other.parse().unwrap());
        lab.fib.insert_port(Arc::new(two));
        let original = udp(pod, far, 3);
        assert!(matches!(lab.port(CITY, &original).verdict, Verdict::ToUnderlay(_)));
        let (kind, protocol) = if pod.contains(':') { (1, 58) } else { (3, ICMP) };
        let message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &original].concat();
        let to = |dst| ip(router, dst, protocol, message.clone(), 2);
        assert_eq!(arrive(&mut lab, &to(pod)).verdict, Verdict::ToPort(CITY));
        assert_drop(&arrive(&mut lab, &to(other)), DropReason::PolicyIngress);
    }
}

#[test]
fn established_flows_go_on_while_rules_change_where_rules_still_allow_them() {
    let mut lab = Lab::new();
    let egress = || vec![any(true)];
    set(&mut lab, CITY, 1, vec![web()], egress());
    let (syn, ack) =
        (tcp("10.20.12.7", "10.20.11.2", SYN, &[], 0), tcp("10.20.12.7", "10.20.11.2", ACK, &[], 9));
    let reply = answer("10.20.11.2", "10.20.12.7", SYN | ACK);
    let data = answer("10.20.11.2", "10.20.12.7", ACK);
    assert_eq!(arrive(&mut lab, &syn).verdict, Verdict::ToPort(CITY));
    assert!(matches!(lab.port(CITY, &reply).verdict, Verdict::ToUnderlay(_)));
    assert_eq!(arrive(&mut lab, &ack).verdict, Verdict::ToPort(CITY));
    // Another rule that also allows it.
    let members: Members = ["10.20.12.0/24".parse().unwrap()].into_iter().collect();
    let from_there = Rule { remote: Remote::Members(Arc::new(members)), ..web() };
    set(&mut lab, CITY, 2, vec![from_there], egress());
    assert!(matches!(lab.port(CITY, &data).verdict, Verdict::ToUnderlay(_)));
    assert_eq!(arrive(&mut lab, &ack).verdict, Verdict::ToPort(CITY));
    // None that does: cut off in both directions, though the workload could begin what looks like the rest of it.
    set(&mut lab, CITY, 3, vec![], egress());
    assert_drop(&arrive(&mut lab, &ack), DropReason::PolicyIngress);
    assert_drop(&lab.port(CITY, &data), DropReason::PolicyEgress);
    assert_drop(&arrive(&mut lab, &ack), DropReason::PolicyIngress);
    // The rule is back, and so is the connection.
    set(&mut lab, CITY, 4, vec![web()], egress());
    assert!(matches!(lab.port(CITY, &data).verdict, Verdict::ToUnderlay(_)));
    assert_eq!(arrive(&mut lab, &ack).verdict, Verdict::ToPort(CITY));
}

#[test]
fn a_connection_whose_beginning_nobody_saw_goes_on_where_rules_allow_it() {
    // As after a restart of the agent: the first packet may come from either side.
    let mut lab = Lab::new();
    set(&mut lab, CITY, 1, vec![web()], vec![]);
    let data = answer("10.20.11.2", "10.20.12.7", ACK);
    assert_drop(&lab.port(CITY, &data), DropReason::PolicyEgress);
    assert_eq!(
        arrive(&mut lab, &tcp("10.20.12.7", "10.20.11.2", ACK, &[], 9)).verdict,
        Verdict::ToPort(CITY)
    );
    assert!(matches!(lab.port(CITY, &data).verdict, Verdict::ToUnderlay(_)));
    // A reset begins nothing.
    let mut lab = Lab::new();
    set(&mut lab, CITY, 1, vec![web()], vec![]);
    assert_eq!(
        arrive(&mut lab, &tcp("10.20.12.7", "10.20.11.2", RST, &[], 0)).verdict,
        Verdict::ToPort(CITY)
    );
    assert_drop(&lab.port(CITY, &data), DropReason::PolicyEgress);
    assert_eq!(lab.state.flow_table.flows(0).count(), 0);
}

#[test]
fn a_connection_over_and_begun_from_the_other_side_is_another() {
    let mut lab = lab();
    let out = |flags| tcp("10.20.11.2", "10.20.12.7", flags, &[], 0);
    lab.port(CITY, &out(SYN));
    arrive(&mut lab, &answer("10.20.12.7", "10.20.11.2", SYN | ACK));
    lab.port(CITY, &out(RST | ACK));
    assert_drop(&arrive(&mut lab, &answer("10.20.12.7", "10.20.11.2", SYN)), DropReason::PolicyIngress);
}

#[test]
fn fragments_follow_the_first_and_alone_do_not_pass() {
    let mut lab = lab();
    let first = flags(udp("10.20.11.2", "10.20.12.7", 40), 0x2000);
    let later = flags(ip("10.20.11.2", "10.20.12.7", 17, vec![0xee; 24], 6), 0x0006);
    assert_drop(&lab.port(CITY, &later), DropReason::FlowFragment);
    assert!(matches!(lab.port(CITY, &first).verdict, Verdict::ToUnderlay(_)));
    assert!(matches!(lab.port(CITY, &later).verdict, Verdict::ToUnderlay(_)));
    lab.state.now_ms += 10_000;
    assert_drop(&lab.port(CITY, &later), DropReason::FlowFragment);
    let inward = flags(udp_ports("10.20.12.7", "10.20.11.2", (1, 2), 40), 0x2000);
    assert_drop(&arrive(&mut lab, &inward), DropReason::PolicyIngress);
}

#[test]
fn a_flood_of_new_flows_is_refused_by_name_and_an_old_one_stays() {
    let mut lab = lab();
    let limits = FlowLimits { flows: 4096, per_port: 500, ..FlowLimits::default() };
    let table = FlowTable::new(limits, [3, 5]);
    table.prepare();
    lab.state = State::sharing(Arc::new(HostFlows::new(16, [1, 2])), Arc::new(table));
    lab.port(CITY, &tcp("10.20.11.2", "10.20.12.7", SYN, &[], 0));
    arrive(&mut lab, &answer("10.20.12.7", "10.20.11.2", SYN | ACK));
    lab.port(CITY, &tcp("10.20.11.2", "10.20.12.7", ACK, &[], 0));
    let mut refused = 0;
    let mut random = 1u32;
    for _ in 0..20_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = random.to_be_bytes();
        let packet = udp_ports("10.20.11.2", &format!("10.20.12.{a}"), (u16::from_be_bytes([b, c]), 9), 3);
        match lab.port(CITY, &packet).verdict {
            Verdict::Drop(DropReason::FlowLimitPort) => refused += 1,
            Verdict::ToUnderlay(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 19_000, "{refused}");
    assert!(matches!(
        lab.port(CITY, &tcp("10.20.11.2", "10.20.12.7", ACK, &[], 5)).verdict,
        Verdict::ToUnderlay(_)
    ));
    assert_eq!(arrive(&mut lab, &answer("10.20.12.7", "10.20.11.2", ACK)).verdict, Verdict::ToPort(CITY));
    // Others do not notice.
    set(&mut lab, CITY_2, 2, vec![], vec![any(true)]);
    assert!(matches!(lab.port(CITY_2, &udp("10.20.11.3", "10.20.12.7", 3)).verdict, Verdict::ToUnderlay(_)));
}

#[test]
fn a_policy_also_holds_for_what_leaves_with_the_nodes_address() {
    let mut lab = Lab::new();
    let mut vrf = dataplane_core::Vrf::clone(lab.fib.vrfs[0].as_ref().unwrap());
    vrf.snat = Some(Snat::BOTH);
    lab.fib.vrfs[0] = Some(Arc::new(vrf));
    let to_web = Rule { v4: true, protocol: Some(6), service: Service::Ports(80..=80), remote: Remote::Any };
    set(&mut lab, CITY, 1, vec![], vec![to_web]);
    assert_drop(&lab.port(CITY, &udp("10.20.11.2", "203.0.113.9", 3)), DropReason::PolicyEgress);
    assert_eq!(lab.port(CITY, &tcp("10.20.11.2", "203.0.113.9", SYN, &[], 0)).verdict, Verdict::ToHost);
    set(&mut lab, CITY, 2, vec![], vec![]);
    let back = answer("203.0.113.9", "169.254.64.2", SYN | ACK);
    assert_drop(&lab.host(&back), DropReason::PolicyIngress);
}

#[test]
fn a_source_counts_with_the_mac_that_it_was_allowed_with() {
    let mut lab = Lab::new();
    let virtual_mac = [0, 0, 0x5e, 0, 1, 9];
    let mut port = Port::clone(lab.fib.port(CITY).unwrap());
    port.allowed = vec![
        ("10.20.30.1/32".parse().unwrap(), Some(vrouter_types::MacAddr(virtual_mac))),
        ("10.20.31.0/24".parse().unwrap(), None),
    ];
    port.dscp = Some(46);
    lab.fib.insert_port(Arc::new(port));
    let mut from = |mac: [u8; 6], src: &str| {
        let packet = crate::packets::ethernet(crate::lab::GATEWAY, mac, &udp(src, "10.20.12.7", 3));
        lab.frame(CITY, &packet, dataplane_core::VnetHeader::NONE)
    };
    let own = crate::lab::mac(CITY);
    let Verdict::ToUnderlay(push) = from(virtual_mac, "10.20.30.1").verdict else { panic!() };
    assert_eq!(push.tos, 46 << 2, "the port's DSCP");
    assert!(matches!(from(own, "10.20.31.7").verdict, Verdict::ToUnderlay(_)));
    assert!(matches!(from(own, "10.20.11.2").verdict, Verdict::ToUnderlay(_)));
    assert_drop(&from(own, "10.20.30.1"), DropReason::SpoofedSource);
    assert_drop(&from(virtual_mac, "10.20.11.2"), DropReason::SpoofedSource);
    assert_drop(&from(virtual_mac, "10.20.31.7"), DropReason::SpoofedSource);
    assert_drop(&from([2, 9, 9, 9, 9, 9], "10.20.11.2"), DropReason::SpoofedMac);
}
