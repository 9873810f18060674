//! DHCPv6 and router advertisements: what a client says, written here octet by octet, and what it hears.

use dataplane_core::{DropReason, ReplyTo, Services, Verdict, VnetHeader, unsolicited_advertisement};
use pnet::packet::icmpv6::ndp::{NdpOptionTypes, RouterAdvertPacket};
use proptest::prelude::*;

use crate::dhcp4::{change, lab, serve};
use crate::lab::{CITY, GATEWAY, Lab, assert_sound, mac};
use crate::packets::{ICMPV6, UDP, ethernet, ip, ttl};

const OWN: &str = "fd00:20:11::2";
/// As the MAC address 02:00:00:00:00:01 makes it.
const OWN_BY_MAC: &str = "fd00:20:11::ff:fe00:1";
const CLIENT: &str = "fe80::1234";
const SERVERS: &str = "ff02::1:2";
const SERVERS_MAC: [u8; 6] = [0x33, 0x33, 0, 1, 0, 2];
const SERVER_ID: [u8; 10] = [0, 3, 0, 1, 0, 0, 0x5e, 0, 1, 0];
const CLIENT_ID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const TO_CITY: Verdict = Verdict::Reply(ReplyTo::Port(CITY));

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes()[..], &len.to_be_bytes(), value].concat()
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn association(id: u8, addresses: &[&str]) -> Vec<u8> {
    let mut value = vec![0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0];
    for addr in addresses {
        value.extend(option(5, &[&v6(addr)[..], &[0; 8]].concat()));
    }
    option(3, &value)
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 7, 8, 9][..], &options.concat()].concat()
}

fn client() -> Vec<u8> {
    option(1, &CLIENT_ID)
}

fn server() -> Vec<u8> {
    option(2, &SERVER_ID)
}

fn send(lab: &mut Lab, src: &str, dst: &str, message: &[u8]) -> Verdict {
    let len = u16::try_from(8 + message.len()).unwrap();
    let header = [546, 547, len, 0].map(u16::to_be_bytes).concat();
    let packet = ip(src, dst, UDP, [&header[..], message].concat(), 6);
    lab.frame(CITY, &ethernet(SERVERS_MAC, mac(CITY), &packet), VnetHeader::NONE).verdict
}

/// What a client hears: kind and options.
#[track_caller]
fn told(lab: &mut Lab, message: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    assert_eq!(send(lab, CLIENT, SERVERS, message), TO_CITY);
    let frame = lab.reply();
    assert_eq!(
        (&frame[..6], &frame[6..12], &frame[12..14]),
        (&mac(CITY)[..], &GATEWAY[..], &[0x86, 0xdd][..])
    );
    let packet = &frame[14..];
    assert_sound(packet);
    assert_eq!((&packet[8..24], &packet[24..40]), (&v6("fe80::1")[..], &v6(CLIENT)[..]));
    assert_eq!(packet[40..44], [547u16.to_be_bytes(), 546u16.to_be_bytes()].concat());
    let message = &packet[48..];
    assert_eq!(message[1..4], [7, 8, 9], "the transaction");
    let options = read(&message[4..]);
    assert!(options.contains(&(2, SERVER_ID.to_vec())));
    (message[0], options)
}

fn read(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while let [c0, c1, l0, l1, rest @ ..] = bytes {
        let (value, behind) = rest.split_at(usize::from(u16::from_be_bytes([*l0, *l1])));
        options.push((u16::from_be_bytes([*c0, *c1]), value.to_vec()));
        bytes = behind;
    }
    assert!(bytes.is_empty());
    options
}

fn find(options: &[(u16, Vec<u8>)], code: u16) -> Option<&[u8]> {
    options.iter().find(|(it, _)| *it == code).map(|(_, value)| value.as_slice())
}

/// The addresses of an association with their valid lifetimes.
fn given(association: &[u8]) -> Vec<(String, u32)> {
    let addresses = read(&association[12..]).into_iter().filter(|(code, _)| *code == 5);
    let seconds = |value: &[u8]| u32::from_be_bytes(value[20..24].try_into().unwrap());
    let text =
        |value: &[u8]| std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&value[..16]).unwrap()).to_string();
    addresses.map(|(_, value)| (text(&value), seconds(&value))).collect()
}

fn status(options: &[(u16, Vec<u8>)]) -> Option<u16> {
    find(options, 13).map(|value| u16::from_be_bytes([value[0], value[1]]))
}

#[test]
fn solicit_and_request_lead_to_the_ports_address_and_all_that_goes_with_it() {
    let mut lab = lab();
    let solicit = message(1, &[client(), association(5, &[])]);
    let request = message(3, &[client(), server(), association(5, &[OWN])]);
    let rapid = message(1, &[client(), association(5, &[]), option(14, &[])]);
    for (name, asked, kind) in [("solicit", solicit, 2), ("request", request, 7), ("rapid commit", rapid, 7)]
    {
        let (got, options) = told(&mut lab, &asked);
        assert_eq!(got, kind, "{name}");
        assert_eq!(find(&options, 1), Some(&CLIENT_ID[..]), "{name}");
        assert_eq!(find(&options, 14).is_some(), name == "rapid commit");
        assert_eq!(find(&options, 7), (name == "solicit").then_some(&[255][..]), "{name}");
        let association = find(&options, 3).unwrap();
        assert_eq!(association[..12], [0, 0, 0, 5, 0, 0, 7, 8, 0, 0, 0x0b, 0x40], "1800 and 2880 seconds");
        assert_eq!(given(association), [(OWN.to_owned(), 3600)], "{name}");
        assert_eq!(
            find(&options, 23),
            Some(&v6("fd00:20:11::1")[..]),
            "{name}: the subnet's gateway forwards names"
        );
        assert_eq!(find(&options, 24), Some(&b"\x07example\x03org\x00"[..]), "{name}");
    }
}

#[test]
fn renewing_and_rebinding_keep_what_is_the_ports_and_end_what_is_not() {
    let mut lab = lab();
    let had = association(5, &[OWN, "fd00:20:11::77"]);
    for (name, asked) in
        [("renew", message(5, &[client(), server(), had.clone()])), ("rebind", message(6, &[client(), had]))]
    {
        let (kind, options) = told(&mut lab, &asked);
        assert_eq!(kind, 7, "{name}");
        let given = given(find(&options, 3).unwrap());
        assert_eq!(given, [(OWN.to_owned(), 3600), ("fd00:20:11::77".to_owned(), 0)], "{name}");
    }
}

#[test]
fn confirm_tells_whether_the_addresses_are_right_here() {
    let mut lab = lab();
    for (addresses, expected) in [(&[OWN][..], 0), (&[OWN, "fd00:99::1"], 4)] {
        let (kind, options) = told(&mut lab, &message(4, &[client(), association(5, addresses)]));
        assert_eq!((kind, status(&options)), (7, Some(expected)), "{addresses:?}");
    }
    let nothing = send(&mut lab, CLIENT, SERVERS, &message(4, &[client(), association(5, &[])]));
    assert_eq!(nothing, Verdict::Drop(DropReason::DhcpIgnored));
}

#[test]
fn releases_and_declines_are_heard_and_declines_are_counted() {
    let mut lab = lab();
    for (kind, reason) in [(8, None), (9, Some(DropReason::DhcpDeclined))] {
        let (got, options) = told(&mut lab, &message(kind, &[client(), server(), association(5, &[OWN])]));
        assert_eq!((got, status(&options)), (7, Some(0)));
        assert_eq!(lab.state.reply.reason(), reason);
    }
}

#[test]
fn information_comes_without_addresses_and_without_a_name_of_the_client() {
    let mut lab = lab();
    let (kind, options) = told(&mut lab, &message(11, &[option(6, &[0, 23, 0, 24])]));
    assert_eq!((kind, find(&options, 1), find(&options, 3)), (7, None, None));
    assert!(find(&options, 23).is_some() && find(&options, 24).is_some());
}

#[test]
fn a_second_association_temporary_addresses_and_prefixes_are_told_that_there_are_none() {
    let mut lab = lab();
    let others = [option(4, &[0, 0, 0, 8]), option(25, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0])];
    let [temporary, prefixes] = others;
    let asked = [client(), association(5, &[]), association(6, &[]), temporary, prefixes];
    let (_, options) = told(&mut lab, &message(1, &asked));
    let associations: Vec<_> = options.iter().filter(|(code, _)| matches!(code, 3 | 4 | 25)).collect();
    assert_eq!(associations.len(), 4);
    assert_eq!(given(&associations[0].1).len(), 1);
    assert_eq!(status(&read(&associations[1].1[12..])), Some(2));
    assert_eq!(status(&read(&associations[2].1[4..])), Some(2));
    assert_eq!(status(&read(&associations[3].1[12..])), Some(6));
}

#[test]
fn what_deserves_no_answer_gets_none_and_is_counted_by_name() {
    use DropReason::*;
    let mut lab = lab();
    let other = option(2, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    let ia = association(5, &[OWN]);
    for (name, asked, reason) in [
        ("without a client", message(1, std::slice::from_ref(&ia)), DhcpMalformed),
        ("a solicit to a server", message(1, &[client(), server(), ia.clone()]), DhcpMalformed),
        ("a rebind to a server", message(6, &[client(), server(), ia.clone()]), DhcpMalformed),
        ("a request to nobody", message(3, &[client(), ia.clone()]), DhcpMalformed),
        ("a renewal to nobody", message(5, &[client(), ia.clone()]), DhcpMalformed),
        ("a request to another", message(3, &[client(), other.clone(), ia.clone()]), DhcpIgnored),
        ("a relay's", message(12, &[client(), ia.clone()]), DhcpRelayed),
        ("a server's", message(2, &[client(), ia.clone()]), DhcpIgnored),
        ("information with addresses", message(11, &[client(), ia.clone()]), DhcpMalformed),
        ("a long identifier", message(1, &[option(1, &[0; 131]), ia.clone()]), DhcpMalformed),
        ("a short identifier", message(1, &[option(1, &[0; 2]), ia.clone()]), DhcpMalformed),
        ("a short association", message(1, &[client(), option(3, &[0; 11])]), DhcpMalformed),
        (
            "an address that runs over",
            message(1, &[client(), option(3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24, 1])]),
            DhcpMalformed,
        ),
        ("nothing", vec![], DhcpMalformed),
        ("three octets", vec![1, 2, 3], DhcpMalformed),
        ("half an option", [message(1, &[client()]), vec![0, 3, 0]].concat(), DhcpMalformed),
    ] {
        assert_eq!(send(&mut lab, CLIENT, SERVERS, &asked), Verdict::Drop(reason), "{name}");
    }
    let solicit = message(1, &[client(), ia]);
    assert_eq!(send(&mut lab, "fd00:20:11::3", SERVERS, &solicit), Verdict::Drop(SpoofedSource));
    assert_eq!(send(&mut lab, CLIENT, "fe80::1", &solicit), Verdict::Drop(DhcpIgnored), "unicast");
    change(&mut lab, |port| port.addresses.retain(|addr| addr.is_ipv4()));
    assert_eq!(send(&mut lab, CLIENT, SERVERS, &solicit), Verdict::Drop(DhcpNoAddress));
    assert_eq!(
        send(&mut Lab::new(), CLIENT, SERVERS, &solicit),
        Verdict::Drop(Dhcp),
        "addresses are configured"
    );
}

fn solicitation(src: &str, options: &[u8]) -> Vec<u8> {
    ttl(ip(src, "ff02::2", ICMPV6, [&[133, 0, 0, 0, 0, 0, 0, 0], options].concat(), 2), 255)
}

fn seek(lab: &mut Lab, packet: &[u8]) -> Verdict {
    lab.frame(CITY, &ethernet([0x33, 0x33, 0, 0, 0, 2], mac(CITY), packet), VnetHeader::NONE).verdict
}

/// Flags, lifetime and options of the advertisement in hand.
fn advertised(frame: &[u8]) -> (u8, u16, Vec<(u8, Vec<u8>)>) {
    assert_eq!(frame[6..12], GATEWAY);
    let packet = &frame[14..];
    assert_sound(packet);
    assert_eq!((packet[7], &packet[8..24]), (255, &v6("fe80::1")[..]));
    let message = RouterAdvertPacket::new(&packet[40..]).unwrap();
    let options = message.get_options().into_iter().map(|option| (option.option_type.0, option.data));
    (message.get_flags(), message.get_lifetime(), options.collect())
}

fn find_nd(options: &[(u8, Vec<u8>)], code: u8) -> &[u8] {
    &options.iter().find(|(it, _)| *it == code).unwrap_or_else(|| panic!("option {code}: {options:?}")).1
}

#[test]
fn a_router_solicitation_is_answered_with_the_mode_that_the_address_asks_for() {
    for (address, flags, prefix_flags) in [(OWN, 0xc0, 0), (OWN_BY_MAC, 0x40, 0x40)] {
        let mut lab = lab();
        change(&mut lab, |port| {
            port.addresses = vec!["10.20.11.2".parse().unwrap(), address.parse().unwrap()]
        });
        assert_eq!(seek(&mut lab, &solicitation(CLIENT, &[1, 1, 2, 0, 0, 0, 0, 1])), TO_CITY);
        let frame = lab.reply();
        assert_eq!((&frame[..6], &frame[38..54]), (&mac(CITY)[..], &v6(CLIENT)[..]));
        let (got, lifetime, options) = advertised(frame);
        assert_eq!((got, lifetime), (flags, 1800), "{address}");
        assert_eq!(find_nd(&options, NdpOptionTypes::SourceLLAddr.0), GATEWAY);
        assert_eq!(find_nd(&options, NdpOptionTypes::MTU.0), [0, 0, 0, 0, 0x05, 0xbc]);
        let prefix = find_nd(&options, NdpOptionTypes::PrefixInformation.0);
        assert_eq!(prefix[..2], [64, prefix_flags], "{address}: never on-link");
        assert_eq!(prefix[14..], v6("fd00:20:11::"));
        assert_eq!(find_nd(&options, 24)[..2], [48, 0], "a route");
        assert_eq!(find_nd(&options, 25)[6..], v6("fe80::1"), "names are asked here");
        assert_eq!(find_nd(&options, 31)[6..][..13], *b"\x07example\x03org\x00");
    }
}

#[test]
fn an_address_that_the_machine_makes_itself_needs_no_subnet_to_be_told() {
    let mut lab = lab();
    let services: Services = (**lab.fib.port(CITY).unwrap().services.as_ref().unwrap()).clone();
    serve(&mut lab, Services { subnets: Vec::new(), ..services });
    change(&mut lab, |port| port.addresses = vec![OWN_BY_MAC.parse().unwrap()]);
    assert_eq!(seek(&mut lab, &solicitation(CLIENT, &[])), TO_CITY);
    let (flags, lifetime, options) = advertised(lab.reply());
    assert_eq!((flags, lifetime), (0x40, 1800));
    let prefix = find_nd(&options, NdpOptionTypes::PrefixInformation.0);
    assert_eq!((&prefix[..2], &prefix[14..]), (&[64, 0x40][..], &v6("fd00:20:11::")[..]));
}

#[test]
fn an_address_that_the_machine_makes_itself_outlives_a_lease_shorter_than_the_routers() {
    for (seconds, expected) in [(60, 1800), (1801, 1801), (u32::MAX, u32::MAX)] {
        let mut lab = lab();
        let mut services: Services = (**lab.fib.port(CITY).unwrap().services.as_ref().unwrap()).clone();
        services.lease.as_mut().unwrap().seconds = seconds;
        serve(&mut lab, services);
        change(&mut lab, |port| port.addresses = vec![OWN_BY_MAC.parse().unwrap()]);
        assert_eq!(seek(&mut lab, &solicitation(CLIENT, &[])), TO_CITY);
        let (_, _, options) = advertised(lab.reply());
        let prefix = find_nd(&options, NdpOptionTypes::PrefixInformation.0);
        assert_eq!(prefix[2..10], [expected; 2].map(u32::to_be_bytes).concat(), "valid, preferred");
    }
}

#[test]
fn nobody_in_particular_is_answered_to_all_and_advertisements_come_unasked_too() {
    let mut lab = lab();
    assert_eq!(seek(&mut lab, &solicitation("::", &[])), TO_CITY);
    assert_eq!(lab.reply()[38..54], v6("ff02::1"));
    let (gateway, port) = (lab.fib.gateway, lab.fib.port(CITY).unwrap().clone());
    let unasked = unsolicited_advertisement(&gateway, &port).unwrap();
    assert_eq!(unasked[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(unasked[38..54], v6("ff02::1"));
    advertised(&unasked);
    let bare = Lab::new().fib.port(CITY).unwrap().clone();
    assert_eq!(unsolicited_advertisement(&gateway, &bare), None);
}

#[test]
fn a_subnet_without_a_gateway_has_no_router() {
    let mut lab = lab();
    let mut services: Services = (**lab.fib.port(CITY).unwrap().services.as_ref().unwrap()).clone();
    services.subnets[1].gateway = None;
    serve(&mut lab, services);
    assert_eq!(seek(&mut lab, &solicitation(CLIENT, &[])), TO_CITY);
    assert_eq!(advertised(lab.reply()).1, 0);
}

#[test]
fn a_bad_router_solicitation_is_discarded() {
    let mut lab = lab();
    let good = solicitation(CLIENT, &[]);
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    for (name, packet) in [
        ("hop limit", with(7, 254)),
        ("code", with(41, 1)),
        ("checksum", with(47, 1)),
        ("an option of no length", solicitation(CLIENT, &[1, 0, 0, 0, 0, 0, 0, 0])),
        ("an option that runs over", solicitation(CLIENT, &[1, 2, 0, 0, 0, 0, 0, 0])),
        ("a link-layer address of nobody", solicitation("::", &[1, 1, 2, 0, 0, 0, 0, 1])),
        (
            "a link-layer address of nobody behind a nonce",
            solicitation("::", &[14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 0, 1]),
        ),
    ] {
        assert_eq!(seek(&mut lab, &packet), Verdict::Drop(DropReason::MalformedNd), "{name}");
    }
    let in_anothers_name = seek(&mut lab, &solicitation("fd00:20:11::3", &[]));
    assert_eq!(in_anothers_name, Verdict::Drop(DropReason::SpoofedSource));
    assert_eq!(seek(&mut lab, &solicitation(OWN, &[])), TO_CITY);
    let configured = seek(&mut Lab::new(), &good);
    assert_eq!(configured, Verdict::Drop(DropReason::RouterSolicitation));
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_and_every_answer_is_sound(
        kind in 0u8..14,
        known in proptest::collection::vec(
            prop_oneof![
                Just(client()), Just(server()), Just(association(1, &[OWN])), Just(option(14, &[])),
                proptest::collection::vec(any::<u8>(), 0..20).prop_map(|value| option(3, &value)),
            ], 0..12),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut lab = lab();
        let asked = [message(kind, &known), tail].concat();
        if let Verdict::Reply(_) = send(&mut lab, CLIENT, SERVERS, &asked) {
            let frame = lab.reply();
            assert_sound(&frame[14..]);
            prop_assert!(frame.len() <= 14 + 1280);
            let options = read(&frame[14 + 48 + 4..]);
            for (code, association) in &options {
                if *code == 3 {
                    prop_assert!(given(association).iter().all(|(addr, seconds)| addr == OWN || *seconds == 0));
                }
            }
        }
    }

    #[test]
    fn no_router_solicitation_makes_it_panic(message in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut lab = lab();
        let message = [&[133, 0, 0, 0][..], &message].concat();
        let _ = seek(&mut lab, &ttl(ip(CLIENT, "ff02::2", ICMPV6, message, 2), 255));
    }
}
