//! Routes, links and neighbours as rtnetlink writes them: the few messages and attributes that an adjacency needs. Pure.
//!
//! ```text
//!  0       4       6       8        12       16
//!  | length| type  | flags | number | port   | body, then attributes: | length | type | value, padded to 4 |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sys::IfIndex;

const HEADER: usize = 16;
const ROUTE_BODY: usize = 12;
const LINK_BODY: usize = 16;
const NEIGHBOUR_BODY: usize = 12;

// From the kernel's uapi: linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h, linux/if_arp.h, linux/xfrm.h.
pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const XFRM_MSG_NEWSPDINFO: u16 = 36;
const XFRM_MSG_GETSPDINFO: u16 = 37;
const NLMSG_NOOP: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
#[cfg(test)]
pub(super) const NLMSG_ERROR: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTA_ENCAP_TYPE: u16 = 21;
const RTAX_MTU: u16 = 2;
const RTN_UNICAST: u8 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const ARPHRD_ETHER: u16 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
const NUD_STALE: u16 = 0x04;
/// Confirmed, about to be, or set by hand.
const NUD_USABLE: u16 = 0x02 | 0x08 | 0x10 | 0x80;
const XFRMA_SPD_INFO: u16 = 1;
const FAMILY_MASK: u16 = 0x3fff;

/// Where the kernel would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) link: IfIndex,
    pub(super) gateway: Option<IpAddr>,
    /// What the route takes, where that is known.
    pub(super) mtu: Option<u32>,
}

/// An Ethernet interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ethernet {
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) link: IfIndex,
    pub(super) address: IpAddr,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) is_usable: bool,
    /// Known, but not confirmed for a while.
    pub(super) is_stale: bool,
}

/// Gives a question a number, which its answer has too.
pub(super) fn set_number(question: &mut [u8], number: u32) {
    if let Some(field) = question.get_mut(8..12) {
        field.copy_from_slice(&number.to_ne_bytes());
    }
}

/// The number of the question that a datagram answers.
pub(super) fn number_of(answer: &[u8]) -> Option<u32> {
    number(answer.get(8..12)?)
}

/// A message that the kernel answers with nothing. Sending it gives a socket its port.
pub(super) fn nothing() -> Vec<u8> {
    message(NLMSG_NOOP, &[])
}

/// Asks for the way to `remote` from `source`.
pub(super) fn ask_route(source: IpAddr, remote: IpAddr) -> Vec<u8> {
    let bits = if remote.is_ipv4() { 32 } else { 128 };
    let mut body = [0; ROUTE_BODY];
    (body[0], body[1], body[2]) = (family(remote), bits, bits);
    message(
        RTM_GETROUTE,
        &[&body[..], &attribute(RTA_DST, &octets(remote)), &attribute(RTA_SRC, &octets(source))].concat(),
    )
}

/// Asks for an interface.
pub(super) fn ask_link(link: IfIndex) -> Vec<u8> {
    let mut body = [0; LINK_BODY];
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    message(RTM_GETLINK, &body)
}

/// Asks for a neighbour.
pub(super) fn ask_neighbour(link: IfIndex, address: IpAddr) -> Vec<u8> {
    neighbour_message(RTM_GETNEIGH, link, address, 0)
}

/// Tells the kernel that a neighbour is in use, so that it asks whether it is still there.
pub(super) fn use_neighbour(link: IfIndex, address: IpAddr) -> Vec<u8> {
    neighbour_message(RTM_NEWNEIGH, link, address, NTF_USE)
}

fn neighbour_message(kind: u16, link: IfIndex, address: IpAddr, flags: u8) -> Vec<u8> {
    let mut body = [0; NEIGHBOUR_BODY];
    (body[0], body[10]) = (family(address), flags);
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    message(kind, &[&body[..], &attribute(NDA_DST, &octets(address))].concat())
}

/// Asks how many IPsec policies there are.
pub(super) fn ask_policies() -> Vec<u8> {
    message(XFRM_MSG_GETSPDINFO, &u32::MAX.to_ne_bytes())
}

/// The way in an answer: none where the kernel would do more than put a link header in front.
pub(super) fn read_route(kind: u16, body: &[u8]) -> Option<Hop> {
    let (fixed, rest) = body.split_at_checked(ROUTE_BODY).filter(|_| kind == RTM_NEWROUTE)?;
    let mut hop = Hop { link: 0, gateway: None, mtu: None };
    for (kind, value) in Attributes(rest) {
        match kind {
            RTA_OIF => hop.link = number(value)?,
            RTA_GATEWAY => hop.gateway = Some(address(value)?),
            // A family, then an address of it.
            RTA_VIA => hop.gateway = Some(address(value.get(2..)?)?),
            RTA_METRICS => {
                hop.mtu = Attributes(value).find(|(kind, _)| *kind == RTAX_MTU).and_then(|(_, v)| number(v))
            }
            RTA_ENCAP_TYPE if value.iter().any(|octet| *octet != 0) => return None,
            _ => {}
        }
    }
    (fixed[7] == RTN_UNICAST && hop.link != 0).then_some(hop)
}

/// The Ethernet interface in an answer; none where it is another kind.
pub(super) fn read_link(kind: u16, body: &[u8]) -> Option<Ethernet> {
    let (fixed, rest) = body.split_at_checked(LINK_BODY).filter(|_| kind == RTM_NEWLINK)?;
    if u16::from_ne_bytes([fixed[2], fixed[3]]) != ARPHRD_ETHER {
        return None;
    }
    let (mut mac, mut mtu) = (None, None);
    for (kind, value) in Attributes(rest) {
        match kind {
            IFLA_ADDRESS => mac = value.try_into().ok(),
            IFLA_MTU => mtu = number(value),
            _ => {}
        }
    }
    Some(Ethernet { mac: mac?, mtu: mtu? })
}

/// The neighbour in an answer, or in what the kernel tells by itself.
pub(super) fn read_neighbour(kind: u16, body: &[u8]) -> Option<Neighbour> {
    let is_one = matches!(kind, RTM_NEWNEIGH | RTM_DELNEIGH);
    let (fixed, rest) = body.split_at_checked(NEIGHBOUR_BODY).filter(|_| is_one)?;
    let state = u16::from_ne_bytes([fixed[8], fixed[9]]);
    let (mut mac, mut dst) = (None, None);
    for (kind, value) in Attributes(rest) {
        match kind {
            NDA_DST => dst = address(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        link: number(&fixed[4..8])?,
        address: dst?,
        mac,
        is_usable: kind == RTM_NEWNEIGH && state & NUD_USABLE != 0,
        is_stale: kind == RTM_NEWNEIGH && state & NUD_STALE != 0,
    })
}

/// Whether an answer counts IPsec policies for what leaves.
pub(super) fn has_policies(kind: u16, body: &[u8]) -> bool {
    let info = body.get(4..).filter(|_| kind == XFRM_MSG_NEWSPDINFO).unwrap_or_default();
    let counts = Attributes(info).find(|(kind, _)| *kind == XFRMA_SPD_INFO).map(|(_, value)| value);
    // Incoming, outgoing, forwarded, …
    counts.and_then(|counts| number(counts.get(4..8)?)).is_some_and(|outgoing| outgoing > 0)
}

/// The messages of one datagram: type and body. A lying length ends them.
pub(super) fn messages(mut octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = octets.get(..HEADER)?;
        let len = number(&header[..4])? as usize;
        let body = octets.get(HEADER..len)?;
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[4], header[5]]), body))
    })
}

/// Attributes: type without flags, value. A lying length ends them.
struct Attributes<'o>(&'o [u8]);

impl<'o> Iterator for Attributes<'o> {
    type Item = (u16, &'o [u8]);

    fn next(&mut self) -> Option<(u16, &'o [u8])> {
        let &[l0, l1, k0, k1] = self.0.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & FAMILY_MASK, value))
    }
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut octets = len.to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend(NLM_F_REQUEST.to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend(body);
    octets
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(0);
    // Addresses are a multiple of four octets long: there is nothing to pad.
    [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => octets.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        16 => octets.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

fn number(octets: &[u8]) -> Option<u32> {
    octets.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn one(octets: &[u8]) -> (u16, &[u8]) {
        messages(octets).next().unwrap()
    }

    fn route(extra: &[u8]) -> Vec<u8> {
        let mut body = [0; ROUTE_BODY];
        (body[0], body[7]) = (2, RTN_UNICAST);
        let mtu = [&attribute(RTAX_MTU, &1400u32.to_ne_bytes())[..]].concat();
        [
            &body[..],
            &attribute(RTA_OIF, &3u32.to_ne_bytes()),
            &attribute(RTA_GATEWAY, &[192, 0, 2, 1]),
            &attribute(RTA_METRICS, &mtu),
            extra,
        ]
        .concat()
    }

    #[test]
    fn a_route_tells_link_gateway_and_mtu() {
        let hop = Hop { link: 3, gateway: Some(ip("192.0.2.1")), mtu: Some(1400) };
        assert_eq!(read_route(RTM_NEWROUTE, &route(&[])), Some(hop));
        let via = attribute(RTA_VIA, &[&[10, 0][..], &[0xfe, 0x80], &[0; 13], &[1]].concat());
        let hop = Hop { gateway: Some(ip("fe80::1")), ..hop };
        assert_eq!(read_route(RTM_NEWROUTE, &route(&via)), Some(hop));
    }

    #[test]
    fn a_route_that_encapsulates_or_leads_nowhere_is_none() {
        assert_eq!(read_route(RTM_NEWROUTE, &route(&attribute(RTA_ENCAP_TYPE, &[1, 0, 0, 0]))), None);
        assert_eq!(read_route(NLMSG_ERROR, &route(&[])), None);
        let mut blackhole = route(&[]);
        blackhole[7] = 6;
        assert_eq!(read_route(RTM_NEWROUTE, &blackhole), None);
    }

    #[test]
    fn only_ethernet_has_an_adjacency() {
        let mut body = vec![0; LINK_BODY];
        body[2..4].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        body.extend(attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]).into_iter().chain([0, 0]));
        body.extend(attribute(IFLA_MTU, &1500u32.to_ne_bytes()));
        assert_eq!(read_link(RTM_NEWLINK, &body), Some(Ethernet { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }));
        // A tun: ARPHRD_NONE.
        body[2..4].copy_from_slice(&0xfffeu16.to_ne_bytes());
        assert_eq!(read_link(RTM_NEWLINK, &body), None);
    }

    #[test]
    fn a_neighbour_is_usable_stale_or_neither() {
        for (state, usable, stale) in
            [(0x02u16, true, false), (0x04, false, true), (0x20, false, false), (0x80, true, false)]
        {
            let mut asked = ask_neighbour(4, ip("2001:db8::9"));
            asked[HEADER + 8..HEADER + 10].copy_from_slice(&state.to_ne_bytes());
            let (_, body) = one(&asked);
            let read = read_neighbour(RTM_NEWNEIGH, body).unwrap();
            assert_eq!((read.link, read.address, read.mac), (4, ip("2001:db8::9"), None));
            assert_eq!((read.is_usable, read.is_stale), (usable, stale), "{state:#x}");
            assert!(!read_neighbour(RTM_DELNEIGH, body).unwrap().is_usable);
        }
    }

    #[test]
    fn outgoing_policies_count_and_others_do_not() {
        let info = |outgoing: u32| {
            let counts = [3u32, outgoing, 3, 0, 0, 0].map(u32::to_ne_bytes).concat();
            [&[0; 4][..], &attribute(XFRMA_SPD_INFO, &counts)].concat()
        };
        assert!(has_policies(XFRM_MSG_NEWSPDINFO, &info(1)));
        assert!(!has_policies(XFRM_MSG_NEWSPDINFO, &info(0)));
        assert!(!has_policies(NLMSG_ERROR, &info(1)));
    }

    #[test]
    fn lying_lengths_and_short_messages_end_the_reading() {
        let whole = message(RTM_NEWROUTE, &route(&[]));
        for cut in 0..whole.len() {
            for (kind, body) in messages(&whole[..cut]) {
                let _ = (read_route(kind, body), read_link(kind, body), read_neighbour(kind, body));
            }
        }
        for len in [0u32, 3, 15, u32::MAX] {
            let mut lying = whole.clone();
            lying[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(messages(&lying).count(), 0, "{len}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] = 0xff;
            for (kind, body) in messages(&changed) {
                let _ = (
                    read_route(kind, body),
                    read_neighbour(RTM_NEWNEIGH, body),
                    read_link(RTM_NEWLINK, body),
                );
                let _ = has_policies(XFRM_MSG_NEWSPDINFO, body);
            }
        }
    }
}
