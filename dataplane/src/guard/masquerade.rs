//! The node's own address for workloads' packets: the kernel is told to route what comes from `vrouter0` and to put
//! the outgoing interface's address in front. Two tables, made anew as a whole in one transaction:
//!
//! ```text
//!  table ip vrouter { chain leave { type nat hook postrouting priority srcnat;
//!      ip saddr & 255.255.224.0 == 169.254.64.0 oifname != "vrouter0" masquerade to :40960-49151 } }
//!  table ip6 vrouter { …fd76:7274::/64… }
//! ```
//! They outlive this process, as the kernel's connections do, so that flows go on over a restart. `nf_nat` and
//! `nft_masq` are all that the kernel needs beside what the guards need; every kernel that runs kube-proxy has them.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use dataplane_core::nat::{SERVICE_V4, SERVICE_V6};

use super::{
    NESTED, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM,
    NFTA_HOOK_PRIORITY, NFTA_TABLE_NAME, TABLE, attribute, nfnetlink, text, transact,
};

const CHAIN: &str = "leave";
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;

// From the kernel's uapi linux/netfilter/nf_tables.h and nf_nat.h.
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NETWORK_HEADER: u32 = 1;
const META_OIFNAME: u32 = 7;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const RANGE_PROTO_SPECIFIED: u32 = 2;
const INTERFACE_NAME: usize = 16;

/// Has the kernel route workloads' packets and give them the node's address, with ports of this range.
pub(crate) fn masquerade(host_interface: &str, ports: &RangeInclusive<u16>) -> io::Result<()> {
    forward_v4().map_err(|error| explain("switch net.ipv4.ip_forward on", &error))?;
    let rules = |v4| transact(&table(v4, host_interface, ports));
    rules(true).map_err(|error| explain("set up nftables masquerading (nf_nat, nft_masq)", &error))?;
    // A node without IPv6 has nobody to masquerade for.
    if Path::new("/proc/sys/net/ipv6/conf/all/forwarding").exists() {
        forward_v6().map_err(|error| explain("switch net.ipv6.conf.all.forwarding on", &error))?;
        rules(false).map_err(|error| explain("set up nftables masquerading for IPv6", &error))?;
    }
    Ok(())
}

/// Takes the tables away. That there are none is no error.
pub(crate) fn stop_masquerading() {
    for v4 in [true, false] {
        let _ =
            transact(&[message(v4, libc::NFT_MSG_DELTABLE, 0, &attribute(NFTA_TABLE_NAME, &text(TABLE)))]);
    }
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

fn forward_v4() -> io::Result<()> {
    switch_on(Path::new("/proc/sys/net/ipv4/ip_forward"))
}

/// A kernel that routes IPv6 no longer listens to router advertisements where it did by default: it is told to.
fn forward_v6() -> io::Result<()> {
    let all = Path::new("/proc/sys/net/ipv6/conf/all/forwarding");
    if is(all, b'1') {
        return Ok(());
    }
    for interface in std::fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let accept = interface.path().join("accept_ra");
        if is(&accept, b'1') {
            std::fs::write(&accept, "2")?;
        }
    }
    switch_on(all)
}

fn is(path: &Path, value: u8) -> bool {
    std::fs::read(path).is_ok_and(|found| found.first() == Some(&value))
}

fn switch_on(path: &Path) -> io::Result<()> {
    if is(path, b'1') { Ok(()) } else { std::fs::write(path, "1") }
}

fn message(v4: bool, kind: i32, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let family = if v4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
    let family = u8::try_from(family).unwrap_or_default();
    nfnetlink(libc::NFNL_SUBSYS_NFTABLES << 8 | kind, flags | libc::NLM_F_ACK, family, 0, attributes)
}

/// The table made, taken away and made again: whatever it was before, this is what it is then.
fn table(v4: bool, host_interface: &str, ports: &RangeInclusive<u16>) -> [Vec<u8>; 5] {
    let name = attribute(NFTA_TABLE_NAME, &text(TABLE));
    let make = || message(v4, libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, &name);
    let hook = [
        attribute(NFTA_HOOK_HOOKNUM, &HOOK_POSTROUTING.to_be_bytes()),
        attribute(NFTA_HOOK_PRIORITY, &PRIORITY_SRCNAT.to_be_bytes()),
    ];
    let chain = [
        attribute(NFTA_CHAIN_TABLE, &text(TABLE)),
        attribute(NFTA_CHAIN_NAME, &text(CHAIN)),
        attribute(NFTA_CHAIN_TYPE, &text("nat")),
        attribute(NFTA_CHAIN_HOOK | NESTED, &hook.concat()),
    ];
    let rule = [
        attribute(NFTA_RULE_TABLE, &text(TABLE)),
        attribute(NFTA_RULE_CHAIN, &text(CHAIN)),
        attribute(NFTA_RULE_EXPRESSIONS | NESTED, &rule(v4, host_interface, ports).concat()),
    ];
    [
        make(),
        message(v4, libc::NFT_MSG_DELTABLE, 0, &name),
        make(),
        message(v4, libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, &chain.concat()),
        message(v4, libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &rule.concat()),
    ]
}

fn rule(v4: bool, host_interface: &str, ports: &RangeInclusive<u16>) -> Vec<Vec<u8>> {
    let mut name = [0; INTERFACE_NAME];
    name.iter_mut().zip(host_interface.bytes()).for_each(|(to, from)| *to = from);
    let mut rule = match v4 {
        true => {
            let mask = (!0u32 << (32 - u32::from(SERVICE_V4.1))).to_be_bytes();
            vec![source(12, 4), masked(mask), compare(EQUAL, &SERVICE_V4.0.octets())]
        }
        // Whole octets: no mask is needed.
        false => {
            let octets = SERVICE_V6.0.octets();
            vec![source(8, 8), compare(EQUAL, octets.get(..8).unwrap_or_default())]
        }
    };
    rule.extend([
        expression("meta", &[number(1, REGISTER_1), number(2, META_OIFNAME)]),
        compare(NOT_EQUAL, &name),
        immediate(REGISTER_1, *ports.start()),
        immediate(REGISTER_2, *ports.end()),
        expression("masq", &[number(1, RANGE_PROTO_SPECIFIED), number(2, REGISTER_1), number(3, REGISTER_2)]),
    ]);
    rule
}

/// The source address, or the front of it, into the first register.
fn source(offset: u32, len: u32) -> Vec<u8> {
    expression(
        "payload",
        &[number(1, REGISTER_1), number(2, NETWORK_HEADER), number(3, offset), number(4, len)],
    )
}

fn masked(mask: [u8; 4]) -> Vec<u8> {
    let parts =
        [number(1, REGISTER_1), number(2, REGISTER_1), number(3, 4), data(4, &mask), data(5, &[0; 4])];
    expression("bitwise", &parts)
}

fn compare(how: u32, with: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER_1), number(2, how), data(3, with)])
}

fn immediate(register: u32, port: u16) -> Vec<u8> {
    expression("immediate", &[number(1, register), data(2, &port.to_be_bytes())])
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, &attribute(NFTA_DATA_VALUE, value))
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    let parts = [attribute(NFTA_EXPR_NAME, &text(name)), attribute(NFTA_EXPR_DATA | NESTED, &parts.concat())];
    attribute(NFTA_LIST_ELEM | NESTED, &parts.concat())
}
