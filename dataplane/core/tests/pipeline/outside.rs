//! Packets that leave with another address, and those that come back: the node's address, the agent's services,
//! floating addresses.

use std::sync::Arc;

use dataplane_core::nat::{service_address, service_port};
use dataplane_core::{
    DropReason, FlowLimits, FlowTable, Frame, Gso, HostFlows, Port, Route, ServiceTargets, Services, Snat,
    State, StaticNat, Verdict, VnetHeader, too_big,
};
use vrouter_types::{PortId, VrfId};

use crate::lab::{CITY, CITY_2, Lab, POWER, assert_drop, assert_sound, hop};
use crate::packets::{
    ACK, ICMP, ICMPV6, SYN, df, echo, fix_v4, flags, ip, labelled, tcp, ttl, udp, udp_ports,
};

const SERVER: &str = "203.0.113.9";
const SERVER_6: &str = "2001:db8:9::9";

/// City has no default route; its workloads may leave with the node's address.
fn lab() -> Lab {
    let mut lab = Lab::new();
    change_vrf(&mut lab, 0, |vrf| vrf.snat = Some(Snat::BOTH));
    lab
}

fn change_vrf(lab: &mut Lab, index: usize, change: impl Fn(&mut dataplane_core::Vrf)) {
    let mut vrf = dataplane_core::Vrf::clone(lab.fib.vrfs[index].as_ref().unwrap());
    change(&mut vrf);
    lab.fib.vrfs[index] = Some(Arc::new(vrf));
}

fn change_port(lab: &mut Lab, port: PortId, change: impl Fn(&mut Port)) {
    let mut changed = Port::clone(lab.fib.port(port).unwrap());
    change(&mut changed);
    lab.fib.insert_port(Arc::new(changed));
}

fn with_limits(lab: &mut Lab, limits: FlowLimits) {
    let table = FlowTable::new(limits, [3, 5]);
    table.prepare();
    lab.state = State::sharing(Arc::new(HostFlows::new(16, [1, 2])), Arc::new(table));
}

fn ends(packet: &[u8]) -> (String, String) {
    let part = |range: std::ops::Range<usize>| match range.len() {
        4 => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&packet[range]).unwrap()).to_string(),
        _ => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&packet[range]).unwrap()).to_string(),
    };
    if packet[0] >> 4 == 4 { (part(12..16), part(16..20)) } else { (part(8..24), part(24..40)) }
}

fn ports(packet: &[u8]) -> (u16, u16) {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    (u16::from_be_bytes([packet[at], packet[at + 1]]), u16::from_be_bytes([packet[at + 2], packet[at + 3]]))
}

/// The address that stands for a port towards the host.
fn stands_for(port: PortId, v4: bool) -> String {
    service_address(port, v4).unwrap().to_string()
}

#[test]
fn what_the_vrf_has_no_route_for_leaves_with_an_address_of_the_node_and_comes_back() {
    for (pod, server) in [("10.20.11.2", SERVER), ("fd00:20:11::2", SERVER_6)] {
        let mut lab = lab();
        let away = stands_for(CITY, !pod.contains(':'));
        for packet in [udp(pod, server, 30), tcp(pod, server, SYN, &[2, 4, 5, 0xb4], 0)] {
            let out = lab.port(CITY, &packet);
            assert_eq!(out.verdict, Verdict::ToHost);
            assert_sound(&out.bytes);
            assert_eq!(ends(&out.bytes), (away.clone(), server.to_owned()));
            assert_eq!(ports(&out.bytes), ports(&packet), "its own port where nobody has it");
        }
        let answer = udp_ports(server, &away, (9, 40000), 10);
        let back = lab.host(&answer);
        assert_eq!(back.verdict, Verdict::ToPort(CITY));
        assert_sound(&back.bytes);
        assert_eq!(ends(&back.bytes), (server.to_owned(), pod.to_owned()));
        // Nobody else, nor from elsewhere, nor to another port.
        for stranger in [
            udp_ports(server, &away, (9, 40001), 10),
            udp_ports(server, &away, (10, 40000), 10),
            udp_ports(server, &stands_for(CITY_2, !pod.contains(':')), (9, 40000), 10),
        ] {
            assert_drop(&lab.host(&stranger), DropReason::HostUnasked);
        }
    }
}

#[test]
fn an_echo_leaves_and_its_reply_comes_back() {
    for (pod, server, kinds) in [("10.20.11.2", SERVER, [8, 0]), ("fd00:20:11::2", SERVER_6, [128, 129])] {
        let mut lab = lab();
        let away = stands_for(CITY, !pod.contains(':'));
        let out = lab.port(CITY, &echo(pod, server, kinds[0], 77));
        assert_eq!(out.verdict, Verdict::ToHost);
        assert_sound(&out.bytes);
        let back = lab.host(&echo(server, &away, kinds[1], 77));
        assert_eq!(back.verdict, Verdict::ToPort(CITY));
        assert_sound(&back.bytes);
        assert_eq!(back.bytes, echo(server, pod, kinds[1], 77));
        assert_drop(&lab.host(&echo(server, &away, kinds[1], 78)), DropReason::HostUnasked);
    }
}

#[test]
fn a_vrf_without_snat_and_a_destination_with_a_route_do_not_leave() {
    let mut lab = lab();
    change_vrf(&mut lab, 1, |vrf| vrf.routes = Default::default());
    assert!(matches!(lab.port(POWER, &udp("10.20.11.2", SERVER, 3)).verdict, Verdict::Reply(_)));
    assert_eq!(lab.state.reply.reason(), Some(DropReason::NoRoute));
    assert!(matches!(lab.port(CITY, &udp("10.20.11.2", "10.20.12.7", 3)).verdict, Verdict::ToUnderlay(_)));
    assert_drop(&lab.port(CITY, &udp("10.20.11.2", "10.20.99.7", 3)), DropReason::DiscardRoute);
    change_vrf(&mut lab, 0, |vrf| vrf.snat = Some(Snat { v4: false, v6: true }));
    assert!(matches!(lab.port(CITY, &udp("10.20.11.2", SERVER, 3)).verdict, Verdict::Reply(_)));
}

#[test]
fn what_is_link_local_to_the_node_is_out_of_reach() {
    let mut lab = lab();
    for secret in ["169.254.169.254", "169.254.20.10", "169.254.64.9"] {
        assert_drop(&lab.port(CITY, &udp("10.20.11.2", secret, 3)), DropReason::LinkLocal);
    }
    assert_drop(&lab.port(CITY, &udp("fd00:20:11::2", "fd76:7274::9", 3)), DropReason::LinkLocal);
}

#[test]
fn tenants_with_equal_addresses_do_not_mix() {
    let mut lab = lab();
    change_vrf(&mut lab, 1, |vrf| {
        vrf.snat = Some(Snat::BOTH);
        vrf.routes = Default::default();
    });
    let packet = udp("10.20.11.2", SERVER, 3);
    let (one, other) = (lab.port(CITY, &packet), lab.port(POWER, &packet));
    assert_ne!(ends(&one.bytes).0, ends(&other.bytes).0);
    for (out, port) in [(one, CITY), (other, POWER)] {
        let back = lab.host(&udp_ports(SERVER, &ends(&out.bytes).0, (9, 40000), 3));
        assert_eq!(back.verdict, Verdict::ToPort(port));
    }
}

#[test]
fn the_node_itself_is_reached_as_the_vrf_says() {
    let mut lab = lab();
    let own = "192.0.2.11";
    assert_drop(&lab.port(CITY, &udp("10.20.11.2", own, 3)), DropReason::HostClosed);
    // Power is open, but to the host its first address is city's.
    assert_drop(&lab.port(POWER, &udp("10.20.11.2", own, 3)), DropReason::HostAddressTaken);
    change_vrf(&mut lab, 1, |vrf| vrf.snat = Some(Snat::BOTH));
    let out = lab.port(POWER, &udp("10.20.11.2", own, 3));
    assert_eq!((out.verdict, ends(&out.bytes).0), (Verdict::ToHost, stands_for(POWER, true)));
    let out = lab.port(POWER, &udp("10.20.21.4", own, 3));
    assert_eq!((out.verdict, ends(&out.bytes).0.as_str()), (Verdict::ToHost, "10.20.21.4"));
}

#[test]
fn the_host_does_not_lead_a_workload_to_another_tenants() {
    let mut lab = lab();
    // The host has a route to every pod: what left for one comes back from the kernel as it went.
    let out = lab.port(CITY, &udp("10.20.11.2", "10.20.21.4", 3));
    assert_eq!(out.verdict, Verdict::ToHost);
    assert_drop(&lab.host(&out.bytes), DropReason::HostToStranger);
}

#[test]
fn ports_run_out_by_name_and_old_flows_go_on() {
    let mut lab = lab();
    with_limits(&mut lab, FlowLimits { node_ports: 6, node_ports_per_port: 4, ..FlowLimits::default() });
    let from = |pod, number| udp_ports(pod, SERVER, (number, 9), 3);
    for number in 1..5 {
        assert_eq!(lab.port(CITY, &from("10.20.11.2", number)).verdict, Verdict::ToHost);
    }
    assert_drop(&lab.port(CITY, &from("10.20.11.2", 5)), DropReason::SnatExhausted);
    for number in 1..3 {
        assert_eq!(lab.port(CITY_2, &from("10.20.11.3", number)).verdict, Verdict::ToHost, "of another");
    }
    assert_drop(&lab.port(CITY_2, &from("10.20.11.3", 3)), DropReason::SnatExhausted);
    assert_eq!(lab.port(CITY, &from("10.20.11.2", 1)).verdict, Verdict::ToHost, "an old one");
    lab.state.now_ms = 60_000;
    assert_eq!(lab.port(CITY, &from("10.20.11.2", 5)).verdict, Verdict::ToHost, "once they are over");
}

#[test]
fn errors_from_outside_reach_the_workload_that_they_are_about() {
    for (pod, server, router) in
        [("10.20.11.2", SERVER, "192.0.2.254"), ("fd00:20:11::2", SERVER_6, "2001:db8::ff")]
    {
        let mut lab = lab();
        let original = udp(pod, server, 30);
        let out = lab.port(CITY, &original);
        let away = ends(&out.bytes).0;
        let v4 = !pod.contains(':');
        let (kind, protocol) = if v4 { (3, ICMP) } else { (1, ICMPV6) };
        let message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &out.bytes].concat();
        let back = lab.host(&ip(router, &away, protocol, message, 2));
        assert_eq!(back.verdict, Verdict::ToPort(CITY));
        assert_sound(&back.bytes);
        assert_eq!(ends(&back.bytes), (router.to_owned(), pod.to_owned()));
        let quoted = &back.bytes[if v4 { 28 } else { 48 }..];
        assert_eq!(ends(quoted), (pod.to_owned(), server.to_owned()));
        assert_eq!(ports(quoted), ports(&original));
        if v4 {
            let mut sound = quoted.to_vec();
            fix_v4(&mut sound);
            assert_eq!(sound[..20], quoted[..20], "the quoted header's checksum");
        }
    }
}

#[test]
fn nothing_comes_back_for_an_address_that_the_workload_no_longer_has() {
    // Its number may even be another workload's by then.
    for (pod, server, left) in
        [("10.20.11.2", SERVER, "10.20.11.9"), ("fd00:20:11::2", SERVER_6, "fd00:20:11::9")]
    {
        let mut lab = lab();
        let away = stands_for(CITY, !pod.contains(':'));
        assert_eq!(lab.port(CITY, &udp(pod, server, 3)).verdict, Verdict::ToHost);
        let answer = udp_ports(server, &away, (9, 40000), 3);
        assert_eq!(lab.host(&answer).verdict, Verdict::ToPort(CITY));
        change_port(&mut lab, CITY, |port| port.addresses = vec![left.parse().unwrap()]);
        assert_drop(&lab.host(&answer), DropReason::HostUnasked);
        let protocol = if pod.contains(':') { ICMPV6 } else { ICMP };
        let kind = if pod.contains(':') { 1 } else { 3 };
        let message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &udp(&away, server, 3)].concat();
        assert_drop(&lab.host(&ip(server, &away, protocol, message, 2)), DropReason::HostUnasked);
    }
}

#[test]
fn an_error_that_the_workload_reports_leaves_as_the_flow_does() {
    let mut lab = lab();
    lab.port(CITY, &udp("10.20.11.2", SERVER, 3));
    let away = stands_for(CITY, true);
    let answer = lab.host(&udp_ports(SERVER, &away, (9, 40000), 3));
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &answer.bytes].concat();
    let out = lab.port(CITY, &ip("10.20.11.2", SERVER, ICMP, message, 2));
    assert_eq!(out.verdict, Verdict::ToHost);
    assert_sound(&out.bytes);
    assert_eq!(ends(&out.bytes), (away.clone(), SERVER.to_owned()));
    assert_eq!(ends(&out.bytes[28..]), (SERVER.to_owned(), away));
    // About nothing that we know: nothing to translate it by.
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &udp(SERVER, "10.20.11.2", 3)].concat();
    let stray = ip("10.20.11.2", "203.0.113.77", ICMP, message, 2);
    assert_drop(&lab.port(CITY, &stray), DropReason::NotTranslatable);
}

#[test]
fn fragments_leave_together_and_alone_not_at_all() {
    let mut lab = lab();
    let whole = udp("10.20.11.2", SERVER, 40);
    let first = flags(whole.clone(), 0x2000);
    let later = flags(ip("10.20.11.2", SERVER, 17, vec![0xee; 24], 6), 0x0006);
    assert_drop(&lab.port(CITY, &later), DropReason::FlowFragment);
    let away = stands_for(CITY, true);
    assert_eq!(lab.port(CITY, &first).verdict, Verdict::ToHost);
    let out = lab.port(CITY, &later);
    assert_eq!((out.verdict, ends(&out.bytes).0), (Verdict::ToHost, away.clone()));
    assert_eq!(out.bytes[20..], later[20..], "what lies behind the header is as it was");
    // And back.
    let first = flags(udp_ports(SERVER, &away, (9, 40000), 40), 0x2000);
    let later = flags(ip(SERVER, &away, 17, vec![0xee; 24], 6), 0x0006);
    assert_drop(&lab.host(&later), DropReason::HostFragment);
    assert_eq!(lab.host(&first).verdict, Verdict::ToPort(CITY));
    let back = lab.host(&later);
    assert_eq!((back.verdict, ends(&back.bytes).1), (Verdict::ToPort(CITY), "10.20.11.2".to_owned()));
}

#[test]
fn a_superframe_with_a_partial_checksum_stays_right() {
    let mut lab = lab();
    let mut packet = tcp("10.20.11.2", SERVER, ACK, &[], 4000);
    // What a kernel leaves to the card: the pseudo header's sum, not complemented.
    let pseudo = |packet: &[u8]| {
        let words = packet[12..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum::<u32>() + 6 + u32::try_from(packet.len() - 20).unwrap();
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
    };
    let sum = pseudo(&packet).to_be_bytes();
    packet[36..38].copy_from_slice(&sum);
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        hdr_len: 54,
        gso_size: 1400,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    let frame = crate::packets::ethernet(crate::lab::GATEWAY, crate::lab::mac(CITY), &packet);
    let out = lab.frame(CITY, &frame, vnet);
    assert_eq!(out.verdict, Verdict::ToHost);
    assert_eq!(ends(&out.bytes).0, stands_for(CITY, true));
    assert_eq!(out.bytes[36..38], pseudo(&out.bytes).to_be_bytes());
    assert_eq!(out.vnet.gso, Gso::TcpV4);
}

#[test]
fn the_agents_services_know_a_port_by_the_address_that_stands_for_it() {
    let mut lab = Lab::new();
    lab.fib.services = ServiceTargets { metadata: 8775, dns: 5300 };
    change_port(&mut lab, CITY, |port| {
        let services = Services { metadata: true, dns: true, ..Services::default() };
        port.services = Some(Arc::new(services));
    });
    for (pod, asked, gateway) in
        [("10.20.11.2", "169.254.169.254", "169.254.1.1"), ("fe80::7", "fe80::a9fe:a9fe", "fe80::1")]
    {
        let out = lab.port(CITY, &tcp(pod, asked, SYN, &[], 0));
        assert_eq!(out.verdict, Verdict::ToHost);
        assert_sound(&out.bytes);
        let (src, dst) = ends(&out.bytes);
        assert_eq!((service_port(src.parse().unwrap()), dst.as_str()), (Some(CITY), gateway));
        assert_eq!(ports(&out.bytes), (40000, 8775));
        let mut answer = tcp(gateway, &src, SYN | ACK, &[], 0);
        let at = if pod.contains(':') { 40 } else { 20 };
        answer[at..at + 4].copy_from_slice(&[0x22, 0x47, 0x9c, 0x40]);
        let back = lab.host(&answer);
        assert_eq!(back.verdict, Verdict::ToPort(CITY));
        assert_eq!(ends(&back.bytes), (asked.to_owned(), pod.to_owned()));
        assert_eq!(ports(&back.bytes), (80, 40000));
    }
    let out = lab.port(CITY, &udp_ports("10.20.11.2", "169.254.1.1", (4000, 53), 20));
    assert_eq!((out.verdict, ports(&out.bytes)), (Verdict::ToHost, (4000, 5300)));
    // Nobody listens there, says the kernel: the workload hears it of what it asked.
    for (pod, asked) in [("10.20.11.2", "169.254.1.1"), ("fd00:20:11::2", "fe80::1")] {
        let question = udp_ports(pod, asked, (4001, 53), 20);
        let out = lab.port(CITY, &question);
        let (kind, protocol) = if pod.contains(':') { ([1, 4], ICMPV6) } else { ([3, 3], ICMP) };
        let error = |src: &str, dst: &str, about: &[u8]| {
            ip(src, dst, protocol, [&kind[..], &[0; 6], about].concat(), 2)
        };
        let back = lab.host(&error(asked, &ends(&out.bytes).0, &out.bytes));
        assert_eq!(back.verdict, Verdict::ToPort(CITY));
        assert_eq!(back.bytes, error(asked, pod, &question));
    }
    // Who is not served is not served.
    assert!(matches!(
        lab.port(CITY_2, &tcp("10.20.11.3", "169.254.169.254", SYN, &[], 0)).verdict,
        Verdict::Reply(_)
    ));
    assert_drop(
        &lab.port(CITY_2, &udp_ports("10.20.11.3", "169.254.1.1", (4000, 53), 20)),
        DropReason::HostClosed,
    );
}

/// City 10.20.11.2 is 198.51.100.2 in power, and city 10.20.11.3 is 198.51.100.3.
fn floating() -> Lab {
    let mut lab = Lab::new();
    for (port, fixed, floating) in
        [(CITY, "10.20.11.2", "198.51.100.2"), (CITY_2, "10.20.11.3", "198.51.100.3")]
    {
        let (fixed, floating) = (fixed.parse().unwrap(), floating.parse().unwrap());
        change_port(&mut lab, port, |port| port.nat = vec![StaticNat { fixed, floating, vrf: VrfId(1) }]);
        change_vrf(&mut lab, 1, |vrf| {
            vrf.routes.insert(vrouter_types::Prefix::host(floating), Route::Port(port));
        });
    }
    lab
}

#[test]
fn a_floating_address_stands_for_its_workload_in_another_vrf() {
    let mut lab = floating();
    // Out: power's default route. Its own VRF's routes come first.
    let out = lab.port(CITY, &udp("10.20.11.2", SERVER, 3));
    let Verdict::ToUnderlay(push) = out.verdict else { panic!("{:?}", out.verdict) };
    assert_eq!(push.label, hop(0, 200).label);
    assert_sound(&out.bytes);
    assert_eq!(ends(&out.bytes), ("198.51.100.2".to_owned(), SERVER.to_owned()));
    let own = lab.port(CITY, &udp("10.20.11.2", "10.20.12.7", 3));
    assert_eq!(ends(&own.bytes).0, "10.20.11.2");
    // In, by the port's label.
    let back = lab.underlay(&labelled(16, true, 64, &udp(SERVER, "198.51.100.2", 3)));
    assert_eq!(back.verdict, Verdict::ToPort(CITY));
    assert_sound(&back.bytes);
    assert_eq!(ends(&back.bytes), (SERVER.to_owned(), "10.20.11.2".to_owned()));
    assert_drop(
        &lab.underlay(&labelled(16, true, 64, &udp(SERVER, "198.51.100.3", 3))),
        DropReason::WrongDestination,
    );
}

#[test]
fn an_answer_leaves_by_the_floating_address_that_was_asked() {
    let mut lab = floating();
    // The asker has an address that city has a route for as well.
    let ask = tcp("10.20.12.7", "198.51.100.2", SYN, &[], 0);
    assert_eq!(lab.underlay(&labelled(16, true, 64, &ask)).verdict, Verdict::ToPort(CITY));
    let mut answer = tcp("10.20.11.2", "10.20.12.7", SYN | ACK, &[], 0);
    answer[20..24].copy_from_slice(&[0, 80, 0x9c, 0x40]);
    let out = lab.port(CITY, &answer);
    let Verdict::ToUnderlay(push) = out.verdict else { panic!("{:?}", out.verdict) };
    assert_eq!((push.label, ends(&out.bytes).0.as_str()), (hop(0, 200).label, "198.51.100.2"));
    // The same address and ports from its own VRF would be the same flow: refused by name, not mixed up.
    let clash = tcp("10.20.12.7", "10.20.11.2", SYN, &[], 0);
    assert_drop(&lab.underlay(&labelled(16, true, 64, &clash)), DropReason::FlowClash);
}

#[test]
fn two_floating_addresses_of_one_node_reach_each_other() {
    let mut lab = floating();
    let out = lab.port(CITY, &udp("10.20.11.2", "198.51.100.3", 3));
    assert_eq!(out.verdict, Verdict::ToPort(CITY_2));
    assert_sound(&out.bytes);
    assert_eq!(ends(&out.bytes), ("198.51.100.2".to_owned(), "10.20.11.3".to_owned()));
    let back = lab.port(CITY_2, &udp_ports("10.20.11.3", "198.51.100.2", (9, 40000), 3));
    assert_eq!(back.verdict, Verdict::ToPort(CITY));
    assert_eq!(ends(&back.bytes), ("198.51.100.3".to_owned(), "10.20.11.2".to_owned()));
    // And a workload of the floating VRF on the same node.
    let out = lab.port(POWER, &udp("10.20.21.4", "198.51.100.3", 3));
    assert_eq!((out.verdict, ends(&out.bytes).1.as_str()), (Verdict::ToPort(CITY_2), "10.20.11.3"));
}

#[test]
fn errors_about_packets_with_a_floating_address_find_the_workload() {
    let mut lab = floating();
    let out = lab.port(CITY, &udp("10.20.11.2", SERVER, 3));
    let message = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &out.bytes].concat();
    let error = ip("192.0.2.254", "198.51.100.2", ICMP, message, 2);
    let back = lab.underlay(&labelled(16, true, 64, &error));
    assert_eq!(back.verdict, Verdict::ToPort(CITY));
    assert_sound(&back.bytes);
    assert_eq!(ends(&back.bytes[28..]), ("10.20.11.2".to_owned(), SERVER.to_owned()));
    // What we refuse ourselves is told in the sender's own words.
    let expired = ttl(udp("10.20.11.2", SERVER, 3), 1);
    assert!(matches!(lab.port(CITY, &expired).verdict, Verdict::Reply(_)));
    assert_eq!(ends(&lab.reply()[14 + 28..]), ("10.20.11.2".to_owned(), SERVER.to_owned()));
    // Also where the path turns out narrower than we knew, once the packet has its other address.
    let mut out = lab.port(CITY, &df(udp("10.20.11.2", SERVER, 1000)));
    let frame = Frame::new(&mut out.bytes, VnetHeader::NONE);
    assert!(matches!(too_big(&lab.fib, &mut lab.state, CITY, &frame, 800), Verdict::Reply(_)));
    assert_sound(&lab.reply()[14..]);
    assert_eq!(ends(&lab.reply()[14..]).1, "10.20.11.2");
    assert_eq!(ends(&lab.reply()[14 + 28..]), ("10.20.11.2".to_owned(), SERVER.to_owned()));
    let big = df(udp("10.20.11.2", SERVER, 1460));
    assert!(matches!(lab.port(CITY, &big).verdict, Verdict::Reply(_)));
    assert_eq!(lab.state.reply.reason(), Some(DropReason::TooBig));
}

#[test]
fn a_floating_address_that_was_taken_away_ends_its_flows() {
    let mut lab = floating();
    assert_eq!(ends(&lab.port(CITY, &udp("10.20.11.2", SERVER, 3)).bytes).0, "198.51.100.2");
    change_port(&mut lab, CITY, |port| port.nat.clear());
    assert!(matches!(lab.port(CITY, &udp("10.20.11.2", SERVER, 3)).verdict, Verdict::Reply(_)));
    assert_eq!(lab.state.reply.reason(), Some(DropReason::NoRoute));
}
