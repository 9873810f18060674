//! Keeps the host's own network stack away from workloads' frames: it gets a copy of each, and must not act on it.
//!
//! Three locks, each for what the others leave open: the interface answers no ARP (`IFF_NOARP`), has no IPv6, and an
//! nftables ingress chain with policy "drop" takes the copy away behind our packet socket. The chain is made with two
//! nfnetlink messages in one batch; no rule is needed:
//!
//! ```text
//!  table netdev vrouter { chain <interface> { type filter hook ingress device <interface> priority 0; policy drop; } }
//! ```
//! The guard outlives this process on purpose. While an agent restarts, the host must not step in.

mod leftovers;
mod masquerade;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

pub(crate) use masquerade::{masquerade, stop_masquerading};

const TABLE: &str = "vrouter";
const NETLINK_NETFILTER: i32 = libc::NETLINK_NETFILTER;
const HEADER: usize = 16;
/// Interfaces in one transaction: its messages and the kernel's answers fit a socket's usual buffers.
const TRANSACTION: usize = 64;

// From the kernel's uapi linux/netfilter/nf_tables.h, which the libc crate has in part.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NESTED: u16 = 0x8000;
const HOOK_INGRESS: u32 = 0;
const POLICY_DROP: u32 = 0;

/// Shuts the host's stack out of these interfaces' ingress, and brings them up. What could not be done is returned
/// beside the reason, since the other locks still hold. `nftables`: whether its lock is to be tried.
pub(crate) fn shut_out_host<'i>(
    interfaces: &[&'i str],
    nftables: bool,
) -> Vec<(&'i str, &'static str, io::Error)> {
    const NFTABLES: &str = "drop its ingress with nftables";
    let mut open = Vec::new();
    let mut attempt = |interface, what, result: io::Result<()>| {
        if let Err(error) = result {
            open.push((interface, what, error));
        }
    };
    // Before an interface comes up, or it makes itself a link-local address and speaks.
    for interface in interfaces {
        attempt(*interface, "switch IPv6 off", switch_ipv6_off(interface));
    }
    // A transaction waits for the kernel's grace periods, however much is in it. One that fails does nothing at all,
    // and then each interface gets its own.
    let guarded = if nftables { interfaces } else { &[] };
    for some in guarded.chunks(TRANSACTION) {
        match (drop_ingress(some), some) {
            (Err(_), [_, _, ..]) => {
                some.iter().for_each(|interface| attempt(interface, NFTABLES, drop_ingress(&[interface])));
            }
            (done, _) => attempt(some.first().copied().unwrap_or_default(), NFTABLES, done),
        }
    }
    for interface in interfaces {
        attempt(*interface, "switch ARP off", switch_arp_off(interface));
    }
    open
}

/// Takes ingress chains away, for interfaces that are given back. Those that have none are left as they are.
pub(crate) fn let_host_in(interfaces: &[&str]) {
    let delete = |name: &&str| message(libc::NFT_MSG_DELCHAIN, 0, &chain_name(name));
    for some in interfaces.chunks(TRANSACTION) {
        let all: Vec<Vec<u8>> = some.iter().map(delete).collect();
        // One that fails does nothing at all.
        if transact(&all).is_err() && all.len() > 1 {
            all.iter().for_each(|one| drop(transact(std::slice::from_ref(one))));
        }
    }
}

/// Takes the table away, when no port is left.
pub(crate) fn clear() -> io::Result<()> {
    transact(&[message(libc::NFT_MSG_DELTABLE, 0, &attribute(NFTA_TABLE_NAME, &text(TABLE)))])
}

fn switch_ipv6_off(interface: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    // Whoever made the interface has mostly done it.
    if std::fs::read(&path).is_ok_and(|value| value.first() == Some(&b'1')) {
        return Ok(());
    }
    match std::fs::write(path, "1") {
        // A kernel without IPv6 has nothing to switch off.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn switch_arp_off(interface: &str) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    sys::add_interface_flags(socket.as_fd(), interface, libc::IFF_NOARP | libc::IFF_UP)
}

fn drop_ingress(interfaces: &[&str]) -> io::Result<()> {
    let create = libc::NLM_F_CREATE;
    let table = message(libc::NFT_MSG_NEWTABLE, create, &attribute(NFTA_TABLE_NAME, &text(TABLE)));
    let chain = |name: &&str| message(libc::NFT_MSG_NEWCHAIN, create, &ingress_chain(name));
    let messages: Vec<Vec<u8>> = std::iter::once(table).chain(interfaces.iter().map(chain)).collect();
    transact(&messages)
}

fn chain_name(interface: &str) -> Vec<u8> {
    [attribute(NFTA_CHAIN_TABLE, &text(TABLE)), attribute(NFTA_CHAIN_NAME, &text(interface))].concat()
}

fn ingress_chain(interface: &str) -> Vec<u8> {
    let hook = [
        attribute(NFTA_HOOK_HOOKNUM, &HOOK_INGRESS.to_be_bytes()),
        attribute(NFTA_HOOK_PRIORITY, &0u32.to_be_bytes()),
        attribute(NFTA_HOOK_DEV, &text(interface)),
    ];
    [
        chain_name(interface),
        attribute(NFTA_CHAIN_TYPE, &text("filter")),
        attribute(NFTA_CHAIN_HOOK | NESTED, &hook.concat()),
        attribute(NFTA_CHAIN_POLICY, &POLICY_DROP.to_be_bytes()),
    ]
    .concat()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A netlink attribute: length and type in host order, the value, padding to four octets.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut octets = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// An nf_tables message for the netdev family.
fn message(kind: i32, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | kind;
    let family = u8::try_from(libc::NFPROTO_NETDEV).unwrap_or_default();
    nfnetlink(kind, flags | libc::NLM_F_ACK, family, 0, attributes)
}

fn nfnetlink(kind: i32, flags: i32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + 4 + attributes.len()).unwrap_or(u32::MAX);
    let (kind, flags) = (kind.to_ne_bytes(), (flags | libc::NLM_F_REQUEST).to_ne_bytes());
    // The low halves of both; which octets these are depends on the machine's order.
    let low = |octets: [u8; 4]| {
        u16::try_from(i32::from_ne_bytes(octets) & 0xffff).unwrap_or_default().to_ne_bytes()
    };
    let mut octets = Vec::with_capacity(HEADER + 4 + attributes.len());
    octets.extend(len.to_ne_bytes());
    octets.extend(low(kind));
    octets.extend(low(flags));
    octets.extend([0; 8]);
    octets.extend([family, 0]);
    octets.extend(resource.to_be_bytes());
    octets.extend(attributes);
    octets
}

/// Sends messages as one transaction and waits for the kernel's answer to each.
fn transact(messages: &[Vec<u8>]) -> io::Result<()> {
    let resource = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or_default();
    let unspecified = u8::try_from(libc::AF_UNSPEC).unwrap_or_default();
    let border = |kind| nfnetlink(kind, 0, unspecified, resource, &[]);
    let mut batch = border(libc::NFNL_MSG_BATCH_BEGIN);
    messages.iter().for_each(|message| batch.extend(message));
    batch.extend(border(libc::NFNL_MSG_BATCH_END));
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    (&socket).write_all(&batch)?;
    let mut answered = 0;
    let mut buffer = vec![0; 16 * 1024];
    while answered < messages.len() {
        let count = (&socket).read(&mut buffer)?;
        answered += read_answers(buffer.get(..count).unwrap_or_default())?;
    }
    Ok(())
}

/// Counts acknowledgements; a refusal is an error.
fn read_answers(mut octets: &[u8]) -> io::Result<usize> {
    let mut answers = 0;
    while let Some(header) = octets.get(..HEADER) {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
        if len < HEADER || len > octets.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        if kind == libc::NLMSG_ERROR {
            let code = octets.get(HEADER..HEADER + 4).ok_or(io::ErrorKind::InvalidData)?;
            match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                0 => answers += 1,
                refusal => return Err(io::Error::from_raw_os_error(refusal.saturating_neg())),
            }
        }
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded_but_its_length_is_not() {
        let [low, high] = 9u16.to_ne_bytes();
        assert_eq!(attribute(0, b"vrouX"), [low, high, 0, 0, b'v', b'r', b'o', b'u', b'X', 0, 0, 0]);
    }

    #[test]
    fn a_refusal_is_an_error_and_a_lying_length_too() {
        let mut answer = nfnetlink(libc::NLMSG_ERROR, 0, 0, 0, &[0; 16]);
        answer[16..20].fill(0);
        assert_eq!(read_answers(&answer).unwrap(), 1);
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(read_answers(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        for cut in 0..answer.len() {
            let _ = read_answers(&answer[..cut]);
        }
        answer[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert!(read_answers(&answer).is_err(), "a length below the header must not loop");
    }
}
