//! The workers' side: what they do with a packet while a capture runs.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane_core::DropReason;
use dataplane_core::filter::Subject;
use dataplane_core::vnet::VNET_HEADER_LEN;
use vrouter_types::Encap;

use super::outer::{Ends, Header};
use super::{CapturePoint, Direction, MAX_CAPTURES, OUT, REASON, Tap, TapRing, WORDS};
use crate::adjacency;
use crate::cmsg::{Message, To};
use crate::egress::Target;
use crate::gre;
use crate::snapshot::Snapshot;
use crate::underlay::MPLS_OVER_UDP_PORT;

/// Packets that were copied before it was known what becomes of them: one per capture at most. Nothing else may be
/// recorded by the worker before [`Begun::end`].
#[derive(Debug, Default)]
pub(crate) struct Begun([Option<Place>; MAX_CAPTURES]);

#[derive(Debug, Clone, Copy)]
struct Place {
    head: u64,
    start: u64,
    end: u64,
}

impl Begun {
    /// Lets the captures see the packet, and why it was dropped, if it was.
    pub(crate) fn end(self, snapshot: &Snapshot, worker: usize, dropped: Option<DropReason>) {
        for (place, tap) in self.0.into_iter().zip(snapshot.taps.iter()) {
            let Some((Place { head, start, end }, TapRing { ring, .. })) = place.zip(tap.rings.get(worker))
            else {
                continue;
            };
            let reason = dropped.map_or(0, |reason| reason.index() as u64 + 1);
            ring.amend(start, head | reason << REASON);
            ring.commit(end);
        }
    }
}

/// A frame that a workload has sent, as it came.
pub(crate) fn incoming_frame(snapshot: &Snapshot, worker: usize, point: CapturePoint, frame: &[u8]) -> Begun {
    let mut begun = Begun::default();
    let mut subject = None;
    for (place, tap) in begun.0.iter_mut().zip(snapshot.taps.iter()) {
        if tap.looks_at(point, Direction::In) {
            let subject = subject.get_or_insert_with(|| Subject::ethernet(frame));
            *place = tap.write(worker, Direction::In, subject, std::iter::once(frame));
        }
    }
    begun
}

/// A packet from a tunnel, from its label on.
pub(crate) fn incoming_tunnel(snapshot: &Snapshot, worker: usize, ends: &Ends, octets: &[u8]) -> Begun {
    let mut begun = Begun::default();
    let mut made = None;
    for (place, tap) in begun.0.iter_mut().zip(snapshot.taps.iter()) {
        if !tap.looks_at(CapturePoint::Underlay, Direction::In) {
            continue;
        }
        let (subject, header) = made.get_or_insert_with(|| {
            let header = Header::new(ends, std::iter::once(octets));
            (Subject::tunnel(ends.src, ends.dst, octets), header)
        });
        if let Some(header) = header {
            let pieces = [header.octets(), octets];
            *place = tap.write(worker, Direction::In, subject, pieces.into_iter());
        }
    }
    begun
}

/// A queue of messages on their way to a socket.
pub(crate) fn outgoing(
    snapshot: &Snapshot,
    worker: usize,
    memory: &[u8],
    (target, messages, pieces): (Target, &[Message], &[Range<usize>]),
) {
    let point = match target {
        Target::Port(port) => CapturePoint::Port(port),
        Target::Host => return,
        _ => CapturePoint::Underlay,
    };
    for tap in snapshot.taps.iter() {
        if !tap.looks_at(point, Direction::Out) {
            continue;
        }
        for message in messages {
            let pieces = pieces.get(message.pieces.clone()).unwrap_or_default();
            let pieces = pieces.iter().map(|piece| memory.get(piece.clone()).unwrap_or_default());
            match point {
                CapturePoint::Port(_) => tap.frame_out(worker, Cut::of(pieces, VNET_HEADER_LEN..usize::MAX)),
                CapturePoint::Underlay => {
                    if let Some((ends, skip)) = ends_out(snapshot, target, message) {
                        tap.tunnel_out(worker, &ends, skip, usize::from(message.segment), pieces);
                    }
                }
            }
        }
    }
}

impl Tap {
    fn frame_out<'p>(&self, worker: usize, pieces: impl Iterator<Item = &'p [u8]> + Clone) {
        let mut head = [0; Subject::HEAD];
        let subject = Subject::ethernet(gather(&mut head, pieces.clone()));
        self.commit(worker, self.write(worker, Direction::Out, &subject, pieces));
    }

    /// The kernel cuts a message into datagrams of this size; so do we. `skip` octets stand in front of each label.
    fn tunnel_out<'p>(
        &self,
        worker: usize,
        ends: &Ends,
        skip: usize,
        segment: usize,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let total: usize = pieces.clone().map(<[u8]>::len).sum();
        let segment = if segment == 0 { total } else { segment };
        for at in (0..total).step_by(segment.max(1)) {
            let datagram = Cut::of(pieces.clone(), at + skip..(at + segment).min(total));
            let mut head = [0; Subject::HEAD];
            let subject = Subject::tunnel(ends.src, ends.dst, gather(&mut head, datagram.clone()));
            let Some(header) = Header::new(ends, datagram.clone()) else { continue };
            let all = std::iter::once(header.octets()).chain(shorter(datagram));
            self.commit(worker, self.write(worker, Direction::Out, &subject, all));
        }
    }

    fn commit(&self, worker: usize, place: Option<Place>) {
        if let Some((Place { head, start, end }, TapRing { ring, .. })) = place.zip(self.rings.get(worker)) {
            ring.amend(start, head);
            ring.commit(end);
        }
    }

    /// Copies a packet into the ring if it is wanted, and says where; nobody sees it yet.
    fn write<'p>(
        &self,
        worker: usize,
        direction: Direction,
        subject: &Subject,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> Option<Place> {
        if self.config.filter.as_ref().is_some_and(|filter| !filter.matches(subject)) {
            return None;
        }
        let TapRing { ring, lost } = self.rings.get(worker)?;
        let original: usize = pieces.clone().map(<[u8]>::len).sum();
        let kept = original.min(self.config.snaplen as usize);
        let words = WORDS + kept.div_ceil(8);
        let mut writer = ring.writer();
        if !writer.fits(words) {
            lost.fetch_add(1, Relaxed);
            return None;
        }
        let start = writer.at();
        let head = kept as u64 | if direction == Direction::Out { OUT } else { 0 };
        writer.put(head);
        writer.put(now_ns());
        writer.put((kept as u64) << 32 | original as u64 & u64::from(u32::MAX));
        writer.put(lost.load(Relaxed));
        writer.put_pieces(pieces, kept);
        Some(Place { head, start, end: writer.at() })
    }
}

/// Who sends a message to whom, and how many of its octets stand in front of the label.
fn ends_out(snapshot: &Snapshot, target: Target, message: &Message) -> Option<(Ends, usize)> {
    let underlay = snapshot.underlay.as_ref()?;
    let (dst, encap, ports, skip) = match (target, message.to) {
        (Target::Udp(place) | Target::UdpInFragments(place), To::Address(dst, port)) => {
            (dst, Encap::MplsOverUdp, (underlay.pool_port(place), port), 0)
        }
        (Target::Connected(_, place), To::Connected(dst)) => {
            (dst, Encap::MplsOverUdp, (underlay.pool_port(place), MPLS_OVER_UDP_PORT), 0)
        }
        (_, To::Address(dst, _)) => (dst, Encap::MplsOverGre, (0, 0), gre::HEADER.len()),
        (_, To::Link(_, dst)) => (dst, Encap::MplsOverGre, (0, 0), adjacency::header_len(dst)),
        (_, To::Bound | To::Connected(_)) => return None,
    };
    Some((Ends { src: underlay.address(), dst, ports, tos: message.tos, encap }, skip))
}

/// The same pieces, for as long as somebody else's beside them.
#[allow(clippy::map_identity, reason = "it makes a lifetime shorter")]
fn shorter<'s, 'p: 's>(
    pieces: impl Iterator<Item = &'p [u8]> + Clone,
) -> impl Iterator<Item = &'s [u8]> + Clone {
    pieces.map(|piece| piece)
}

/// The first octets of gathered pieces.
fn gather<'h, 'p>(head: &'h mut [u8; Subject::HEAD], pieces: impl Iterator<Item = &'p [u8]>) -> &'h [u8] {
    let mut filled = 0;
    for piece in pieces {
        let room = head.get_mut(filled..).unwrap_or_default();
        let len = room.len().min(piece.len());
        room.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
        filled += len;
    }
    head.get(..filled).unwrap_or_default()
}

/// A range of gathered octets, piece by piece.
#[derive(Clone)]
struct Cut<I> {
    pieces: I,
    skip: usize,
    left: usize,
}

impl<'p, I: Iterator<Item = &'p [u8]>> Cut<I> {
    fn of(pieces: I, range: Range<usize>) -> Cut<I> {
        Cut { pieces, skip: range.start, left: range.end.saturating_sub(range.start) }
    }
}

impl<'p, I: Iterator<Item = &'p [u8]>> Iterator for Cut<I> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        while self.left > 0 {
            let piece = self.pieces.next()?;
            let from = self.skip.min(piece.len());
            self.skip -= from;
            let to = piece.len().min(from.saturating_add(self.left));
            self.left -= to - from;
            if to > from {
                return piece.get(from..to);
            }
        }
        None
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_the_range_of_the_whole() {
        let pieces = [&b"abc"[..], b"", b"defgh", b"i"];
        let whole = pieces.concat();
        for start in 0..=whole.len() {
            for end in start..=whole.len() + 2 {
                let cut: Vec<u8> = Cut::of(pieces.into_iter(), start..end).flatten().copied().collect();
                assert_eq!(cut, whole[start..end.min(whole.len())], "{start}..{end}");
            }
        }
    }
}
