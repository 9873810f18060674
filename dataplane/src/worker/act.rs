//! What a verdict asks for: slices for tunnels, groups for ports and the host, replies.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use dataplane_core::frame::MAX_PACKET;
use dataplane_core::segment::{Headers, MAX_PREFIX, SegmentError, Slice, Slices, Step, segment, split};
use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{DropReason, Frame, Gso, Port, Push, ReplyTo, Verdict, VnetHeader, coalesce, too_big};
use vrouter_types::PortId;

use super::link::{self, Link};
use super::way::Way;
use super::{HEADS_AT, Packet, Worker};
use crate::capture;
use crate::egress::Target;
use crate::snapshot::Snapshot;
use crate::vlan;

/// The coalescer's number for the host, which is no port's.
const HOST: u32 = u32::MAX;
const UDP_HEADER: usize = 8;
/// What IPv6 counts on everywhere (RFC 8200 §5).
const MIN_V6: u16 = 1280;

impl Worker {
    pub(super) fn act(&mut self, snapshot: &Snapshot, verdict: Verdict, packet: Packet) {
        match verdict {
            Verdict::ToPort(port) => self.send_to_port(snapshot, port, packet),
            Verdict::ToHost => self.send_to_host(snapshot, packet),
            Verdict::ToUnderlay(push) => self.send_to_tunnel(snapshot, push, packet),
            Verdict::Reply(to) => self.reply(snapshot, to, packet.from),
            Verdict::Drop(reason) => {
                let concerned = self.state.refused_by.take().or(packet.from);
                snapshot.drop_packets(reason, concerned, 1);
            }
        }
    }

    fn send_to_port(&mut self, snapshot: &Snapshot, id: PortId, packet: Packet) {
        let Some(port) = snapshot.fib.port(id) else {
            return snapshot.drop_packets(DropReason::UnknownPort, packet.from, 1);
        };
        if self.longest(&packet) > usize::from(port.mtu) {
            return self.fragment_to_port(snapshot, port, packet);
        }
        if packet.range.len() > MAX_PACKET {
            let link = Link::new(snapshot, port, self.is_v6(packet.range.start));
            return self.split(snapshot, Target::Port(id), link.octets(), packet);
        }
        self.coalesce(snapshot, id.0, packet);
    }

    fn send_to_host(&mut self, snapshot: &Snapshot, packet: Packet) {
        if packet.range.len() > MAX_PACKET {
            return self.split(snapshot, Target::Host, &[], packet);
        }
        self.coalesce(snapshot, HOST, packet);
    }

    /// A superframe that is longer than every interface takes leaves as several.
    fn split(&mut self, snapshot: &Snapshot, target: Target, link: &[u8], packet: Packet) {
        // What came before it leaves before it.
        self.emit_groups(snapshot);
        let Packet { range, vnet, from } = packet;
        let mut prefix = [0; VNET_HEADER_LEN + Link::MOST];
        let end = VNET_HEADER_LEN + link.len();
        prefix[..VNET_HEADER_LEN].copy_from_slice(&vnet.behind(link.len()).encode());
        prefix[VNET_HEADER_LEN..end].copy_from_slice(link);
        let frame = Frame::new(self.memory.get_mut(range.clone()).unwrap_or_default(), vnet);
        let Ok(slices) = split(&frame, &prefix[..end]) else {
            return snapshot.drop_packets(DropReason::SegmentFailed, from, 1);
        };
        self.each_slice(snapshot, slices, range, |worker, [header, payload]| {
            let packets = payload.len().div_ceil(usize::from(vnet.gso_size).max(1));
            worker.egress.begin(target, packets, false);
            worker.egress.add(target, header);
            worker.egress.add(target, payload);
        });
    }

    /// The longest packet that a port would see of a packet or a superframe of datagrams. Those of TCP were cut to fit.
    fn longest(&self, Packet { range, vnet, .. }: &Packet) -> usize {
        match vnet.gso {
            Gso::None => range.len(),
            Gso::UdpL4 if !self.is_v6(range.start) => {
                let words = self.memory.get(range.start).map_or(5, |first| usize::from(first & 0x0f));
                range.len().min(words * 4 + UDP_HEADER + usize::from(vnet.gso_size))
            }
            Gso::UdpL4 | Gso::TcpV4 | Gso::TcpV6 => 0,
        }
    }

    fn coalesce(&mut self, snapshot: &Snapshot, port: u32, Packet { range, vnet, .. }: Packet) {
        if self.coalescer.is_full() {
            self.finish_batch(snapshot);
        }
        self.coalescer.push(&self.memory, port, range, &vnet);
    }

    /// An IPv4 packet that is longer than the workload takes, and may be fragmented.
    fn fragment_to_port(&mut self, snapshot: &Snapshot, port: &Port, packet: Packet) {
        // What came before it leaves before it.
        self.emit_groups(snapshot);
        let link = Link::new(snapshot, port, self.is_v6(packet.range.start));
        let mut prefix = [0; VNET_HEADER_LEN + Link::MOST];
        let end = VNET_HEADER_LEN + link.octets().len();
        prefix[VNET_HEADER_LEN..end].copy_from_slice(link.octets());
        let prefix = &prefix[..end];
        let target = Target::Port(port.id);
        self.cut(snapshot, prefix, usize::from(port.mtu), true, packet, |worker, [header, payload]| {
            worker.egress.begin(target, 1, false);
            worker.egress.add(target, header);
            worker.egress.add(target, payload);
        });
    }

    fn send_to_tunnel(&mut self, snapshot: &Snapshot, push: Push, packet: Packet) {
        let (way, path) = match self.way(snapshot, push, self.is_v6(packet.range.start)) {
            Ok(way) => way,
            Err(reason) => return snapshot.drop_packets(reason, packet.from, 1),
        };
        // A byte stream is cut to the path; a datagram that IPv6 counts on is cut on its way.
        let is_cut = way.in_fragments && packet.vnet.gso != Gso::TcpV6;
        let mtu = if is_cut { MIN_V6 } else { path.min(push.mtu) };
        let segments = snapshot.underlay.as_ref().is_some_and(|underlay| underlay.segments.load(Relaxed));
        self.cut(snapshot, way.prefix(), usize::from(mtu), push.fragment, packet, |worker, pieces| {
            way.finish(&mut worker.memory, &pieces);
            worker.egress.add_slice(way.slice, segments, pieces);
        });
    }

    /// The way of a packet, and the largest inner packet that the path takes as it is.
    fn way(&self, snapshot: &Snapshot, push: Push, v6: bool) -> Result<(Way, u16), DropReason> {
        let way = Way::of(snapshot, push)?;
        let learned = snapshot.tunnel(push.tunnel).and_then(|stats| stats.path_mtu(self.now_ms()));
        let tunnel = snapshot.fib.tunnel(push.tunnel).map_or(u16::MAX, |tunnel| tunnel.mtu);
        let path = learned.into_iter().fold(way.mtu.min(tunnel), u16::min);
        if !v6 || path >= MIN_V6 {
            return Ok((way, path));
        }
        Ok((Way::in_fragments(snapshot, push)?, path))
    }

    /// Cuts a packet into slices no longer than `max` behind `prefix`, and hands each to `queue`.
    fn cut(
        &mut self,
        snapshot: &Snapshot,
        prefix: &[u8],
        max: usize,
        fragment: bool,
        Packet { range, vnet, from }: Packet,
        queue: impl FnMut(&mut Worker, [Range<usize>; 2]),
    ) {
        let mut frame = Frame::new(self.memory.get_mut(range.clone()).unwrap_or_default(), vnet);
        match segment(&mut frame, prefix, max, fragment) {
            Ok(slices) => self.each_slice(snapshot, slices, range, queue),
            Err(SegmentError::TooBig) => self.refuse_too_big(snapshot, max, Packet { range, vnet, from }),
            Err(SegmentError::Malformed) => snapshot.drop_packets(DropReason::SegmentFailed, from, 1),
        }
    }

    /// Writes the slices of the packet at `range` one by one and hands each to `queue`.
    fn each_slice(
        &mut self,
        snapshot: &Snapshot,
        mut slices: Slices<'_>,
        range: Range<usize>,
        mut queue: impl FnMut(&mut Worker, [Range<usize>; 2]),
    ) {
        loop {
            let (slots, heads) = self.memory.split_at_mut(HEADS_AT);
            let mut headers = Headers::new(heads, self.heads_used);
            let step = slices.next(slots.get(range.clone()).unwrap_or_default(), &mut headers);
            self.heads_used = headers.used();
            match step {
                Step::Slice(Slice { header, payload }) => {
                    let header = HEADS_AT + header.start..HEADS_AT + header.end;
                    queue(self, [header, range.start + payload.start..range.start + payload.end]);
                }
                Step::Full => self.flush(snapshot),
                Step::Done => return,
            }
        }
    }

    /// The path takes less than the snapshot knows, and the packet may not be cut: its sender hears of it.
    fn refuse_too_big(&mut self, snapshot: &Snapshot, mtu: usize, Packet { range, vnet, from }: Packet) {
        let Some(port) = from else { return snapshot.drop_packets(DropReason::TooBig, None, 1) };
        let frame = Frame::new(self.memory.get_mut(range).unwrap_or_default(), vnet);
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let verdict = too_big(&snapshot.fib, &mut self.state, port, &frame, mtu);
        match verdict {
            Verdict::Reply(to) => self.reply(snapshot, to, from),
            Verdict::Drop(reason) => snapshot.drop_packets(reason, from, 1),
            Verdict::ToPort(_) | Verdict::ToHost | Verdict::ToUnderlay(_) => {}
        }
    }

    fn reply(&mut self, snapshot: &Snapshot, to: ReplyTo, from: Option<PortId>) {
        if let Some(reason) = self.state.reply.reason() {
            snapshot.drop_packets(reason, from, 1);
        }
        if let (Some(service), Some(link)) =
            (self.state.reply.service(), from.and_then(|from| snapshot.port(from)))
        {
            link.stats.served(service);
        }
        let vnet = VnetHeader::NONE.encode();
        let tag = match to {
            ReplyTo::Port(port) => snapshot.fib.port(port).and_then(|port| port.vlan).map(vlan::tag),
            ReplyTo::Host | ReplyTo::Underlay(_) => None,
        };
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let len = self.state.reply.bytes().len() + tag.len();
        // And room for the headers of a tunnel behind it.
        if self.memory.len() - HEADS_AT - self.heads_used < len + VNET_HEADER_LEN + MAX_PREFIX {
            self.flush(snapshot);
        }
        let start = HEADS_AT + self.heads_used;
        let Some(room) = self.memory.get_mut(start..start + VNET_HEADER_LEN + len) else { return };
        room[..VNET_HEADER_LEN].copy_from_slice(&vnet);
        link::put_tagged(&mut room[VNET_HEADER_LEN..], self.state.reply.bytes(), tag);
        self.heads_used += VNET_HEADER_LEN + len;
        let whole = start..start + VNET_HEADER_LEN + len;
        let target = match to {
            ReplyTo::Port(port) => Target::Port(port),
            ReplyTo::Host => Target::Host,
            ReplyTo::Underlay(push) => {
                let range = start + VNET_HEADER_LEN..whole.end;
                return self.reply_to_tunnel(snapshot, push, range);
            }
        };
        self.egress.begin(target, 1, false);
        self.egress.add(target, whole);
    }

    /// A reply lies among the headers already, so it is no frame to be cut: it is short enough as it is.
    fn reply_to_tunnel(&mut self, snapshot: &Snapshot, push: Push, reply: Range<usize>) {
        let (way, _) = match self.way(snapshot, push, self.is_v6(reply.start)) {
            Ok(way) => way,
            Err(reason) => return snapshot.drop_packets(reason, None, 1),
        };
        let (start, prefix) = (HEADS_AT + self.heads_used, way.prefix());
        let header = start..start + prefix.len();
        let Some(room) = self.memory.get_mut(header.clone()) else { return };
        room.copy_from_slice(prefix);
        self.heads_used += prefix.len();
        let pieces = [header, reply];
        way.finish(&mut self.memory, &pieces);
        self.egress.add_slice(way.slice, false, pieces);
    }

    /// Sends all that the batch has produced.
    pub(super) fn finish_batch(&mut self, snapshot: &Snapshot) {
        self.emit_groups(snapshot);
        self.flush(snapshot);
    }

    fn flush(&mut self, snapshot: &Snapshot) {
        let now_ms = self.now_ms();
        if !snapshot.taps.is_empty() {
            for queue in self.egress.queued() {
                capture::outgoing(snapshot, self.index, &self.memory, queue);
            }
        }
        self.egress.flush(snapshot, &self.memory, now_ms);
        self.heads_used = 0;
    }

    /// Queues the groups that coalescing has made.
    fn emit_groups(&mut self, snapshot: &Snapshot) {
        for index in 0..self.coalescer.groups().len() {
            let Some(group) = self.coalescer.groups().get(index).copied() else { break };
            let room = VNET_HEADER_LEN + Link::MOST + coalesce::MAX_HEADER;
            if self.memory.len() - HEADS_AT - self.heads_used < room {
                self.flush(snapshot);
            }
            let id = PortId(group.port);
            let packets = usize::from(group.packets);
            let (target, link) = if group.port == HOST {
                (Target::Host, None)
            } else {
                let Some(port) = snapshot.fib.port(id) else {
                    snapshot.drop_packets(DropReason::UnknownPort, None, u64::from(group.packets));
                    continue;
                };
                (Target::Port(id), Some(Link::new(snapshot, port, self.is_v6(group.at()))))
            };
            let Some((header, vnet)) = self.write_group(&group, link) else {
                snapshot.drop_packets(DropReason::SegmentFailed, None, u64::from(group.packets));
                continue;
            };
            let joined = packets > 1 && vnet.gso == Gso::UdpL4;
            let packets = count_packets(&vnet, group.octets + link.map_or(0, |link| link.octets().len()));
            self.egress.begin(target, packets, joined);
            self.egress.add(target, header);
            self.egress.add_all(target, self.coalescer.payload(&group));
        }
        self.coalescer.clear();
    }

    /// Writes virtio-net, link and packet header of a group side by side.
    fn write_group(
        &mut self,
        group: &coalesce::Group,
        link: Option<Link>,
    ) -> Option<(Range<usize>, VnetHeader)> {
        let link = link.as_ref().map_or(&[][..], Link::octets);
        let link_len = link.len();
        let (slots, heads) = self.memory.split_at_mut(HEADS_AT);
        let room = heads.get_mut(self.heads_used..)?;
        let (front, behind) = room.split_at_mut_checked(VNET_HEADER_LEN + link_len)?;
        let (len, mut vnet) = self.coalescer.write_header(group, slots, behind)?;
        vnet = vnet.behind(link_len);
        let (vnet_room, link_room) = front.split_at_mut(VNET_HEADER_LEN);
        vnet_room.copy_from_slice(&vnet.encode());
        link_room.copy_from_slice(link);
        let start = HEADS_AT + self.heads_used;
        self.heads_used += VNET_HEADER_LEN + link_len + len;
        Some((start..HEADS_AT + self.heads_used, vnet))
    }

    fn is_v6(&self, at: usize) -> bool {
        self.memory.get(at).is_some_and(|first| first >> 4 == 6)
    }
}

/// How many packets a frame stands for. Offsets in its virtio-net header count from where its octets do.
pub(super) fn count_packets(vnet: &VnetHeader, len: usize) -> usize {
    if vnet.gso == Gso::None {
        return 1;
    }
    let payload = len.saturating_sub(usize::from(vnet.hdr_len));
    payload.div_ceil(usize::from(vnet.gso_size).max(1)).max(1)
}
