//! What workloads show of their addresses, on its way from the workers to control: a ring per worker, and one bell.
//!
//! ```text
//!  word 0: port, family      words 1, 2: address      word 3: MAC address
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use dataplane_core::{Announcements, Learned};
use vrouter_types::{MacAddr, PortId};

use crate::ring::Ring;

const WORDS: usize = 4;
/// Announcements that may wait for control, per worker.
const WAITING: usize = 256;
const V6: u64 = 1 << 32;

#[derive(Debug)]
pub(crate) struct Learning {
    rings: Vec<Ring>,
    /// One datagram or more: there may be something to read.
    bell: UnixDatagram,
    ringer: UnixDatagram,
    lost: AtomicU64,
    /// Who reads: one at a time.
    reading: Mutex<()>,
}

impl Learning {
    pub(crate) fn new(workers: usize) -> io::Result<Arc<Learning>> {
        let rings = (0..workers).map(|_| Ring::new(WAITING * WORDS)).collect();
        let (lost, reading) = (AtomicU64::new(0), Mutex::new(()));
        let (bell, ringer) = UnixDatagram::pair()?;
        bell.set_nonblocking(true)?;
        ringer.set_nonblocking(true)?;
        Ok(Arc::new(Learning { rings, bell, ringer, lost, reading }))
    }

    /// Takes over what a worker has heard in a batch. Called only where there is something.
    pub(crate) fn take(&self, worker: usize, heard: &mut Announcements, lost_before: &mut u64) {
        self.lost.fetch_add(heard.lost().saturating_sub(*lost_before), Relaxed);
        *lost_before = heard.lost();
        let Some(ring) = self.rings.get(worker) else { return };
        let mut writer = ring.writer();
        for learned in heard.drain() {
            if !writer.fits(WORDS) {
                self.lost.fetch_add(1, Relaxed);
                continue;
            }
            encode(learned).into_iter().for_each(|word| writer.put(word));
        }
        writer.commit();
        // A queue that is full rings as well.
        let _ = self.ringer.send(&[1]);
    }

    /// Everything that was heard since.
    pub(crate) fn read(&self) -> Vec<Learned> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for ring in &self.rings {
            let mut reader = ring.reader();
            while let (Some(a), Some(b), Some(c), Some(d)) =
                (reader.word(), reader.word(), reader.word(), reader.word())
            {
                all.push(decode([a, b, c, d]));
            }
            reader.done();
        }
        all
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Receives a datagram when there is something to read.
    pub(crate) fn bell(&self) -> io::Result<UnixDatagram> {
        self.bell.try_clone()
    }
}

fn encode(Learned { port, address, mac }: Learned) -> [u64; WORDS] {
    let (family, bits) = match address {
        IpAddr::V4(address) => (0, u128::from(address.to_bits())),
        IpAddr::V6(address) => (V6, address.to_bits()),
    };
    let [a, b, c, d, e, f] = mac.0;
    let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let (high, low) = (bits >> 64, bits & u128::from(u64::MAX));
    let word = |half: u128| u64::try_from(half).unwrap_or(0);
    [family | u64::from(port.0), word(high), word(low), mac]
}

fn decode([head, high, low, mac]: [u64; WORDS]) -> Learned {
    let port = PortId(u32::try_from(head & u64::from(u32::MAX)).unwrap_or(0));
    let address = if head & V6 == 0 {
        Ipv4Addr::from_bits(u32::try_from(low & u64::from(u32::MAX)).unwrap_or(0)).into()
    } else {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    };
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    Learned { port, address, mac: MacAddr([a, b, c, d, e, f]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_comes_out_as_it_was() {
        for address in ["10.1.2.3", "255.255.255.255", "fd00:1:2:3:4:5:6:7", "::"] {
            let mac = MacAddr([0x52, 0x54, 0, 0xff, 1, 2]);
            let learned = Learned { port: PortId(u32::MAX), address: address.parse().unwrap(), mac };
            assert_eq!(decode(encode(learned)), learned);
        }
    }
}
