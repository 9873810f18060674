//! ICMP echo and what comes back, in one call: what `ping` and `traceroute` ask, for both families, without either.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;
use crate::packets::checksum;

/// A number for each probe, so that one's answers are not taken for another's.
static IDENT: AtomicU16 = AtomicU16::new(1);

/// What a probe brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The destination answered.
    Reply,
    /// Somebody on the way says that the hop limit was used up.
    TimeExceeded {
        /// Who says so.
        from: IpAddr,
    },
    /// Somebody on the way says that the packet is too big.
    TooBig {
        /// Who says so.
        from: IpAddr,
        /// The largest that fits.
        mtu: u32,
    },
    /// Somebody says that there is no way.
    Unreachable {
        /// Who says so.
        from: IpAddr,
        /// Why (RFC 792, RFC 4443 §3.1).
        code: u8,
    },
    /// Nothing came.
    Silence,
}

/// How to probe.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The hop limit.
    pub ttl: u8,
    /// The length of the whole IP packet. The "don't fragment" bit is set.
    pub length: usize,
    /// How many to send, one after another, until one is answered.
    pub attempts: u8,
    /// How long to wait for each answer.
    pub patience: Duration,
}

impl Default for Probe {
    fn default() -> Probe {
        Probe { ttl: 64, length: 84, attempts: 5, patience: Duration::from_millis(600) }
    }
}

impl Probe {
    /// A probe of which silence is expected: few attempts.
    pub fn hopeless() -> Probe {
        Probe { attempts: 3, patience: Duration::from_millis(300), ..Probe::default() }
    }

    /// Sends it from a namespace.
    ///
    /// # Panics
    /// When the kernel of the namespace itself refuses (no route, larger than the interface's MTU).
    pub fn send(self, from: &Namespace, to: IpAddr) -> Answer {
        let outcome = from.run(|| self.attempt_all(to));
        outcome.unwrap_or_else(|error| panic!("probe {to} from {}: {error}", from.name()))
    }

    fn attempt_all(self, to: IpAddr) -> io::Result<Answer> {
        let socket = match to {
            IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?,
            IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?,
        };
        match to {
            IpAddr::V4(_) => socket.set_ttl_v4(u32::from(self.ttl))?,
            IpAddr::V6(_) => socket.set_unicast_hops_v6(u32::from(self.ttl))?,
        }
        let ident = IDENT.fetch_add(1, Ordering::Relaxed);
        for sequence in 0..u16::from(self.attempts) {
            let sent = socket.send_to(&self.request(to, ident, sequence), &SocketAddr::new(to, 0).into());
            match sent {
                Ok(_) => {}
                // An earlier answer of the network, which the kernel remembers: the next one brings it again.
                Err(error) if error.raw_os_error() == Some(libc::EHOSTUNREACH) => continue,
                Err(error) => return Err(error),
            }
            let answer = self.listen(&socket, to, ident)?;
            if answer != Answer::Silence {
                return Ok(answer);
            }
        }
        Ok(Answer::Silence)
    }

    fn request(self, to: IpAddr, ident: u16, sequence: u16) -> Vec<u8> {
        let (kind, header) = if to.is_ipv4() { (8, 20) } else { (128, 40) };
        let mut packet = vec![0x5a; self.length.saturating_sub(header).max(8)];
        packet[..4].copy_from_slice(&[kind, 0, 0, 0]);
        packet[4..6].copy_from_slice(&ident.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        if to.is_ipv4() {
            // The kernel fills in the checksum of ICMPv6 only.
            let sum = checksum(&packet, 0);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    fn listen(self, socket: &Socket, to: IpAddr, ident: u16) -> io::Result<Answer> {
        let deadline = Instant::now() + self.patience;
        let mut buffer = vec![0; 65535];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Answer::Silence);
            }
            socket.set_read_timeout(Some(left))?;
            let (length, from) = match io_recv(socket, &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Answer::Silence),
                Err(error) => return Err(error),
            };
            if let Some(answer) = read_answer(&buffer[..length], from, to, ident) {
                return Ok(answer);
            }
        }
    }
}

fn io_recv(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    use std::io::Read;
    // `peek_sender` names the sender; the read then takes the packet itself.
    let from = socket.peek_sender()?.as_socket().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |from| from.ip());
    let mut reader = socket;
    Ok((reader.read(buffer)?, from))
}

/// Reads an ICMP message: an answer to our probe, or none of our business.
fn read_answer(packet: &[u8], from: IpAddr, to: IpAddr, ident: u16) -> Option<Answer> {
    let v4 = to.is_ipv4();
    let icmp = if v4 { packet.get(usize::from(packet.first()? & 15) * 4..)? } else { packet };
    let (&kind, &code, ours) = (icmp.first()?, icmp.get(1)?, ident.to_be_bytes());
    let is_reply = if v4 { kind == 0 } else { kind == 129 };
    if is_reply {
        return (icmp.get(4..6)? == ours && from == to).then_some(Answer::Reply);
    }
    // An error quotes our packet: its destination and our ident must be in it.
    let quoted = icmp.get(8..)?;
    let (destination, header) = if v4 {
        let octets: [u8; 4] = quoted.get(16..20)?.try_into().ok()?;
        (IpAddr::from(Ipv4Addr::from(octets)), usize::from(quoted.first()? & 15) * 4)
    } else {
        let octets: [u8; 16] = quoted.get(24..40)?.try_into().ok()?;
        (IpAddr::from(Ipv6Addr::from(octets)), 40)
    };
    if destination != to || quoted.get(header + 4..header + 6)? != ours {
        return None;
    }
    let word = u32::from_be_bytes(icmp.get(4..8)?.try_into().ok()?);
    match (v4, kind, code) {
        (true, 11, _) | (false, 3, _) => Some(Answer::TimeExceeded { from }),
        (true, 3, 4) => Some(Answer::TooBig { from, mtu: word & 0xffff }),
        (false, 2, _) => Some(Answer::TooBig { from, mtu: word }),
        (true, 3, code) | (false, 1, code) => Some(Answer::Unreachable { from, code }),
        _ => None,
    }
}
