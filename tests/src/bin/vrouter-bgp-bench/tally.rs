//! What a receiver holds: reads UPDATEs, keeps the hash of every route, and knows when it has what it should have.
//!
//! Counting routes would not tell a right table from a wrong one; the sum of the hashes of what is held does, in whatever
//! order it came and however often.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::recipe::{attributes_hash, number, route_hash};

/// Routes that a reflector passes on carry these (RFC 4456 §8).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reflected {
    pub(crate) originator: Ipv4Addr,
    pub(crate) cluster: Ipv4Addr,
}

/// A receiver's table.
pub(crate) struct Tally {
    reflected: Reflected,
    buffer: Vec<u8>,
    /// Hash per route; 0: not held.
    routes: Vec<u64>,
    held: u32,
    sum: u64,
    /// UPDATE messages since the last [`Tally::expect`], and their octets.
    pub(crate) messages: u64,
    pub(crate) octets: u64,
    target: u32,
    /// When the first route after [`Tally::expect`] came or went, and when exactly as many were held as expected.
    pub(crate) first: Option<Instant>,
    pub(crate) reached: Option<Instant>,
    /// The last moment that something changed.
    pub(crate) progress: Instant,
    /// What is wrong, first thing first.
    pub(crate) fault: Option<String>,
}

impl Tally {
    pub(crate) fn new(reflected: Reflected) -> Tally {
        Tally {
            reflected,
            buffer: Vec::new(),
            routes: Vec::new(),
            held: 0,
            sum: 0,
            messages: 0,
            octets: 0,
            target: u32::MAX,
            first: None,
            reached: None,
            progress: Instant::now(),
            fault: None,
        }
    }

    /// From now on, waits until this many routes are held. Counts begin at zero.
    pub(crate) fn expect(&mut self, target: u32) {
        let now = Instant::now();
        (self.target, self.messages, self.octets) = (target, 0, 0);
        (self.first, self.progress) = (None, now);
        self.reached = (self.held == target).then_some(now);
    }

    /// Like [`Tally::expect`], for what has begun to come: nothing is counted anew.
    pub(crate) fn target_now(&mut self, target: u32) {
        self.target = target;
        self.reached = (self.held == target).then(Instant::now);
    }

    /// Routes held, and the sum of their hashes.
    pub(crate) fn held(&self) -> (u32, u64) {
        (self.held, self.sum)
    }

    /// Octets from the socket.
    pub(crate) fn take(&mut self, octets: &[u8], now: Instant) {
        self.buffer.extend_from_slice(octets);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = &buffer[..];
        while let Some(length) = rest.get(16..18).map(|length| usize::from(word(length))) {
            if length < 19 {
                self.complain(|| format!("a message of {length} octets"));
                rest = &[];
                break;
            }
            let Some(message) = rest.get(..length) else { break };
            rest = &rest[length..];
            match message[18] {
                2 => self.take_update(&message[19..], length, now),
                3 => self.complain(|| format!("NOTIFICATION {:x?}", &message[19..])),
                _ => {}
            }
        }
        self.buffer = rest.to_vec();
    }

    fn take_update(&mut self, body: &[u8], length: usize, now: Instant) {
        self.messages += 1;
        self.octets += length as u64;
        if self.read_update(body).is_none() {
            self.complain(|| format!("an UPDATE that cannot be read: {body:02x?}"));
        }
        self.progress = now;
        self.first = self.first.or(Some(now));
        if self.reached.is_none() && self.held == self.target {
            self.reached = Some(now);
        }
    }

    fn read_update(&mut self, body: &[u8]) -> Option<()> {
        let withdrawn = usize::from(word(body.get(..2)?));
        let body = body.get(2 + withdrawn..)?;
        let mut block = body.get(2..2 + usize::from(word(body.get(..2)?)))?;
        let (mut local_pref, mut targets) = (0, Vec::with_capacity(4));
        let (mut originator, mut clusters) = (None, Vec::new());
        let (mut reach, mut unreach) = (None, None);
        while let Some((flags, code)) = block.first().copied().zip(block.get(1).copied()) {
            let (length, header) = match flags & 0x10 {
                0 => (usize::from(*block.get(2)?), 3),
                _ => (usize::from(word(block.get(2..4)?)), 4),
            };
            let value = block.get(header..header + length)?;
            block = block.get(header + length..)?;
            match code {
                5 => local_pref = u32::from_be_bytes(value.try_into().ok()?),
                9 => originator = Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)),
                10 => {
                    clusters = value
                        .chunks(4)
                        .filter_map(|id| id.try_into().ok())
                        .map(|id: [u8; 4]| Ipv4Addr::from(id))
                        .collect()
                }
                14 => reach = Some(value),
                15 => unreach = Some(value),
                16 => targets
                    .extend(value.chunks_exact(8).filter(|one| one[0] & !0x40 <= 2 && one[1] == 2).map(long)),
                _ => {}
            }
        }
        if let Some(value) = unreach.filter(|value| value.starts_with(&[0, 1, 128])) {
            self.take_routes(value.get(3..)?, None)?;
        }
        let Some(value) = reach.filter(|value| value.starts_with(&[0, 1, 128, 12])) else { return Some(()) };
        let Reflected { originator: wanted, cluster } = self.reflected;
        if originator != Some(wanted) || clusters != [cluster] {
            self.complain(|| format!("ORIGINATOR_ID {originator:?}, CLUSTER_LIST {clusters:?}"));
        }
        let next_hop = Ipv4Addr::from(<[u8; 4]>::try_from(value.get(12..16)?).ok()?);
        let attributes = attributes_hash(next_hop, local_pref, &mut targets);
        self.take_routes(value.get(17..)?, Some(attributes))
    }

    /// Announced ones have attributes.
    fn take_routes(&mut self, mut field: &[u8], attributes: Option<u64>) -> Option<()> {
        while let [bits, rest @ ..] = field {
            let octets = usize::from(*bits).div_ceil(8);
            let route = rest.get(..octets)?;
            field = &rest[octets..];
            if *bits != 120 {
                self.complain(|| format!("a route of {bits} bits"));
                continue;
            }
            let label = u32::from_be_bytes([0, route[0], route[1], route[2]]) >> 4;
            let prefix = u32::from_be_bytes(route[11..15].try_into().ok()?);
            let rd = route[3..11].try_into().ok()?;
            let hash = attributes.map_or(0, |attributes| route_hash(attributes, rd, prefix, label).max(1));
            match number(prefix).filter(|number| *number < MOST_ROUTES) {
                Some(number) => self.put(number, hash),
                None => self.complain(|| format!("nobody sent {}", Ipv4Addr::from(prefix))),
            }
        }
        Some(())
    }

    fn put(&mut self, number: usize, hash: u64) {
        if number >= self.routes.len() {
            self.routes.resize(number + 1, 0);
        }
        let before = std::mem::replace(&mut self.routes[number], hash);
        self.sum = self.sum.wrapping_sub(before).wrapping_add(hash);
        match (before, hash) {
            (0, 1..) => self.held += 1,
            (1.., 0) => self.held -= 1,
            _ => {}
        }
    }

    fn complain(&mut self, what: impl FnOnce() -> String) {
        self.fault.get_or_insert_with(what);
    }
}

fn word(octets: &[u8]) -> u16 {
    octets.try_into().map(u16::from_be_bytes).unwrap_or_default()
}

fn long(octets: &[u8]) -> u64 {
    octets.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

const MOST_ROUTES: usize = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Feed, Shape};

    fn tally() -> Tally {
        let address = Ipv4Addr::new(10, 99, 0, 1);
        Tally::new(Reflected { originator: address, cluster: address })
    }

    #[test]
    fn what_is_fed_is_what_is_held_however_it_is_cut() {
        for shape in [Shape::Gw, Shape::Packed, Shape::Uniq] {
            let feed = Feed::new(shape, 1_234);
            for cut in [1, 7, 4096, usize::MAX] {
                let mut tally = tally();
                tally.expect(1_234);
                let cut = cut.min(feed.octets.len());
                feed.octets.chunks(cut).for_each(|chunk| tally.take(chunk, Instant::now()));
                assert_eq!(tally.held(), (1_234, feed.hash));
                assert!(tally.reached.is_some());
                assert_eq!(tally.octets, feed.octets.len() as u64);
            }
        }
    }

    #[test]
    fn a_route_that_was_changed_or_not_reflected_is_seen() {
        let mut feed = Feed::new(Shape::Gw, 10);
        let mut tally = tally();
        let at = feed.octets.len() - 13;
        feed.octets[at] ^= 0x10;
        tally.take(&feed.octets, Instant::now());
        assert_eq!(tally.held().0, 10);
        assert_ne!(tally.held().1, feed.hash);
        assert!(tally.fault.is_some_and(|fault| fault.contains("ORIGINATOR_ID")));
    }
}
