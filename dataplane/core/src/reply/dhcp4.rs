//! DHCP for workloads (RFC 2131): the port's own address, and what goes with it.
//!
//! ```text
//!  0    1      2    3     4     8      10     12      16      20      24      28       44     108   236     240
//!  | op | htype| hlen| hops| xid | secs | flags| ciaddr| yiaddr| siaddr| giaddr| chaddr | sname| file| cookie| options …
//! ```
//! No state: an address is the port's as long as the port has it, so a lease is only a time to ask again. The server
//! is known by the subnet's gateway address, on every hypervisor the same: a machine that moved renews where it is.
//!
//! Never answered: what another hardware address asks for (a nested machine's), what came through a relay, messages
//! for another server, releases, declines (nothing else can be offered; they are counted), BOOTP without DHCP.

mod options;
mod write;

use std::net::{IpAddr, Ipv4Addr};

use vrouter_types::MacAddr;

pub(crate) use write::answer;

use crate::fib::{Gateway, Port, Services, Subnet};
use crate::verdict::DropReason;
use options::{Found, find};

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];
const BROADCAST: u8 = 0x80;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// What a client asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'b> {
    fixed: &'b [u8; FIXED],
    kind: u8,
    found: Found<'b>,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Offer(Ipv4Addr),
    Ack(Ipv4Addr),
    /// What the client wants is not the port's.
    Nak,
    /// It has an address, and wants the rest.
    Inform(Ipv4Addr),
}

impl Question<'_> {
    fn address(&self, at: usize) -> Ipv4Addr {
        let octets = self.fixed.get(at..).and_then(|rest| rest.first_chunk::<4>());
        octets.map_or(Ipv4Addr::UNSPECIFIED, |octets| Ipv4Addr::from(*octets))
    }

    /// The address that the client has already.
    pub(crate) fn held(&self) -> Ipv4Addr {
        self.address(12)
    }

    fn hardware(&self) -> MacAddr {
        MacAddr([28, 29, 30, 31, 32, 33].map(|at: usize| self.fixed[at]))
    }

    fn wants_broadcast(&self) -> bool {
        self.fixed[10] & BROADCAST != 0
    }
}

/// Reads what a port asks. `message` begins behind the UDP header.
pub(crate) fn parse<'b>(port: &Port, message: &'b [u8]) -> Result<Question<'b>, DropReason> {
    let (fixed, rest) = message.split_first_chunk::<FIXED>().ok_or(DropReason::DhcpMalformed)?;
    if fixed[0] != BOOT_REQUEST || fixed[1..3] != ETHERNET || fixed[236..] != COOKIE {
        return Err(DropReason::DhcpMalformed);
    }
    let found = find(fixed, rest).ok_or(DropReason::DhcpMalformed)?;
    let question = Question { fixed, kind: found.kind.unwrap_or(0), found };
    if !question.address(24).is_unspecified() || fixed[3] != 0 || found.relayed {
        return Err(DropReason::DhcpRelayed);
    }
    if question.hardware() != port.mac {
        return Err(DropReason::DhcpWrongClient);
    }
    Ok(question)
}

/// What becomes of a question.
pub(crate) fn decide(
    gateway: &Gateway,
    port: &Port,
    services: &Services,
    question: &Question<'_>,
) -> Result<Answer, DropReason> {
    let own = |addr: Ipv4Addr| port.addresses.contains(&IpAddr::V4(addr));
    let first = port.addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(addr) => Some(*addr),
        IpAddr::V6(_) => None,
    });
    let (held, wanted) = (question.held(), question.found.requested);
    let judge = |addr: Ipv4Addr| if own(addr) { Answer::Ack(addr) } else { Answer::Nak };
    match question.kind {
        DISCOVER => {
            let offered = wanted.filter(|addr| own(*addr)).or(first).ok_or(DropReason::DhcpNoAddress)?;
            Ok(Answer::Offer(offered))
        }
        REQUEST => match (question.found.server, wanted) {
            // It chose among offers.
            (Some(server), _) if !is_ours(gateway, services, server) => Err(DropReason::DhcpIgnored),
            (Some(_), Some(wanted)) => Ok(judge(wanted)),
            (Some(_), None) => Err(DropReason::DhcpMalformed),
            // It renews, or rebinds.
            (None, _) if !held.is_unspecified() => Ok(judge(held)),
            // It comes back from a reboot.
            (None, Some(wanted)) => Ok(judge(wanted)),
            (None, None) => Err(DropReason::DhcpMalformed),
        },
        INFORM if own(held) => Ok(Answer::Inform(held)),
        INFORM => Err(DropReason::SpoofedSource),
        DECLINE => Err(DropReason::DhcpDeclined),
        // A release among them: there is no lease to be forgotten.
        _ => Err(DropReason::DhcpIgnored),
    }
}

fn is_ours(gateway: &Gateway, services: &Services, server: Ipv4Addr) -> bool {
    gateway.v4 == server || services.is_gateway(server.into())
}

/// The router of an address: that of its subnet, unless the workload is the router itself; without a subnet, the
/// gateway of every port.
fn router(gateway: &Gateway, port: &Port, subnet: Option<&Subnet>) -> Option<Ipv4Addr> {
    match subnet.map(|subnet| subnet.gateway) {
        None => Some(gateway.v4),
        Some(Some(IpAddr::V4(router))) if !port.addresses.contains(&router.into()) => Some(router),
        Some(_) => None,
    }
}
