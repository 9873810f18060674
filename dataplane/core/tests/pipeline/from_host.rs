//! Between the host and its ports.

use dataplane_core::{DropReason, Gso, ReplyTo, Verdict, VnetHeader};
use vrouter_types::PortId;

use crate::lab::{CITY, CITY_2, Lab, POWER, assert_drop, assert_sound};
use crate::packets::{ACK, SYN, df, echo, flags, tcp, ttl, udp};

#[test]
fn the_host_reaches_what_its_fib_says_and_nothing_else() {
    let mut lab = Lab::new();
    for (src, dst, port) in [
        ("169.254.1.1", "10.20.11.2", CITY),
        ("169.254.1.1", "10.20.11.3", CITY_2),
        ("fe80::1", "fd00:20:11::2", CITY),
    ] {
        let packet = ttl(udp(src, dst, 3), 1);
        let out = lab.host(&packet);
        assert_eq!(out.verdict, Verdict::ToPort(port));
        assert_eq!(out.bytes, packet, "nothing changes, TTL 1 suffices");
    }
    // Routed for tenants, but not for the host.
    for (src, dst) in [("169.254.1.1", "10.20.12.7"), ("fe80::1", "fd00:20:12::7")] {
        assert_eq!(lab.host(&udp(src, dst, 3)).verdict, Verdict::Reply(ReplyTo::Host));
        assert_eq!(lab.state.reply.reason(), Some(DropReason::HostNoPort));
        assert_sound(lab.reply());
    }
    lab.fib.host.insert("10.20.11.9".parse().unwrap(), PortId(77));
    assert!(matches!(lab.host(&udp("169.254.1.1", "10.20.11.9", 3)).verdict, Verdict::Reply(ReplyTo::Host)));
}

#[test]
fn a_workload_answers_the_host_in_a_closed_vrf() {
    let mut lab = Lab::new();
    for (gateway, pod) in [("169.254.1.1", "10.20.11.2"), ("fe80::1", "fd00:20:11::2")] {
        // The probe's connection: SYN in, SYN+ACK out, and so on. Ports are swapped by hand.
        let mut answer = tcp(pod, gateway, SYN | ACK, &[], 0);
        let at = if pod.contains(':') { 40 } else { 20 };
        answer[at..at + 4].copy_from_slice(&[0, 80, 0x9c, 0x40]);
        assert_drop(&lab.port(CITY, &answer), DropReason::HostClosed);
        assert_eq!(lab.host(&tcp(gateway, pod, SYN, &[], 0)).verdict, Verdict::ToPort(CITY));
        let out = lab.port(CITY, &answer);
        assert_eq!((out.verdict, out.bytes), (Verdict::ToHost, answer.clone()));
        // The other tenant's workload of the same address gains nothing, nor does another connection.
        lab.fib.vrfs[1] = lab.fib.vrfs[1].as_deref().cloned().map(|mut vrf| {
            vrf.host_open = false;
            vrf.into()
        });
        assert_drop(&lab.port(POWER, &answer), DropReason::HostClosed);
        answer[at + 3] ^= 1;
        assert_drop(&lab.port(CITY, &answer), DropReason::HostClosed);
    }
}

#[test]
fn a_flood_that_the_host_refuses_makes_it_forget_nobody() {
    let mut lab = Lab::new();
    let probe = tcp("169.254.1.1", "10.20.11.2", SYN, &[], 0);
    assert_eq!(lab.host(&probe).verdict, Verdict::ToPort(CITY));
    // Later, since what was quiet longest goes first. Another tenant's workload asks for every port there is.
    lab.state.now_ms += 60_000;
    for asked in 0..10_000u16 {
        for refusal in [0x14, SYN | ACK] {
            let mut answer = tcp("169.254.1.1", "10.20.21.4", refusal, &[], 0);
            answer[20..22].copy_from_slice(&asked.to_be_bytes());
            assert_eq!(lab.host(&answer).verdict, Verdict::ToPort(POWER));
        }
    }
    let mut answer = tcp("10.20.11.2", "169.254.1.1", SYN | ACK, &[], 0);
    answer[20..24].copy_from_slice(&[0, 80, 0x9c, 0x40]);
    assert_eq!(lab.port(CITY, &answer).verdict, Verdict::ToHost);
}

#[test]
fn an_answer_goes_to_the_host_whatever_address_the_flow_has() {
    // A service behind the host's own NAT: the client is remote, the flow came through the host.
    let mut lab = Lab::new();
    let mut answer = udp("10.20.11.2", "10.20.12.7", 3);
    answer[20..24].copy_from_slice(&[0, 9, 0x9c, 0x40]);
    assert!(matches!(lab.port(CITY, &answer).verdict, Verdict::ToUnderlay(_)));
    assert_eq!(lab.host(&udp("10.20.12.7", "10.20.11.2", 3)).verdict, Verdict::ToPort(CITY));
    assert_eq!(lab.port(CITY, &answer).verdict, Verdict::ToHost);
}

#[test]
fn fragments_of_an_answer_follow_their_first() {
    let mut lab = Lab::new();
    let mut answer = udp("10.20.11.2", "169.254.1.1", 64);
    answer[20..24].copy_from_slice(&[0, 9, 0x9c, 0x40]);
    let (first, later) = (flags(answer.clone(), 0x2000), flags(answer, 0x0009));
    assert_eq!(lab.host(&udp("169.254.1.1", "10.20.11.2", 3)).verdict, Verdict::ToPort(CITY));
    assert_drop(&lab.port(CITY, &later), DropReason::HostFragment);
    assert_eq!(lab.port(CITY, &first).verdict, Verdict::ToHost);
    assert_eq!(lab.port(CITY, &later).verdict, Verdict::ToHost);
}

#[test]
fn the_host_may_ping_a_workload_and_hears_its_errors() {
    let mut lab = Lab::new();
    assert_eq!(lab.host(&echo("169.254.1.1", "10.20.11.2", 8, 7)).verdict, Verdict::ToPort(CITY));
    assert_eq!(lab.port(CITY, &echo("10.20.11.2", "169.254.1.1", 0, 7)).verdict, Verdict::ToHost);
    assert_drop(&lab.port(CITY, &echo("10.20.11.2", "169.254.1.1", 0, 8)), DropReason::HostClosed);

    let probe = udp("169.254.1.1", "10.20.11.2", 3);
    assert_eq!(lab.host(&probe).verdict, Verdict::ToPort(CITY));
    let mut unreachable = vec![3, 3, 0, 0, 0, 0, 0, 0];
    unreachable.extend(&probe);
    let error = crate::packets::ip("10.20.11.2", "169.254.1.1", 1, unreachable, 2);
    assert_eq!(lab.port(CITY, &error).verdict, Verdict::ToHost);
}

#[test]
fn what_is_too_large_for_the_port_is_answered_to_the_host() {
    let mut lab = Lab::new();
    let out = lab.host(&df(udp("169.254.1.1", "10.20.11.3", 1401 - 28)));
    assert_eq!(out.verdict, Verdict::Reply(ReplyTo::Host));
    let reply = lab.reply();
    assert_sound(reply);
    // From the address that the packet was for: the gateway's are the host's own.
    assert_eq!((&reply[12..16], &reply[16..20]), (&[10, 20, 11, 3][..], &[169, 254, 1, 1][..]));
    assert_eq!((reply[20], reply[21], &reply[26..28]), (3, 4, &1400u16.to_be_bytes()[..]));
}

#[test]
fn a_superframe_from_the_host_is_cut_to_the_ports_mtu() {
    let mut lab = Lab::new();
    let packet = tcp("169.254.1.1", "10.20.11.3", ACK, &[], 20_000);
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size: 1460,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    let out = lab.host_offloaded(&packet, vnet);
    assert_eq!((out.verdict, out.vnet.gso_size), (Verdict::ToPort(CITY_2), 1360));
}

#[test]
fn what_the_kernel_says_to_a_new_interface_is_named() {
    let mut lab = Lab::new();
    assert_drop(&lab.host(&echo("fe80::1", "ff02::2", 133, 0)), DropReason::Multicast);
    assert_drop(&lab.host(&udp("169.254.1.1", "255.255.255.255", 1)), DropReason::Broadcast);
    assert_drop(&lab.host(&[]), DropReason::TruncatedIp);
    let mut lying = udp("169.254.1.1", "10.20.11.2", 3);
    lying[3] += 1;
    assert_drop(&lab.host(&lying), DropReason::BadIpLength);
}
