//! DHCP for IPv6 (RFC 8415): the port's own addresses, and what goes with them.
//!
//! ```text
//!  0     1           4
//!  | type| transaction| options: code 2, length 2, value …
//! ```
//! No state, as with IPv4. The server's identifier is made of the gateway's MAC address, on every hypervisor the same:
//! a machine that moved renews where it is. All addresses go to the first identity association of a message; further
//! ones, temporary addresses and prefixes are told that there is nothing for them.
//!
//! Never answered: relays, messages for another server or to a unicast address, messages that RFC 8415 §16 says to
//! discard, and ports without an IPv6 address.

mod write;

use std::net::{IpAddr, Ipv6Addr};

use vrouter_types::MacAddr;

pub(crate) use write::answer;

use crate::fib::{Gateway, Port};
use crate::verdict::DropReason;

pub(crate) const SERVER_PORT: u16 = 547;
pub(crate) const CLIENT_PORT: u16 = 546;
/// Where clients send: all DHCP relay agents and servers.
pub(crate) const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const PREFERENCE: u16 = 7;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;
const DOMAINS: u16 = 24;
const IA_PD: u16 = 25;

/// Type and transaction.
const FIXED: usize = 4;
/// RFC 8415 §11.1.
const LONGEST_ID: usize = 130;
/// More than any client has; it bounds what an answer can grow to.
const MOST_ASSOCIATIONS: usize = 8;

/// What a client asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'b> {
    kind: u8,
    transaction: [u8; 3],
    client: Option<&'b [u8]>,
    rapid: bool,
    /// All options, sound.
    options: &'b [u8],
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What it would get.
    Advertise,
    /// What it gets; with the rapid commit option or not.
    Lease { rapid: bool },
    /// Whether its addresses are right here.
    Confirm(bool),
    /// That we have heard it.
    Done(Option<DropReason>),
    /// The rest, without addresses.
    Inform,
}

/// Our identifier: by link-layer address (RFC 8415 §11.4).
fn server_id(gateway: MacAddr) -> [u8; 10] {
    let [a, b, c, d, e, f] = gateway.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// Options, one after the other; what runs over the end is not told.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[c0, c1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        bytes = rest;
        Some((u16::from_be_bytes([c0, c1]), value))
    })
}

fn are_sound(bytes: &[u8]) -> bool {
    options(bytes).map(|(_, value)| value.len() + 4).sum::<usize>() == bytes.len()
}

/// The addresses that an identity association names. Its fixed part is identifier, T1 and T2.
fn named(association: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let addresses = options(association.get(12..).unwrap_or(&[])).filter(|(code, _)| *code == IA_ADDRESS);
    addresses.filter_map(|(_, value)| value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)))
}

impl<'b> Question<'b> {
    fn associations(&self) -> impl Iterator<Item = (u16, &'b [u8])> {
        options(self.options)
            .filter(|(code, _)| matches!(*code, IA_NA | IA_TA | IA_PD))
            .take(MOST_ASSOCIATIONS)
    }

    fn named(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations().filter(|(code, _)| *code == IA_NA).flat_map(|(_, association)| named(association))
    }
}

/// Reads what a port asks. `message` begins behind the UDP header.
pub(crate) fn parse(message: &[u8]) -> Result<Question<'_>, DropReason> {
    let (&[kind, t0, t1, t2], options_of) =
        message.split_first_chunk::<FIXED>().ok_or(DropReason::DhcpMalformed)?;
    if matches!(kind, RELAY_FORWARD | RELAY_REPLY) {
        return Err(DropReason::DhcpRelayed);
    }
    if !are_sound(options_of) {
        return Err(DropReason::DhcpMalformed);
    }
    let mut question =
        Question { kind, transaction: [t0, t1, t2], client: None, rapid: false, options: options_of };
    for (code, value) in options(options_of) {
        let fits = match code {
            CLIENT_ID | SERVER_ID => (3..=LONGEST_ID).contains(&value.len()),
            IA_NA | IA_PD => value.get(12..).is_some_and(are_sound),
            IA_TA => value.get(4..).is_some_and(are_sound),
            _ => true,
        };
        if !fits {
            return Err(DropReason::DhcpMalformed);
        }
        match code {
            CLIENT_ID => question.client = Some(value),
            RAPID_COMMIT => question.rapid = true,
            _ => {}
        }
    }
    Ok(question)
}

/// What becomes of a question.
pub(crate) fn decide(gateway: &Gateway, port: &Port, question: &Question<'_>) -> Result<Answer, DropReason> {
    let server = options(question.options).find(|(code, _)| *code == SERVER_ID).map(|(_, value)| value);
    let ours = server_id(gateway.mac);
    // RFC 8415 §16: who must name a server, who must not, and who need not say who it is.
    match (question.kind, server) {
        (SOLICIT | CONFIRM | REBIND, Some(_)) => return Err(DropReason::DhcpMalformed),
        (REQUEST | RENEW | RELEASE | DECLINE, None) => return Err(DropReason::DhcpMalformed),
        (_, Some(server)) if server != ours => return Err(DropReason::DhcpIgnored),
        _ => {}
    }
    if question.client.is_none() && question.kind != INFORMATION_REQUEST {
        return Err(DropReason::DhcpMalformed);
    }
    if !port.addresses.iter().any(IpAddr::is_ipv6) {
        return Err(DropReason::DhcpNoAddress);
    }
    match question.kind {
        SOLICIT if question.rapid => Ok(Answer::Lease { rapid: true }),
        SOLICIT => Ok(Answer::Advertise),
        REQUEST | RENEW | REBIND => Ok(Answer::Lease { rapid: false }),
        CONFIRM => {
            // RFC 8415 §18.3.3: without addresses there is nothing to say.
            question.named().next().ok_or(DropReason::DhcpIgnored)?;
            Ok(Answer::Confirm(question.named().all(|addr| port.addresses.contains(&addr.into()))))
        }
        RELEASE => Ok(Answer::Done(None)),
        DECLINE => Ok(Answer::Done(Some(DropReason::DhcpDeclined))),
        INFORMATION_REQUEST if question.associations().next().is_some() => Err(DropReason::DhcpMalformed),
        INFORMATION_REQUEST => Ok(Answer::Inform),
        _ => Err(DropReason::DhcpIgnored),
    }
}
