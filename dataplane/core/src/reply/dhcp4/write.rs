//! What a client is told.
//!
//! The mask is the subnet's: every ordinary client knows what to do with it, and whatever it then asks ARP for is at
//! the gateway's MAC. An address without a subnet is a /32, with routes that say how to reach the router first (RFC
//! 3442, as large clouds do it). A client that knows classless routes takes no notice of the router option, so these
//! name the default route too. Windows before 10 asks for the same routes by another number (249).
//!
//! Options are written in the order of their weight, each whole or not at all: what a client's buffer has no room for
//! is the end of the list. The MTU comes unasked, since clients that do not ask use it all the same, and a workload
//! with a wrong one has black holes.

use std::net::{IpAddr, Ipv4Addr};

use super::options::*;
use super::{
    ACK, Answer, BOOT_REPLY, BROADCAST, CLIENT_PORT, COOKIE, ETHERNET, FIXED, NAK, OFFER, Question,
    SERVER_PORT, router,
};
use crate::fib::{Gateway, Lease, Port, Services, Subnet};
use crate::reply::Ends;
use crate::reply::write::{Envelope, Writer, datagram, mask};
use crate::state::ReplyBuffer;
use crate::verdict::DropReason;
use vrouter_types::{MacAddr, Prefix};

/// The shortest message that old clients take (RFC 1542 §2.1).
const SHORTEST: usize = 300;
/// What every client takes (RFC 2131 §2).
const DEFAULT_SIZE: u16 = 576;
/// Routes or search lists longer than this are left out.
const LONGEST: usize = 1024;

/// Writes the answer, an Ethernet frame for the port.
pub(crate) fn answer(
    reply: &mut ReplyBuffer,
    gateway: &Gateway,
    (port, services, lease): (&Port, &Services, &Lease),
    question: &Question<'_>,
    answer: Answer,
) -> Option<()> {
    let address = match answer {
        Answer::Offer(addr) | Answer::Ack(addr) | Answer::Inform(addr) => Some(addr),
        Answer::Nak => None,
    };
    let subnet = address.and_then(|addr| services.subnet(addr.into()));
    let router = router(gateway, port, subnet);
    let told = Told { gateway, port, services, lease, subnet, router, address };
    // RFC 2131 §4.1: to whoever has an address there; to everybody where nobody may have one.
    let held = question.held();
    let to = match address {
        None => Ipv4Addr::BROADCAST,
        Some(_) if !held.is_unspecified() => held,
        Some(_) if question.wants_broadcast() => Ipv4Addr::BROADCAST,
        Some(address) => address,
    };
    let envelope = Envelope {
        mac: if to.is_broadcast() { MacAddr([0xff; 6]) } else { port.mac },
        from_mac: gateway.mac,
        ends: Ends::V4 { src: told.server(), dst: to },
        ports: (SERVER_PORT, CLIENT_PORT),
    };
    let reason = (answer == Answer::Nak).then_some(DropReason::DhcpRefused);
    let most =
        question.found.max_size.unwrap_or(DEFAULT_SIZE).max(DEFAULT_SIZE).min(port.mtu.max(DEFAULT_SIZE));
    datagram(reply, envelope, most.into(), reason, |writer| {
        put_fixed(writer, &told, question, answer)?;
        put_options(writer, &told, question, answer)?;
        let missing = SHORTEST.saturating_sub(writer.len());
        writer.put([PAD; SHORTEST].get(..missing)?)
    })
}

/// All that an answer is made of.
struct Told<'f> {
    gateway: &'f Gateway,
    port: &'f Port,
    services: &'f Services,
    lease: &'f Lease,
    subnet: Option<&'f Subnet>,
    router: Option<Ipv4Addr>,
    address: Option<Ipv4Addr>,
}

impl Told<'_> {
    /// Whom a client renews with: whom it can reach by its routes, and where it finds us after it moved.
    fn server(&self) -> Ipv4Addr {
        self.router.unwrap_or(self.gateway.v4)
    }

    fn mask(&self) -> [u8; 4] {
        self.subnet.map_or(u32::MAX, |subnet| mask(subnet.prefix)).to_be_bytes()
    }

    /// Names are asked here where nobody else is named.
    fn dns(&self) -> impl Iterator<Item = Ipv4Addr> {
        let own = self.lease.dns.is_empty() && self.services.dns;
        let named = self.lease.dns.iter().filter_map(|addr| match addr {
            IpAddr::V4(addr) => Some(*addr),
            IpAddr::V6(_) => None,
        });
        own.then(|| self.server()).into_iter().chain(named)
    }

    /// The routes of RFC 3442, or none where mask and router say it all.
    fn put_routes(&self, writer: &mut Writer<'_>) -> Option<()> {
        let on_link = Ipv4Addr::UNSPECIFIED;
        let routes = self.subnet.map_or(&[][..], |subnet| &subnet.routes);
        let here = Prefix::host(self.server().into());
        // Without a router we are on the link ourselves.
        let via = self.router.unwrap_or(on_link);
        // A router that the mask does not cover must be reached before it can lead anywhere.
        let is_covered = self
            .router
            .is_some_and(|router| self.subnet.is_some_and(|subnet| subnet.prefix.contains(router.into())));
        if !is_covered {
            put_route(writer, here, on_link)?;
        }
        for (prefix, next_hop) in routes {
            if let IpAddr::V4(next_hop) = next_hop {
                put_route(writer, *prefix, *next_hop)?;
            }
        }
        if self.services.metadata {
            put_route(writer, Prefix::host(Services::METADATA_V4.into()), via)?;
        }
        let default = Prefix::new(IpAddr::V4(on_link), 0)?;
        match self.router {
            Some(router) if !routes.iter().any(|(prefix, _)| *prefix == default) => {
                put_route(writer, default, router)
            }
            _ => Some(()),
        }
    }
}

fn put_route(writer: &mut Writer<'_>, prefix: Prefix, router: Ipv4Addr) -> Option<()> {
    let IpAddr::V4(addr) = prefix.addr() else { return Some(()) };
    writer.put(&[prefix.len()])?;
    writer.put(addr.octets().get(..usize::from(prefix.len().div_ceil(8)))?)?;
    writer.put(&router.octets())
}

fn put_fixed(
    writer: &mut Writer<'_>,
    told: &Told<'_>,
    question: &Question<'_>,
    answer: Answer,
) -> Option<()> {
    let asked = question.fixed;
    let mut fixed = [0; FIXED];
    fixed[0] = BOOT_REPLY;
    fixed[1..3].copy_from_slice(&ETHERNET);
    fixed[4..8].copy_from_slice(&asked[4..8]);
    fixed[10] = asked[10] & BROADCAST;
    match answer {
        Answer::Offer(addr) => fixed[16..20].copy_from_slice(&addr.octets()),
        Answer::Ack(addr) => {
            fixed[12..16].copy_from_slice(&asked[12..16]);
            fixed[16..20].copy_from_slice(&addr.octets());
        }
        Answer::Inform(addr) => fixed[12..16].copy_from_slice(&addr.octets()),
        Answer::Nak => fixed[10] |= BROADCAST,
    }
    fixed[28..44].copy_from_slice(&asked[28..44]);
    fixed[236..].copy_from_slice(&COOKIE);
    if told.address.is_some() {
        fixed[20..24].copy_from_slice(&told.server().octets());
    }
    writer.put(&fixed)
}

fn put_options(
    writer: &mut Writer<'_>,
    told: &Told<'_>,
    question: &Question<'_>,
    answer: Answer,
) -> Option<()> {
    let kind = match answer {
        Answer::Offer(_) => OFFER,
        Answer::Ack(_) | Answer::Inform(_) => ACK,
        Answer::Nak => NAK,
    };
    // One octet stays for the end.
    let mut room = Limited { writer };
    room.option(KIND, &[kind])?;
    room.option(SERVER, &told.server().octets())?;
    // RFC 6842 §3: it comes back even where nobody looks at it.
    if let Some(client) = question.found.client {
        room.option(CLIENT, client);
    }
    if answer == Answer::Nak {
        room.option(TEXT, b"the address is not this port's");
        return room.writer.put(&[END]);
    }
    if !matches!(answer, Answer::Inform(_)) {
        put_times(&mut room, told.lease.seconds)?;
    }
    put_configuration(&mut room, told, question);
    room.writer.put(&[END])
}

fn put_times(room: &mut Limited<'_, '_>, seconds: u32) -> Option<()> {
    room.option(LEASE, &seconds.to_be_bytes())?;
    if seconds < u32::MAX {
        room.option(RENEW, &(seconds / 2).to_be_bytes())?;
        room.option(REBIND, &(seconds - seconds / 8).to_be_bytes())?;
    }
    Some(())
}

/// What does not fit is left out, and what comes after it may still fit.
fn put_configuration(room: &mut Limited<'_, '_>, told: &Told<'_>, question: &Question<'_>) {
    room.option(MASK, &told.mask());
    if let Some(router) = told.router {
        room.option(ROUTER, &router.octets());
    }
    let numbers: &[u8] =
        if question.found.wants(ROUTES_MICROSOFT) { &[ROUTES, ROUTES_MICROSOFT] } else { &[ROUTES] };
    for number in numbers {
        room.long_option(*number, |writer| told.put_routes(writer));
    }
    room.option(MTU, &told.port.mtu.to_be_bytes());
    room.long_option(DNS, |writer| told.dns().try_for_each(|addr| writer.put(&addr.octets())));
    if let Some(name) = &told.lease.host_name {
        room.option(HOST_NAME, name.as_bytes());
    }
    if let Some(domain) = &told.lease.domain {
        room.option(DOMAIN, domain.as_bytes());
        if question.found.wants(SEARCH) {
            room.long_option(SEARCH, |writer| writer.name(domain));
        }
    }
    if let (Some(subnet), Some(address)) = (told.subnet, told.address)
        && subnet.prefix.len() < 31
    {
        let broadcast = u32::from(address) | !mask(subnet.prefix);
        room.option(BROADCAST_ADDRESS, &broadcast.to_be_bytes());
    }
}

/// A writer of options that leaves room for the end.
struct Limited<'w, 'b> {
    writer: &'w mut Writer<'b>,
}

impl Limited<'_, '_> {
    /// An empty option is none.
    fn option(&mut self, code: u8, value: &[u8]) -> Option<()> {
        if value.is_empty() {
            return Some(());
        }
        self.writer.whole(|writer| {
            // RFC 3396: an option longer than it can say goes on in another of the same code.
            for part in value.chunks(255) {
                writer.put(&[code, u8::try_from(part.len()).ok()?])?;
                writer.put(part)?;
            }
            writer.has_room(1)
        })
    }

    fn long_option(&mut self, code: u8, put: impl FnOnce(&mut Writer<'_>) -> Option<()>) {
        let mut value = [0; LONGEST];
        let mut scratch = Writer::new(&mut value);
        if put(&mut scratch).is_some() {
            self.option(code, scratch.written());
        }
    }
}
