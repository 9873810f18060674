use proptest::prelude::*;

use super::*;
use crate::testing::{echo, tcp, udp};

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn ethernet(ethertype: u16, inside: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &ethertype.to_be_bytes(), inside].concat()
}

#[track_caller]
fn assert_matches(subject: &Subject, yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(filter(text).matches(subject), "{text}");
        assert!(!filter(&format!("not ({text})")).matches(subject), "not ({text})");
    }
    for text in no {
        assert!(!filter(text).matches(subject), "{text}");
    }
}

#[test]
fn frames_are_found_by_address_port_and_protocol() {
    let datagram = udp("10.0.0.1", "10.0.0.2", 40); // ports 40000 and 9
    let yes = [
        "host 10.0.0.1",
        "src host 10.0.0.1 and dst host 10.0.0.2",
        "net 10.0.0.0/8",
        "dst net 10.0.0.2/31",
        "port 9",
        "src port 40000",
        "dst port 9 and udp",
        "ip",
        "tcp or udp",
        "icmp or (host 10.0.0.9 or port 9)",
        "! tcp && !(arp || ip6)",
    ];
    let no = [
        "host 10.0.0.3",
        "src host 10.0.0.2",
        "dst port 40000",
        "tcp",
        "ip6",
        "icmp",
        "arp",
        "label 16",
        "udp and tcp",
        "net fd00::/8",
        "net 0.0.0.0/0 and not ip",
    ];
    assert_matches(&Subject::ethernet(&ethernet(0x0800, &datagram)), &yes, &no);
    let tagged = [&[0, 7, 8, 0][..], &datagram].concat();
    assert_matches(&Subject::ethernet(&ethernet(0x8100, &tagged)), &yes, &no);
}

#[test]
fn arp_has_addresses_too() {
    let mut arp = [0; 28];
    arp[14..18].copy_from_slice(&[10, 0, 0, 1]);
    arp[24..].copy_from_slice(&[10, 0, 0, 2]);
    let subject = Subject::ethernet(&ethernet(0x0806, &arp));
    assert_matches(
        &subject,
        &["arp", "src host 10.0.0.1", "dst net 10.0.0.2/32"],
        &["ip", "udp", "host 10.0.0.3"],
    );
}

#[test]
fn on_the_underlay_label_inner_packet_and_outer_addresses_count() {
    let [src, dst]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let entry = |label: u32, bottom: u32| (label << 12 | bottom << 8 | 64).to_be_bytes();
    let inner = tcp("10.0.0.1", "10.0.0.2", 0x10, &[], 5);
    let octets = [&entry(77, 1)[..], &inner].concat();
    assert_matches(
        &Subject::tunnel(src, dst, &octets),
        &["label 77", "tcp", "host 192.0.2.1", "dst host 192.0.2.2 and src host 10.0.0.1"],
        &["label 78", "udp", "src host 192.0.2.2", "src host 10.0.0.2"],
    );
    let stack = [&entry(9, 0)[..], &entry(77, 1), &inner].concat();
    assert_matches(&Subject::tunnel(src, dst, &stack), &["label 9", "tcp"], &["label 77"]);
    let endless = [entry(9, 0); 9].concat();
    assert_matches(&Subject::tunnel(src, dst, &endless), &["label 9"], &["tcp", "ip", "ip6"]);
    assert_matches(&Subject::tunnel(src, dst, &[]), &["host 192.0.2.1"], &["label 0"]);
}

#[test]
fn icmp_is_of_its_own_family() {
    let ping = Subject::ethernet(&ethernet(0x0800, &echo("10.0.0.1", "10.0.0.2", 8, 1)));
    assert_matches(&ping, &["icmp"], &["icmp6", "port 8"]);
}

#[test]
fn and_binds_closer_than_or_and_spaces_around_parentheses_do_not_matter() {
    assert_eq!(filter("tcp or udp and port 9"), filter("tcp or (udp and port 9)"));
    assert_ne!(filter("tcp or udp and port 9"), filter("(tcp or udp) and port 9"));
    assert_eq!(filter("(tcp or udp)and port 9"), filter(" ( tcp  or udp ) and\tport 9"));
    assert_eq!(filter("not tcp and udp"), filter("(not tcp) and udp"));
}

#[test]
fn what_is_no_filter_is_refused_with_the_word_that_is_wrong() {
    for (text, word) in [
        ("", "ends"),
        ("host", "ends where an address"),
        ("host 10.0.0", "\"10.0.0\""),
        ("host 10.0.0.0/8", "an address"),
        ("net 10.0.0.0/33", "prefix"),
        ("port 65536", "port number"),
        ("port -1", "port number"),
        ("label 1048576", "label"),
        ("tcp udp", "\"udp\""),
        ("tcp and", "ends"),
        ("(tcp", "\")\""),
        ("tcp)", "\")\""),
        ("()", "\")\""),
        ("src tcp", "\"tcp\""),
        ("dst", "ends"),
        ("vlan 7", "\"vlan\""),
    ] {
        let error = text.parse::<Filter>().unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn length_tests_and_depth_are_bounded() {
    let tests = |count| vec!["tcp"; count].join(" or ");
    assert!(tests(MAX_TESTS).parse::<Filter>().is_ok());
    assert_eq!(tests(MAX_TESTS + 1).parse::<Filter>(), Err(FilterError::TooManyTests));
    let deep = |depth| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(deep(MAX_DEPTH - 1).parse::<Filter>().is_ok());
    assert_eq!(deep(MAX_DEPTH).parse::<Filter>(), Err(FilterError::TooDeep));
    assert_eq!("! ".repeat(500).parse::<Filter>(), Err(FilterError::TooDeep));
    assert_eq!(" ".repeat(MAX_TEXT + 1).parse::<Filter>(), Err(FilterError::TooLong));
}

#[test]
fn what_was_read_is_printed_no_deeper_than_it_was() {
    let deepest = format!("arp and {}ip", "! ".repeat(MAX_DEPTH - 1));
    assert_eq!(filter(&filter(&deepest).to_string()), filter(&deepest));
    for (text, printed) in [
        ("(tcp)or((udp)and(port 9))", "tcp or udp and port 9"),
        ("(tcp or udp) and !(arp or ip)", "(tcp or udp) and not (arp or ip)"),
        ("tcp and (udp and arp)", "tcp and (udp and arp)"),
    ] {
        assert_eq!(filter(text).to_string(), printed);
    }
}

fn any_test() -> impl Strategy<Value = Test> {
    let end = prop_oneof![Just(End::Either), Just(End::Source), Just(End::Destination)];
    let addr = any::<IpAddr>();
    prop_oneof![
        (end.clone(), addr.clone()).prop_map(|(end, addr)| Test::Host(end, addr)),
        (end.clone(), addr, 0..=32u8)
            .prop_map(|(end, addr, len)| Test::Net(end, Prefix::new(addr, len).unwrap())),
        (end, any::<u16>()).prop_map(|(end, port)| Test::Port(end, port)),
        prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6)].prop_map(Test::Protocol),
        prop_oneof![Just(Test::Arp), Just(Test::Ip), Just(Test::Ip6)],
        (0..1u32 << 20).prop_map(Test::Label),
    ]
}

fn any_expression() -> impl Strategy<Value = Expression> {
    any_test().prop_map(Expression::Test).prop_recursive(4, 24, 4, |inner| {
        let not = inner.clone().prop_map(|it| Expression::Not(Box::new(it)));
        let several = prop::collection::vec(inner, 2..4);
        prop_oneof![not, several.clone().prop_map(Expression::Any), several.prop_map(Expression::All)]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(expression in any_expression()) {
        let text = expression.to_string();
        if text.len() <= MAX_TEXT {
            prop_assert_eq!(text.parse::<Filter>().unwrap(), Filter(expression), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in "[ -~()!]{0,80}|([a-z0-9.:/]{1,6} |and |or |not |\\(|\\)){0,30}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..120), expression in any_expression()) {
        let (filter, addr) = (Filter(expression), IpAddr::V4(Ipv4Addr::LOCALHOST));
        for len in 0..octets.len() {
            filter.matches(&Subject::ethernet(&octets[..len]));
            filter.matches(&Subject::tunnel(addr, addr, &octets[..len]));
        }
        for ethertype in [0x0800, 0x0806, 0x86dd, 0x8100] {
            filter.matches(&Subject::ethernet(&ethernet(ethertype, &octets)));
        }
    }
}
