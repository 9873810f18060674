//! Userspace coalescing (GRO): runs of packets become superframes, without copying payload.
//!
//! ```text
//!  arena    … │ IP │ TCP │ payload 0 │ …  │ IP │ TCP │ payload 1 │ …  │ IP │ TCP │ payload 2 │ …
//!                          ╰────╮          ╭───────────╯                ╭──────────╯
//!  written   │ vnet │ Ethernet │ IP │ TCP │ payload 0 │ payload 1 │ payload 2 │       one gathered write
//! ```
//! It works on whatever one receive call brought, so it needs no help from the kernel: edge routers often send zero
//! UDP checksums, which switch the kernel's own coalescing off. Nothing is held back over a batch, so no timer.
//!
//! Joined are: TCP segments of one flow with consecutive sequence numbers and equal acknowledgement, window and
//! options, whose only flags are ACK and PSH; UDP datagrams of one flow and equal length, the last may be shorter.
//! Both only over IPv4 without options or fragments, or over IPv6 without extension headers, with equal traffic class
//! (so ECN marks stay where they are) and hop limit, and after their checksum was verified. Everything else passes as
//! it is, in order: groups leave in the order of their first packets, and a packet that cannot join ends its flow's
//! group. IPv4 identifications must count up, as segmentation writes them, or stand still under "don't fragment".

use std::ops::Range;

use crate::checksum;
use crate::frame::MAX_PACKET;
use crate::segment::ip;
use crate::vnet::{Gso, VnetHeader};

mod candidate;
mod follow;

use candidate::{Candidate, Join};
use follow::Leader;

/// The longest header that [`Coalescer::write_header`] writes.
pub const MAX_HEADER: usize = ip::V6_HEADER + 60;

/// As many datagrams as the kernel joins in one (UDP_GRO_CNT_MAX), so a receiver's buffer is not taken by surprise.
const MAX_DATAGRAMS: u16 = 64;
/// Segments are fewer than the pieces that one gathered write may have (UIO_MAXIOV).
const MAX_SEGMENTS: u16 = 1000;
const TABLE_BITS: u32 = 9;
const NONE: u32 = u32::MAX;
const PSH: u8 = 0x08;

/// Packets that leave as one.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// To whom: whatever number the caller gave.
    pub port: u32,
    /// How many packets were joined.
    pub packets: u16,
    /// Octets of the whole, from its IP header on.
    pub octets: usize,
    first: Candidate,
    vnet: VnetHeader,
    next_seq: u32,
    head: u32,
    tail: u32,
    open: bool,
    verified: bool,
    push: bool,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    next: u32,
}

/// Which group a flow's next packet may join, as of one batch.
#[derive(Debug, Clone, Copy)]
struct Slot {
    epoch: u32,
    group: u32,
}

/// The groups of one batch. Its memory is allocated once.
#[derive(Debug)]
pub struct Coalescer {
    groups: Vec<Group>,
    pieces: Vec<Piece>,
    table: Box<[Slot]>,
    epoch: u32,
    datagrams: bool,
    leader: Leader,
}

impl Group {
    /// Where in the arena its first packet begins.
    pub fn at(&self) -> usize {
        self.first.at
    }
}

impl Coalescer {
    /// Room for this many packets between two calls of [`Coalescer::clear`].
    pub fn new(packets: usize) -> Coalescer {
        Coalescer {
            groups: Vec::with_capacity(packets),
            pieces: Vec::with_capacity(packets),
            table: vec![Slot { epoch: 0, group: 0 }; 1 << TABLE_BITS].into_boxed_slice(),
            epoch: 1,
            datagrams: true,
            leader: Leader::none(),
        }
    }

    /// Whether UDP datagrams are joined. Kernels before Linux 6.2 do not take superframes of them.
    pub fn join_datagrams(&mut self, join: bool) {
        self.datagrams = join;
    }

    /// Adds the packet at `range` of `memory`, which begins at its IP header and whose virtio-net offsets count from
    /// there. The caller asks [`Coalescer::is_full`] before.
    pub fn push(&mut self, memory: &[u8], port: u32, range: Range<usize>, vnet: &VnetHeader) {
        let bytes = memory.get(range.clone()).unwrap_or_default();
        let mut candidate = Candidate::read(bytes, range.start, vnet);
        if candidate.join == Join::Udp && !self.datagrams {
            candidate.join = Join::Never;
        }
        let slot = (candidate.hash(port) >> (32 - TABLE_BITS)) as usize;
        match candidate.join {
            // Whose flow it is cannot be told cheaply: nothing may overtake it.
            Join::Barrier => self.end_all(),
            Join::Alone => {}
            Join::Never | Join::Tcp | Join::Udp => {
                if let Some(index) = self.flow_group(slot, memory, port, &candidate) {
                    if self.try_join(index, memory, &candidate, &range) {
                        self.leader.group = Some(index);
                        return;
                    }
                    self.table[slot].epoch = self.epoch.wrapping_sub(1);
                }
            }
        }
        self.start_group(port, candidate, range, vnet);
        self.leader.group = Some(self.groups.len() - 1);
        if matches!(candidate.join, Join::Tcp | Join::Udp) && candidate.flags & PSH == 0 {
            let group = u32::try_from(self.groups.len() - 1).unwrap_or(NONE);
            self.table[slot] = Slot { epoch: self.epoch, group };
        }
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.pieces.clear();
        self.end_all();
    }

    /// Whether the next packet must wait until the groups have been sent and [`Coalescer::clear`]ed.
    pub fn is_full(&self) -> bool {
        self.pieces.len() == self.pieces.capacity()
    }

    /// The groups, in the order of their first packets.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// What to write behind a group's header, as ranges of the arena: payloads, or a lone packet as it is.
    pub fn payload(&self, group: &Group) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = group.head;
        std::iter::from_fn(move || {
            let piece = self.pieces.get(at as usize)?;
            at = piece.next;
            Some(piece.start..piece.end)
        })
    }

    fn end_all(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.end_lead();
    }

    fn flow_group(&self, slot: usize, memory: &[u8], port: u32, candidate: &Candidate) -> Option<usize> {
        let Slot { epoch, group } = self.table[slot];
        let held = self.groups.get(group as usize).filter(|_| epoch == self.epoch)?;
        (held.port == port && held.first.same_flow(candidate, memory)).then_some(group as usize)
    }

    fn start_group(&mut self, port: u32, first: Candidate, range: Range<usize>, vnet: &VnetHeader) {
        let octets = range.len();
        let joinable = matches!(first.join, Join::Tcp | Join::Udp);
        let start = if joinable { first.at + first.header } else { range.start };
        let piece = u32::try_from(self.pieces.len()).unwrap_or(NONE);
        self.pieces.push(Piece { start, end: range.end, next: NONE });
        self.groups.push(Group {
            port,
            packets: 1,
            octets,
            first,
            vnet: *vnet,
            next_seq: first.seq.wrapping_add(first.payload_u32()),
            head: piece,
            tail: piece,
            open: joinable,
            // A partial checksum was made by this kernel over bytes that never left it.
            verified: vnet.needs_csum,
            push: first.flags & PSH != 0,
        });
    }

    fn try_join(&mut self, index: usize, memory: &[u8], next: &Candidate, range: &Range<usize>) -> bool {
        let group = &mut self.groups[index];
        let fits = group.open
            && next.join == group.first.join
            && next.payload <= group.first.payload
            && group.octets + next.payload <= MAX_PACKET
            && group.first.same_headers(next, group.packets, memory)
            && match next.join {
                Join::Tcp => next.seq == group.next_seq && group.packets < MAX_SEGMENTS,
                _ => group.packets < MAX_DATAGRAMS,
            };
        if !fits || !(next.trusted || next.verifies(memory)) {
            return false;
        }
        if !group.verified && !group.first.verifies(memory) {
            group.open = false;
            return false;
        }
        group.verified = true;
        let piece = Piece { start: next.at + next.header, end: range.end, next: NONE };
        self.join(index, next.payload, next.flags & PSH != 0, piece);
        true
    }

    /// Adds the payload of a packet that may join.
    fn join(&mut self, index: usize, payload: usize, push: bool, piece: Piece) {
        let group = &mut self.groups[index];
        group.packets += 1;
        group.octets += payload;
        group.next_seq = group.next_seq.wrapping_add(u32::try_from(payload).unwrap_or(0));
        group.push |= push;
        group.open = payload == group.first.payload && !group.push;
        let at = u32::try_from(self.pieces.len()).unwrap_or(NONE);
        self.pieces[group.tail as usize].next = at;
        group.tail = at;
        self.pieces.push(piece);
    }

    /// Writes what stands before a group's payload, at most [`MAX_HEADER`] octets, and tells how long that is and the
    /// virtio-net header of the whole. For a lone packet the header is its own. `None` where `out` is too short.
    pub fn write_header(&self, group: &Group, memory: &[u8], out: &mut [u8]) -> Option<(usize, VnetHeader)> {
        if !matches!(group.first.join, Join::Tcp | Join::Udp) {
            return Some((0, group.vnet));
        }
        let Candidate { at, header, l4, .. } = group.first;
        let out = out.get_mut(..header)?;
        out.copy_from_slice(memory.get(at..at + header)?);
        if group.packets == 1 {
            return Some((header, group.vnet));
        }
        Some((header, rewrite(group, out, l4)))
    }
}

/// Makes the first packet's header that of the whole: lengths, checksums, PSH.
fn rewrite(group: &Group, out: &mut [u8], l4: usize) -> VnetHeader {
    let Candidate { v4, join, header, payload, .. } = group.first;
    let (protocol, addresses) = (if join == Join::Tcp { ip::TCP } else { ip::UDP }, if v4 { 12 } else { 8 });
    if v4 {
        ip::set_word(out, 2, group.octets);
        ip::set_word(out, 10, 0);
        ip::set_word(out, 10, usize::from(checksum::checksum(&out[..l4])));
    } else {
        ip::set_word(out, 4, group.octets - ip::V6_HEADER);
    }
    let len = group.octets - l4;
    let len_sum = u32::try_from(len).unwrap_or(0);
    let pseudo = checksum::fold(checksum::sum(&out[addresses..l4]) + u32::from(protocol) + len_sum);
    let csum_offset = if join == Join::Tcp { 16 } else { 6 };
    ip::set_word(out, l4 + usize::from(csum_offset), usize::from(pseudo));
    if join == Join::Udp {
        ip::set_word(out, l4 + 4, len);
    } else if group.push {
        out[l4 + 13] |= PSH;
    }
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    VnetHeader {
        needs_csum: true,
        data_valid: false,
        gso: match (join, v4) {
            (Join::Udp, _) => Gso::UdpL4,
            (_, true) => Gso::TcpV4,
            (_, false) => Gso::TcpV6,
        },
        ecn: false,
        hdr_len: short(header),
        gso_size: short(payload),
        csum_start: short(l4),
        csum_offset,
    }
}

#[cfg(test)]
mod tests;
