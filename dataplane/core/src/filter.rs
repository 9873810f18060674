//! Which packets a capture wants: a small language, after tcpdump's.
//!
//! ```text
//!  expression = term {"or" term}              term = factor {"and" factor}
//!  factor     = "not" factor | "(" expression ")" | test
//!  test       = ["src" | "dst"] ("host" ADDRESS | "net" PREFIX | "port" NUMBER)
//!             | "tcp" | "udp" | "icmp" | "icmp6" | "arp" | "ip" | "ip6" | "label" NUMBER
//! ```
//! `host 10.0.0.1 and (tcp or udp) and not port 22`. On the underlay the packet inside the tunnel counts, and addresses
//! may also be those of its outer header; `label` is there only. Expressions are bounded in length, tests and depth, so
//! that a capture costs a bounded time per packet.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use vrouter_types::{Label, Prefix};

use crate::packet::{ICMP, ICMPV6, Packet, TCP, UDP};

pub use parse::{FilterError, MAX_DEPTH, MAX_TESTS, MAX_TEXT};

/// What a filter is matched against, read once per packet. Octets may be cut off behind the transport header.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject {
    arp: Option<(Ipv4Addr, Ipv4Addr)>,
    packet: Option<Packet>,
    ports: Option<(u16, u16)>,
    outer: Option<(IpAddr, IpAddr)>,
    label: Option<u32>,
}

impl Subject {
    /// How many octets from the start of a frame are enough.
    pub const HEAD: usize = 256;

    /// An Ethernet frame, with a VLAN tag or without.
    pub fn ethernet(frame: &[u8]) -> Subject {
        let ethertype = |at: usize| frame.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let tagged = matches!(ethertype(12), Some(0x8100 | 0x88a8 | 0x9100));
        let at = if tagged { 16 } else { 12 };
        let inside = frame.get(at + 2..).unwrap_or_default();
        match ethertype(at) {
            Some(0x0806) => Subject { arp: read_arp(inside), ..Subject::default() },
            Some(0x0800 | 0x86dd) => Subject::default().with_packet(inside),
            _ => Subject::default(),
        }
    }

    /// A tunnel's packet from its label on, between these two provider edges.
    pub fn tunnel(src: IpAddr, dst: IpAddr, octets: &[u8]) -> Subject {
        let label = octets.first_chunk().map(|&[a, b, c]| Label::from_nlri([a, b, c]).value());
        let subject = Subject { outer: Some((src, dst)), label, ..Subject::default() };
        // Behind a stack of labels that we never send is what its bottom says.
        let bottom = octets.chunks_exact(4).position(|entry| entry[2] & 1 == 1);
        match bottom.and_then(|bottom| octets.get((bottom + 1) * 4..)) {
            Some(inside) => subject.with_packet(inside),
            None => subject,
        }
    }

    fn with_packet(self, octets: &[u8]) -> Subject {
        let packet = Packet::read(octets).ok();
        Subject { ports: packet.and_then(|packet| packet.ports(octets)), packet, ..self }
    }

    fn addresses(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let arp = self.arp.map(|(src, dst)| (src.into(), dst.into()));
        let packet = self.packet.map(|packet| (packet.src, packet.dst));
        arp.into_iter().chain(packet).chain(self.outer)
    }
}

/// Sender's and target's protocol addresses.
fn read_arp(arp: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let address = |at: usize| arp.get(at..at + 4)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    Some((address(14)?, address(24)?))
}

/// An expression that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Expression);

impl Filter {
    /// Whether the packet is wanted.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.0.matches(subject)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        parse::parse(text).map(Filter)
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Test(Test),
}

/// Which end an address or port is to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Either,
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Host(End, IpAddr),
    Net(End, Prefix),
    Port(End, u16),
    Protocol(u8),
    Arp,
    Ip,
    Ip6,
    Label(u32),
}

impl Expression {
    fn is_joined(&self) -> bool {
        matches!(self, Expression::Any(_) | Expression::All(_))
    }

    fn matches(&self, subject: &Subject) -> bool {
        match self {
            Expression::Any(terms) => terms.iter().any(|term| term.matches(subject)),
            Expression::All(factors) => factors.iter().all(|factor| factor.matches(subject)),
            Expression::Not(factor) => !factor.matches(subject),
            Expression::Test(test) => test.matches(subject),
        }
    }
}

impl End {
    fn of<T>(self, (src, dst): (T, T), is: impl Fn(T) -> bool) -> bool {
        match self {
            End::Either => is(src) || is(dst),
            End::Source => is(src),
            End::Destination => is(dst),
        }
    }
}

impl Test {
    fn matches(self, subject: &Subject) -> bool {
        match self {
            Test::Host(end, host) => subject.addresses().any(|ends| end.of(ends, |addr| addr == host)),
            Test::Net(end, net) => subject.addresses().any(|ends| end.of(ends, |addr| net.contains(addr))),
            Test::Port(end, port) => subject.ports.is_some_and(|ends| end.of(ends, |number| number == port)),
            Test::Protocol(number) => subject.packet.is_some_and(|packet| {
                // ICMP is IPv4's, ICMPv6 IPv6's, whatever a header says.
                let family = match number {
                    ICMP => packet.is_v4(),
                    ICMPV6 => !packet.is_v4(),
                    _ => true,
                };
                family && packet.protocol == number
            }),
            Test::Arp => subject.arp.is_some(),
            Test::Ip => subject.packet.is_some_and(|packet| packet.is_v4()),
            Test::Ip6 => subject.packet.is_some_and(|packet| !packet.is_v4()),
            Test::Label(label) => subject.label == Some(label),
        }
    }
}

impl Display for Expression {
    /// With as few parentheses as tell the same: what was read may be printed and read again.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Any(terms) => joined(f, terms, " or ", |term| matches!(term, Expression::Any(_))),
            Expression::All(factors) => joined(f, factors, " and ", Expression::is_joined),
            Expression::Not(factor) if factor.is_joined() => write!(f, "not ({factor})"),
            Expression::Not(factor) => write!(f, "not {factor}"),
            Expression::Test(test) => test.fmt(f),
        }
    }
}

fn joined(
    f: &mut Formatter<'_>,
    parts: &[Expression],
    by: &str,
    needs_parentheses: fn(&Expression) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { by })?;
        if needs_parentheses(part) {
            write!(f, "({part})")?;
        } else {
            part.fmt(f)?;
        }
    }
    Ok(())
}

impl Display for End {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Either => "",
            End::Source => "src ",
            End::Destination => "dst ",
        })
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Test::Host(end, host) => write!(f, "{end}host {host}"),
            Test::Net(end, net) => write!(f, "{end}net {net}"),
            Test::Port(end, port) => write!(f, "{end}port {port}"),
            Test::Protocol(TCP) => f.write_str("tcp"),
            Test::Protocol(UDP) => f.write_str("udp"),
            Test::Protocol(ICMP) => f.write_str("icmp"),
            Test::Protocol(_) => f.write_str("icmp6"),
            Test::Arp => f.write_str("arp"),
            Test::Ip => f.write_str("ip"),
            Test::Ip6 => f.write_str("ip6"),
            Test::Label(label) => write!(f, "label {label}"),
        }
    }
}
