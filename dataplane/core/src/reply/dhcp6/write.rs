//! What a client is told.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    ADVERTISE, Answer, CLIENT_ID, CLIENT_PORT, DNS, DOMAINS, IA_ADDRESS, IA_NA, IA_TA, PREFERENCE, Question,
    RAPID_COMMIT, REPLY, SERVER_ID, SERVER_PORT, STATUS, named, server_id,
};
use crate::fib::{Gateway, Lease, Port, Services};
use crate::reply::Ends;
use crate::reply::write::{Envelope, Writer, datagram};
use crate::state::ReplyBuffer;
use vrouter_types::MacAddr;

/// What every link takes (RFC 8200 §5).
const MOST: usize = 1280;

// RFC 8415 §21.13.
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIXES: u16 = 6;

/// Writes the answer, an Ethernet frame for the client.
pub(crate) fn answer(
    reply: &mut ReplyBuffer,
    gateway: &Gateway,
    (port, services, lease): (&Port, &Services, &Lease),
    (client, mac): (Ipv6Addr, MacAddr),
    question: &Question<'_>,
    answer: Answer,
) -> Option<()> {
    let envelope = Envelope {
        mac,
        from_mac: gateway.mac,
        ends: Ends::V6 { src: gateway.v6, dst: client },
        ports: (SERVER_PORT, CLIENT_PORT),
    };
    let reason = if let Answer::Done(reason) = answer { reason } else { None };
    datagram(reply, envelope, MOST, reason, |writer| {
        let kind = if answer == Answer::Advertise { ADVERTISE } else { REPLY };
        let [a, b, c] = question.transaction;
        writer.put(&[kind, a, b, c])?;
        if let Some(client) = question.client {
            writer.option6(CLIENT_ID, |writer| writer.put(client))?;
        }
        writer.option6(SERVER_ID, |writer| writer.put(&server_id(gateway.mac)))?;
        match answer {
            Answer::Advertise | Answer::Lease { .. } => {
                if answer == Answer::Advertise {
                    // Nobody else is there to be waited for.
                    writer.option6(PREFERENCE, |writer| writer.put(&[255]))?;
                }
                if answer == (Answer::Lease { rapid: true }) {
                    writer.option6(RAPID_COMMIT, |_| Some(()))?;
                }
                put_associations(writer, port, lease, question)?;
                put_configuration(writer, gateway, port, services, lease)
            }
            Answer::Confirm(true) => put_status(writer, SUCCESS, "right here"),
            Answer::Confirm(false) => put_status(writer, NOT_ON_LINK, "not this port's"),
            Answer::Done(_) => put_status(writer, SUCCESS, "heard"),
            Answer::Inform => put_configuration(writer, gateway, port, services, lease),
        }
    })
}

fn put_status(writer: &mut Writer<'_>, status: u16, text: &str) -> Option<()> {
    writer.option6(STATUS, |writer| {
        writer.put(&status.to_be_bytes())?;
        writer.put(text.as_bytes())
    })
}

fn put_associations(
    writer: &mut Writer<'_>,
    port: &Port,
    lease: &Lease,
    question: &Question<'_>,
) -> Option<()> {
    let mut given = false;
    for (code, association) in question.associations() {
        let first = code == IA_NA && !given;
        given |= first;
        let fixed = if code == IA_TA { 4 } else { 12 };
        writer.option6(code, |writer| {
            writer.put(association.get(..4)?)?;
            if first {
                return put_addresses(writer, port, lease, association);
            }
            writer.put([0; 8].get(..fixed - 4)?)?;
            match code {
                IA_NA | IA_TA => put_status(writer, NO_ADDRESSES, "all are given"),
                _ => put_status(writer, NO_PREFIXES, "prefixes are not delegated"),
            }
        })?;
    }
    Some(())
}

fn put_addresses(writer: &mut Writer<'_>, port: &Port, lease: &Lease, association: &[u8]) -> Option<()> {
    let seconds = lease.seconds;
    let (renew, rebind) = match seconds {
        u32::MAX => (u32::MAX, u32::MAX),
        // RFC 8415 §21.4: a half and four fifths of what is preferred.
        _ => (seconds / 2, seconds - seconds / 5),
    };
    writer.put(&renew.to_be_bytes())?;
    writer.put(&rebind.to_be_bytes())?;
    for address in &port.addresses {
        if let IpAddr::V6(address) = address {
            put_address(writer, *address, seconds)?;
        }
    }
    // RFC 8415 §18.3.4: what it has wrongly is to be forgotten at once.
    for wrong in named(association).filter(|addr| !port.addresses.contains(&(*addr).into())) {
        put_address(writer, wrong, 0)?;
    }
    Some(())
}

fn put_address(writer: &mut Writer<'_>, address: Ipv6Addr, seconds: u32) -> Option<()> {
    writer.option6(IA_ADDRESS, |writer| {
        writer.put(&address.octets())?;
        writer.put(&seconds.to_be_bytes())?;
        writer.put(&seconds.to_be_bytes())
    })
}

/// What does not fit is left out.
fn put_configuration(
    writer: &mut Writer<'_>,
    gateway: &Gateway,
    port: &Port,
    services: &Services,
    lease: &Lease,
) -> Option<()> {
    let named = lease.dns.iter().filter(|addr| addr.is_ipv6());
    if lease.dns.is_empty() && services.dns {
        let own = dns(gateway, port, services);
        writer.option6(DNS, |writer| writer.put(&own.octets()));
    } else if named.clone().next().is_some() {
        writer.option6(DNS, |writer| {
            named.clone().try_for_each(|addr| match addr {
                IpAddr::V6(addr) => writer.put(&addr.octets()),
                IpAddr::V4(_) => Some(()),
            })
        });
    }
    if let Some(domain) = &lease.domain {
        writer.option6(DOMAINS, |writer| writer.name(domain));
    }
    Some(())
}

/// Where we answer for names: at the subnet's gateway address rather than the link-local one, which many clients write
/// to a file that cannot say on which link.
fn dns(gateway: &Gateway, port: &Port, services: &Services) -> Ipv6Addr {
    let subnets = port.addresses.iter().filter_map(|addr| services.subnet(*addr));
    let gateways = subnets.filter_map(|subnet| match subnet.gateway {
        Some(IpAddr::V6(addr)) => Some(addr),
        _ => None,
    });
    gateways.chain([gateway.v6]).next().unwrap_or(gateway.v6)
}
