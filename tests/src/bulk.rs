//! A TCP transfer whose every octet is known to both ends, so that one lost, doubled or changed on the way shows.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::echo::connect_tcp;
use crate::netns::Namespace;

const CHUNK: usize = 256 * 1024;

/// What arrived at the far end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrived {
    /// How many octets.
    pub octets: u64,
    /// The digest of all of them, in order.
    pub digest: u64,
    /// How long it took.
    pub time: Duration,
}

/// Sends this many octets over one TCP connection between two namespaces and answers what arrived there.
///
/// # Errors
/// When the ends do not meet or the connection breaks.
pub fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr, octets: u64) -> io::Result<Arrived> {
    let (sender, receiver) = connection(from, to, address)?;
    carry(sender, receiver, octets)
}

/// The same the other way: `to`, which `from` connects to, sends.
///
/// # Errors
/// When the ends do not meet or the connection breaks.
pub fn fetch(from: &Namespace, to: &Namespace, address: SocketAddr, octets: u64) -> io::Result<Arrived> {
    let (receiver, sender) = connection(from, to, address)?;
    carry(sender, receiver, octets)
}

/// The near and the far end of a connection.
fn connection(from: &Namespace, to: &Namespace, address: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let listener = to.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())))?;
    let near = connect_tcp(from, address)?;
    let (far, _) = listener.accept()?;
    Ok((near, far))
}

fn carry(mut sender: TcpStream, mut receiver: TcpStream, octets: u64) -> io::Result<Arrived> {
    receiver.set_read_timeout(Some(Duration::from_secs(20)))?;
    sender.set_write_timeout(Some(Duration::from_secs(20)))?;
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut stream = Stream::default();
        let mut chunk = vec![0; CHUNK];
        let mut left = octets;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            stream.fill(&mut chunk[..length]);
            sender.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        Ok(())
    });
    let start = Instant::now();
    let mut digest = Digest::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match receiver.read(&mut chunk)? {
            0 => break,
            length => digest.add(&chunk[..length]),
        }
    }
    let time = start.elapsed();
    writer.join().map_err(|_| io::Error::other("the sender's thread died"))??;
    Ok(Arrived { octets: digest.octets, digest: digest.value, time })
}

/// What a whole transfer of this many octets must arrive as.
pub fn expected(octets: u64) -> (u64, u64) {
    let (mut stream, mut digest) = (Stream::default(), Digest::default());
    let mut chunk = vec![0; CHUNK];
    let mut left = octets;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.fill(&mut chunk[..length]);
        digest.add(&chunk[..length]);
        left -= length as u64;
    }
    (digest.octets, digest.value)
}

/// A pseudo-random sequence of octets (xorshift64*), the same for everyone.
struct Stream {
    state: u64,
}

impl Default for Stream {
    fn default() -> Stream {
        Stream { state: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Stream {
    /// The length of all but the last call must be a multiple of eight.
    fn fill(&mut self, chunk: &mut [u8]) {
        for eight in chunk.chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let octets = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            let length = eight.len();
            eight.copy_from_slice(&octets[..length]);
        }
    }
}

/// A 64-bit digest of a sequence of octets, however it is cut (eight octets a step; not for adversaries).
#[derive(Default)]
struct Digest {
    octets: u64,
    value: u64,
    partial: u64,
}

impl Digest {
    fn add(&mut self, chunk: &[u8]) {
        for &octet in chunk {
            self.partial = self.partial << 8 | u64::from(octet);
            self.octets += 1;
            if self.octets.is_multiple_of(8) {
                self.value = (self.value.rotate_left(5) ^ self.partial).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_does_not_depend_on_the_cut_but_on_every_octet() {
        let mut octets = vec![0; 4096];
        Stream::default().fill(&mut octets);
        let digest = |cuts: usize, octets: &[u8]| {
            let mut digest = Digest::default();
            octets.chunks(cuts).for_each(|chunk| digest.add(chunk));
            (digest.octets, digest.value)
        };
        assert_eq!(digest(1, &octets), expected(4096));
        assert_eq!(digest(1448, &octets), expected(4096));
        octets.swap(100, 101);
        assert_ne!(digest(1, &octets), expected(4096));
    }
}
