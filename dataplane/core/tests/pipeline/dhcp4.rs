//! DHCP: what a client says, written here octet by octet, and what it hears, read back the same way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane_core::{DropReason, Lease, ReplyTo, Services, Subnet, Verdict, VnetHeader};
use proptest::prelude::*;

use crate::lab::{CITY, CITY_2, GATEWAY, Lab, assert_drop, assert_sound, mac};
use crate::packets::{UDP, ethernet, ip};

pub(crate) const ANY: &str = "0.0.0.0";
pub(crate) const ALL: &str = "255.255.255.255";
const OWN: &str = "10.20.11.2";
const ROUTER: &str = "10.20.11.1";
const TO_CITY: Verdict = Verdict::Reply(ReplyTo::Port(CITY));
const BROADCAST_MAC: [u8; 6] = [0xff; 6];

/// A lab whose first port is a virtual machine's.
pub(crate) fn lab() -> Lab {
    let mut lab = Lab::new();
    serve(
        &mut lab,
        Services {
            metadata: true,
            dns: true,
            subnets: vec![
                Subnet {
                    prefix: "10.20.11.0/24".parse().unwrap(),
                    gateway: Some(ROUTER.parse().unwrap()),
                    routes: vec![("172.16.0.0/12".parse().unwrap(), "10.20.11.9".parse().unwrap())],
                },
                Subnet {
                    prefix: "fd00:20:11::/64".parse().unwrap(),
                    gateway: Some("fd00:20:11::1".parse().unwrap()),
                    routes: vec![("fd00:99::/48".parse().unwrap(), "fd00:20:11::9".parse().unwrap())],
                },
            ],
            lease: Some(Lease {
                host_name: Some("vm-1".into()),
                domain: Some("example.org".into()),
                dns: Vec::new(),
                seconds: 3600,
            }),
        },
    );
    lab
}

pub(crate) fn serve(lab: &mut Lab, services: Services) {
    change(lab, |port| port.services = Some(Arc::new(services)));
}

pub(crate) fn change(lab: &mut Lab, change: impl FnOnce(&mut dataplane_core::Port)) {
    let index = usize::try_from(CITY.0).unwrap();
    change(Arc::make_mut(lab.fib.ports[index].as_mut().unwrap()));
}

fn v4(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

/// A client's message.
#[derive(Clone)]
struct Ask {
    fixed: [u8; 236],
    options: Vec<u8>,
}

impl Ask {
    fn new(kind: u8) -> Ask {
        let mut fixed = [0; 236];
        fixed[..3].copy_from_slice(&[1, 1, 6]);
        fixed[4..8].copy_from_slice(&[0xca, 0xfe, 0xba, 0xbe]);
        fixed[28..34].copy_from_slice(&mac(CITY));
        Ask { fixed, options: vec![53, 1, kind] }
    }

    fn set(mut self, at: usize, octets: &[u8]) -> Ask {
        self.fixed[at..at + octets.len()].copy_from_slice(octets);
        self
    }

    fn option(mut self, code: u8, value: &[u8]) -> Ask {
        self.options.extend([code, u8::try_from(value.len()).unwrap()]);
        self.options.extend(value);
        self
    }

    fn address(self, code: u8, addr: &str) -> Ask {
        self.option(code, &v4(addr))
    }

    fn held(self, addr: &str) -> Ask {
        self.set(12, &v4(addr))
    }

    fn message(&self) -> Vec<u8> {
        [&self.fixed[..], &[99, 130, 83, 99], &self.options, &[255]].concat()
    }

    /// As a client without an address sends it.
    fn ask(&self, lab: &mut Lab) -> dataplane_core::Verdict {
        send(lab, BROADCAST_MAC, ANY, ALL, &self.message())
    }
}

fn datagram(src: &str, dst: &str, message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + message.len()).unwrap();
    let header = [68, 67, len, 0].map(u16::to_be_bytes).concat();
    ip(src, dst, UDP, [&header[..], message].concat(), 6)
}

fn send(lab: &mut Lab, to: [u8; 6], src: &str, dst: &str, message: &[u8]) -> Verdict {
    lab.frame(CITY, &ethernet(to, mac(CITY), &datagram(src, dst, message)), VnetHeader::NONE).verdict
}

/// What a client hears.
#[derive(Debug)]
struct Told {
    to_mac: [u8; 6],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    kind: u8,
    address: Ipv4Addr,
    fixed: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Told {
    fn read(lab: &Lab) -> Told {
        let frame = lab.reply();
        assert_eq!(frame[6..12], GATEWAY);
        assert_eq!(frame[12..14], [0x08, 0x00]);
        assert_sound(&frame[14..]);
        let (header, udp) = frame[14..].split_at(20);
        let at = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
        assert_eq!(udp[..4], [0, 67, 0, 68], "server to client");
        let message = &udp[8..];
        assert!(message.len() >= 300, "old clients throw shorter ones away");
        assert_eq!(message[..3], [2, 1, 6]);
        assert_eq!(message[4..8], [0xca, 0xfe, 0xba, 0xbe]);
        assert_eq!(message[28..34], mac(CITY));
        assert_eq!(message[236..240], [99, 130, 83, 99]);
        let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut rest = &message[240..];
        while rest[0] != 255 {
            let (value, behind) = rest[2..].split_at(usize::from(rest[1]));
            options.entry(rest[0]).or_default().extend(value);
            rest = behind;
        }
        assert!(rest[1..].iter().all(|octet| *octet == 0), "padding");
        Told {
            to_mac: frame[..6].try_into().unwrap(),
            src: at(12),
            dst: at(16),
            kind: options[&53][0],
            address: Ipv4Addr::from(<[u8; 4]>::try_from(&message[16..20]).unwrap()),
            fixed: message[..240].to_vec(),
            options,
        }
    }

    fn has(&self, code: u8, value: &[u8]) {
        assert_eq!(self.options.get(&code).map(Vec::as_slice), Some(value), "option {code}: {self:#?}");
    }

    fn lacks(&self, code: u8) {
        assert!(!self.options.contains_key(&code), "option {code}: {self:#?}");
    }
}

#[track_caller]
fn told(lab: &mut Lab, ask: &Ask) -> Told {
    assert_eq!(ask.ask(lab), TO_CITY);
    Told::read(lab)
}

#[test]
fn discover_and_request_lead_to_the_ports_address_and_all_that_goes_with_it() {
    let mut lab = lab();
    let offer = told(&mut lab, &Ask::new(1));
    assert_eq!((offer.kind, offer.address.to_string().as_str()), (2, OWN));
    assert_eq!((offer.src.to_string().as_str(), offer.dst.to_string().as_str()), (ROUTER, OWN));
    assert_eq!(offer.to_mac, mac(CITY));
    let ack = told(&mut lab, &Ask::new(3).address(54, ROUTER).address(50, OWN));
    assert_eq!((ack.kind, ack.address.to_string().as_str()), (5, OWN));
    for told in [&offer, &ack] {
        told.has(54, &v4(ROUTER));
        told.has(1, &[255, 255, 255, 0]);
        told.has(3, &v4(ROUTER));
        told.has(6, &v4(ROUTER)); // The gateway forwards names where nobody else is named.
        told.has(12, b"vm-1");
        told.has(15, b"example.org");
        told.has(26, &1468u16.to_be_bytes());
        told.has(28, &[10, 20, 11, 255]);
        told.has(51, &3600u32.to_be_bytes());
        told.has(58, &1800u32.to_be_bytes());
        told.has(59, &3150u32.to_be_bytes());
        let routes = [
            &[12, 172, 16, 10, 20, 11, 9][..],
            &[32, 169, 254, 169, 254, 10, 20, 11, 1],
            &[0, 10, 20, 11, 1],
        ];
        told.has(121, &routes.concat());
        told.lacks(249);
        told.lacks(119);
        told.lacks(61);
    }
    assert_eq!(lab.state.reply.reason(), None, "nothing was lost");
}

#[test]
fn what_a_client_asks_for_by_name_it_gets() {
    let mut lab = lab();
    let client = [1, 2, 0, 0, 0, 0, 1];
    let offer = told(&mut lab, &Ask::new(1).option(55, &[1, 3, 249, 119]).option(61, &client));
    assert_eq!(offer.options[&249], offer.options[&121], "Windows before 10");
    offer.has(119, b"\x07example\x03org\x00");
    offer.has(61, &client);
}

#[test]
fn renewing_rebinding_and_coming_back_from_a_reboot_confirm_the_address() {
    let mut lab = lab();
    let renew = Ask::new(3).held(OWN);
    for (name, mac_to, dst) in [("renew", GATEWAY, ROUTER), ("rebind", BROADCAST_MAC, ALL)] {
        assert_eq!(send(&mut lab, mac_to, OWN, dst, &renew.message()), TO_CITY, "{name}");
        let ack = Told::read(&lab);
        assert_eq!((ack.kind, ack.address.to_string().as_str()), (5, OWN), "{name}");
        assert_eq!((ack.dst.to_string().as_str(), ack.to_mac), (OWN, mac(CITY)), "{name}");
        assert_eq!(ack.fixed[12..16], v4(OWN), "{name}");
    }
    let reboot = told(&mut lab, &Ask::new(3).address(50, OWN));
    assert_eq!((reboot.kind, reboot.address.to_string().as_str()), (5, OWN));
    // By the gateway address of every port, too.
    assert_eq!(send(&mut lab, GATEWAY, OWN, "169.254.1.1", &renew.message()), TO_CITY);
}

#[test]
fn another_address_is_refused_and_offered_nobody() {
    let mut lab = lab();
    let other = "10.20.11.77";
    let offer = told(&mut lab, &Ask::new(1).address(50, other));
    assert_eq!((offer.kind, offer.address.to_string().as_str()), (2, OWN), "ours instead");
    let asks = [
        ("selecting", Ask::new(3).address(54, ROUTER).address(50, other), ANY, BROADCAST_MAC, ALL),
        ("reboot", Ask::new(3).address(50, other), ANY, BROADCAST_MAC, ALL),
        ("renew", Ask::new(3).held(other), other, GATEWAY, ROUTER),
        ("rebind", Ask::new(3).held(other), other, BROADCAST_MAC, ALL),
    ];
    for (name, ask, src, to, dst) in asks {
        assert_eq!(send(&mut lab, to, src, dst, &ask.message()), TO_CITY, "{name}");
        let nak = Told::read(&lab);
        assert_eq!((nak.kind, nak.address), (6, Ipv4Addr::UNSPECIFIED), "{name}");
        assert_eq!((nak.dst, nak.to_mac), (Ipv4Addr::BROADCAST, BROADCAST_MAC), "{name}");
        assert_eq!(nak.fixed[10] & 0x80, 0x80, "{name}");
        assert_eq!(lab.state.reply.reason(), Some(DropReason::DhcpRefused), "{name}");
        for code in [1, 3, 51, 58, 59, 121] {
            nak.lacks(code);
        }
    }
}

#[test]
fn the_broadcast_flag_is_heeded() {
    let mut lab = lab();
    let offer = told(&mut lab, &Ask::new(1).set(10, &[0x80, 0]));
    assert_eq!((offer.dst, offer.to_mac), (Ipv4Addr::BROADCAST, BROADCAST_MAC));
    assert_eq!(offer.fixed[10], 0x80);
}

#[test]
fn inform_gets_the_rest_without_an_address_or_a_time() {
    let mut lab = lab();
    assert_eq!(send(&mut lab, GATEWAY, OWN, ROUTER, &Ask::new(8).held(OWN).message()), TO_CITY);
    let ack = Told::read(&lab);
    assert_eq!((ack.kind, ack.address), (5, Ipv4Addr::UNSPECIFIED));
    ack.has(26, &1468u16.to_be_bytes());
    for code in [51, 58, 59] {
        ack.lacks(code);
    }
    let other = send(&mut lab, GATEWAY, OWN, ROUTER, &Ask::new(8).held("10.20.11.77").message());
    assert_eq!(other, Verdict::Drop(DropReason::SpoofedSource));
}

#[test]
fn what_deserves_no_answer_gets_none_and_is_counted_by_name() {
    use DropReason::*;
    let discover = || Ask::new(1);
    let mut lab = lab();
    for (name, ask, reason) in [
        ("another hardware address", discover().set(28, &mac(CITY_2)), DhcpWrongClient),
        ("a relay's address", discover().set(24, &v4("10.20.11.1")), DhcpRelayed),
        ("hops", discover().set(3, &[1]), DhcpRelayed),
        ("a relay's option", discover().option(82, &[1, 1, 1]), DhcpRelayed),
        ("a reply", discover().set(0, &[2]), DhcpMalformed),
        ("another hardware", discover().set(1, &[6]), DhcpMalformed),
        ("a long hardware address", discover().set(2, &[16]), DhcpMalformed),
        ("for another server", Ask::new(3).address(54, "10.20.11.5").address(50, OWN), DhcpIgnored),
        ("a choice of nothing", Ask::new(3).address(54, ROUTER), DhcpMalformed),
        ("a request for nothing", Ask::new(3), DhcpMalformed),
        ("a release", Ask::new(7).held(OWN).address(54, ROUTER), DhcpIgnored),
        ("a decline", Ask::new(4).address(54, ROUTER).address(50, OWN), DhcpDeclined),
        ("a server's offer", Ask::new(2), DhcpIgnored),
        ("a lease query", Ask::new(10), DhcpIgnored),
        ("a kind of two octets", Ask::new(1).option(54, &[1, 2]), DhcpMalformed),
    ] {
        assert_eq!(ask.ask(&mut lab), Verdict::Drop(reason), "{name}");
    }
    let mut bootp = discover();
    bootp.options.clear();
    assert_eq!(bootp.ask(&mut lab), Verdict::Drop(DhcpIgnored), "BOOTP");
    let spoofed = send(&mut lab, BROADCAST_MAC, "10.20.11.3", ALL, &discover().message());
    assert_eq!(spoofed, Verdict::Drop(SpoofedSource));
    change(&mut lab, |port| port.addresses.retain(|addr| addr.is_ipv6()));
    assert_eq!(discover().ask(&mut lab), Verdict::Drop(DhcpNoAddress));
}

#[test]
fn a_message_that_is_short_or_wrongly_summed_is_refused() {
    let mut lab = lab();
    let whole = Ask::new(1).option(55, &[1, 3]).message();
    for len in 0..240 {
        let verdict = send(&mut lab, BROADCAST_MAC, ANY, ALL, &whole[..len]);
        assert_eq!(verdict, Verdict::Drop(DropReason::DhcpMalformed), "{len}");
    }
    // The options may end without saying so, but not in the middle of one.
    assert_eq!(send(&mut lab, BROADCAST_MAC, ANY, ALL, &whole[..whole.len() - 1]), TO_CITY);
    let cut = send(&mut lab, BROADCAST_MAC, ANY, ALL, &whole[..whole.len() - 2]);
    assert_eq!(cut, Verdict::Drop(DropReason::DhcpMalformed));

    let mut packet = datagram(ANY, ALL, &whole);
    packet[20 + 8 + 9] ^= 1;
    let frame = ethernet(BROADCAST_MAC, mac(CITY), &packet);
    assert_drop(&lab.frame(CITY, &frame, VnetHeader::NONE), DropReason::DhcpMalformed);
    let offloaded = VnetHeader { data_valid: true, ..VnetHeader::NONE };
    assert_eq!(lab.frame(CITY, &frame, offloaded).verdict, TO_CITY, "the host has looked at it");
    let mut lying = datagram(ANY, ALL, &whole);
    lying[24..26].copy_from_slice(&2000u16.to_be_bytes());
    let frame = ethernet(BROADCAST_MAC, mac(CITY), &lying);
    assert_drop(&lab.frame(CITY, &frame, VnetHeader::NONE), DropReason::DhcpMalformed);
}

#[test]
fn options_in_the_file_and_server_name_fields_count_where_the_client_says_so() {
    let mut lab = lab();
    let ask = |overload: u8| {
        let mut ask = Ask::new(3).option(52, &[overload]);
        ask.fixed[44..51].copy_from_slice(&[54, 4, 10, 20, 11, 1, 255]);
        ask.fixed[108..115].copy_from_slice(&[50, 4, 10, 20, 11, 2, 255]);
        ask
    };
    assert_eq!(told(&mut lab, &ask(3)).kind, 5);
    assert_eq!(told(&mut lab, &ask(1)).kind, 5, "a reboot's, without the server");
    assert_eq!(ask(2).ask(&mut lab), Verdict::Drop(DropReason::DhcpMalformed), "a choice of nothing");
    for bad in [0, 4, 255] {
        assert_eq!(ask(bad).ask(&mut lab), Verdict::Drop(DropReason::DhcpMalformed), "{bad}");
    }
}

#[test]
fn a_port_without_a_subnet_is_alone_on_its_link_and_told_how_to_leave_it() {
    let mut lab = lab();
    let services = Services { subnets: Vec::new(), metadata: true, ..(*services(&lab)).clone() };
    serve(&mut lab, services);
    let offer = told(&mut lab, &Ask::new(1));
    offer.has(1, &[255; 4]);
    offer.has(3, &v4("169.254.1.1"));
    offer.has(54, &v4("169.254.1.1"));
    let routes = [
        &[32, 169, 254, 1, 1, 0, 0, 0, 0][..],
        &[32, 169, 254, 169, 254, 169, 254, 1, 1],
        &[0, 169, 254, 1, 1],
    ];
    offer.has(121, &routes.concat());
    offer.lacks(28);
}

#[test]
fn a_subnet_without_a_gateway_has_metadata_and_no_way_out() {
    let mut lab = lab();
    let mut services = (*services(&lab)).clone();
    services.subnets[0].gateway = None;
    services.subnets[0].routes.clear();
    serve(&mut lab, services);
    let offer = told(&mut lab, &Ask::new(1));
    offer.lacks(3);
    offer.has(1, &[255, 255, 255, 0]);
    let routes = [&[32, 169, 254, 1, 1, 0, 0, 0, 0][..], &[32, 169, 254, 169, 254, 0, 0, 0, 0]];
    offer.has(121, &routes.concat());
}

#[test]
fn a_router_outside_the_subnet_is_on_the_link() {
    let mut lab = lab();
    let mut services = (*services(&lab)).clone();
    services.metadata = false;
    services.subnets[0].gateway = Some("10.99.0.1".parse().unwrap());
    services.subnets[0].routes.clear();
    serve(&mut lab, services);
    let offer = told(&mut lab, &Ask::new(1));
    offer.has(3, &v4("10.99.0.1"));
    let routes = [&[32, 10, 99, 0, 1, 0, 0, 0, 0][..], &[0, 10, 99, 0, 1]];
    offer.has(121, &routes.concat());
}

#[test]
fn a_router_is_not_told_to_ask_itself() {
    let mut lab = lab();
    change(&mut lab, |port| port.addresses.insert(0, ROUTER.parse().unwrap()));
    let offer = told(&mut lab, &Ask::new(1));
    assert_eq!(offer.address.to_string(), ROUTER);
    offer.lacks(3);
    offer.has(54, &v4("169.254.1.1"));
}

#[test]
fn a_lease_for_ever_has_no_time_to_renew() {
    let mut lab = lab();
    let mut services = (*services(&lab)).clone();
    services.lease.as_mut().unwrap().seconds = u32::MAX;
    serve(&mut lab, services);
    let offer = told(&mut lab, &Ask::new(1));
    offer.has(51, &[255; 4]);
    offer.lacks(58);
    offer.lacks(59);
}

#[test]
fn what_a_client_has_no_room_for_is_left_out_by_weight() {
    let mut lab = lab();
    let mut services = (*services(&lab)).clone();
    let route = |n: u8| (format!("10.{n}.0.0/16").parse().unwrap(), "10.20.11.9".parse().unwrap());
    services.subnets[0].routes = (0..100).map(route).collect();
    services.lease.as_mut().unwrap().dns = vec!["192.0.2.53".parse().unwrap()];
    serve(&mut lab, services);
    let small = told(&mut lab, &Ask::new(1));
    small.lacks(121);
    small.has(3, &v4(ROUTER));
    small.has(6, &v4("192.0.2.53"));
    let large = told(&mut lab, &Ask::new(1).option(57, &1472u16.to_be_bytes()));
    assert_eq!(large.options[&121].len(), 100 * 7 + 9 + 5, "split over several options and joined again");
    assert!(lab.reply().len() <= 14 + 1468, "never more than the port takes");
}

#[test]
fn rapid_retransmits_are_answered_alike_until_they_are_too_many() {
    let mut lab = lab();
    let first = told(&mut lab, &Ask::new(1));
    let mut answered = 1;
    let refused = (0..200).find_map(|_| match Ask::new(1).ask(&mut lab) {
        TO_CITY => {
            assert_eq!(Told::read(&lab).options, first.options);
            answered += 1;
            None
        }
        verdict => Some(verdict),
    });
    assert_eq!(refused, Some(Verdict::Drop(DropReason::ReplyLimited)));
    assert!(answered >= 20, "{answered}");
    lab.state.now_ms += 1000;
    assert_eq!(Ask::new(1).ask(&mut lab), TO_CITY);
}

#[test]
fn ports_whose_addresses_are_configured_have_their_dhcp_dropped_by_name() {
    let mut lab = Lab::new();
    assert_eq!(Ask::new(1).ask(&mut lab), Verdict::Drop(DropReason::Dhcp));
    let mut services = (*services(&self::lab())).clone();
    services.lease = None;
    serve(&mut lab, services);
    assert_eq!(Ask::new(1).ask(&mut lab), Verdict::Drop(DropReason::Dhcp));
}

#[test]
fn the_subnets_gateway_answers_pings_unless_a_workload_is_it() {
    let mut lab = lab();
    assert_eq!(lab.port(CITY, &crate::packets::echo(OWN, ROUTER, 8, 7)).verdict, TO_CITY);
    let other = lab.port(CITY, &crate::packets::udp(OWN, ROUTER, 9));
    assert_drop(&other, DropReason::HostClosed);
    let mut vrf = (*lab.fib.vrfs[0].clone().unwrap()).clone();
    vrf.routes.insert("10.20.11.1/32".parse().unwrap(), dataplane_core::Route::Port(CITY_2));
    lab.fib.insert_vrf(Arc::new(vrf));
    lab.fib.generation += 1;
    let out = lab.port(CITY, &crate::packets::echo(OWN, ROUTER, 8, 7));
    assert_eq!(out.verdict, Verdict::ToPort(CITY_2));
}

fn services(lab: &Lab) -> Arc<Services> {
    lab.fib.port(CITY).unwrap().services.clone().unwrap()
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_and_every_answer_is_sound(
        kind in 0u8..12,
        changes in proptest::collection::vec((0usize..236, any::<u8>()), 0..4),
        options in proptest::collection::vec(any::<u8>(), 0..120),
        likely in proptest::collection::vec(
            (prop_oneof![Just(50u8), Just(52), Just(54), Just(55), Just(57), Just(61), Just(82)],
             proptest::collection::vec(any::<u8>(), 0..6)), 0..4),
    ) {
        let mut lab = lab();
        let mut ask = Ask::new(kind);
        for (at, value) in changes {
            ask.fixed[at] = value;
        }
        for (code, value) in likely {
            ask = ask.option(code, &value);
        }
        ask.options.extend(options);
        let verdict = ask.ask(&mut lab);
        if let Verdict::Reply(_) = verdict {
            let frame = lab.reply();
            assert_sound(&frame[14..]);
            prop_assert_eq!(verdict, TO_CITY);
            prop_assert!(frame[..6] == mac(CITY) || frame[..6] == BROADCAST_MAC);
            let address = &frame[14 + 28 + 16..14 + 28 + 20];
            prop_assert!(address == v4(OWN) || address == v4(ANY), "only its own address: {:?}", address);
        }
    }
}
