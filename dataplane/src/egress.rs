//! What a batch sends: gathered messages, queued per socket, flushed with one call per socket.
//!
//! ```text
//!  queue of a pool socket    message 0: │hdr│payload│hdr│payload│hdr│payload│   one UDP_SEGMENT send, equal sizes
//!                            message 1: │hdr│payload│hdr│payload│
//! ```
//! A slice joins the last message of its queue while tunnel, traffic class and size agree; a shorter one is the last.
//! A flow always takes the same queue, so its order stays. Nothing waits for room: what the kernel refuses is counted.

mod refusal;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;

use dataplane_core::vnet::VNET_HEADER_LEN;
use dataplane_core::{DropReason, TunnelId};
use vrouter_types::{Encap, PortId};

use crate::cmsg::{Message, To};
use crate::snapshot::Snapshot;
use crate::sys::{MAX_PIECES, Sender};
use crate::underlay::Underlay;
use refusal::{Refusal, judge, may_be_old};

/// As many datagrams as every kernel segments in one send (UDP_MAX_SEGMENTS, before 6.9).
const MAX_SEGMENTS: usize = 64;
/// What one UDP send may carry: a maximal IP packet without the longer of both outer headers.
const MAX_GSO_OCTETS: usize = 65_535 - 48;
/// Messages per system call.
const BATCH: usize = 64;

/// The socket that a message leaves through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Port(PortId),
    Host,
    /// A place in the pool of UDP sockets.
    Udp(usize),
    /// The same port, by a socket that is connected to this tunnel's far end.
    Connected(TunnelId, usize),
    /// The same, for datagrams that the path may cut: IPv6 inside, and a path that takes less than 1280 octets of it.
    UdpInFragments(usize),
    Gre,
    GreInFragments,
    /// GRE past the IP stack, by the packet socket.
    Link,
}

/// What a message counts as, and what may join it.
#[derive(Debug, Clone, Copy)]
struct Load {
    tunnel: Option<TunnelId>,
    segment: usize,
    packets: usize,
    octets: usize,
    open: bool,
    /// Datagrams that coalescing has made one superframe of.
    joined: bool,
}

#[derive(Debug)]
struct Queue {
    target: Target,
    pieces: Vec<Range<usize>>,
    messages: Vec<Message>,
    loads: Vec<Load>,
}

/// The queues of one batch; their memory is kept.
pub(crate) struct Egress {
    queues: Vec<Queue>,
    used: usize,
    /// The queue that was asked for last.
    last: usize,
    sender: Sender,
}

/// A slice for a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TunnelSlice {
    pub(crate) target: Target,
    pub(crate) tunnel: TunnelId,
    pub(crate) to: To,
    /// Octets in front of the label.
    pub(crate) outer: usize,
    pub(crate) tos: u8,
}

impl Egress {
    pub(crate) fn new() -> Egress {
        Egress { queues: Vec::new(), used: 0, last: 0, sender: Sender::new(BATCH, 4 * MAX_PIECES) }
    }

    /// Begins a message for a port or the host, which stands for so many packets; `joined` if those are datagrams that
    /// we have made one superframe of.
    pub(crate) fn begin(&mut self, target: Target, packets: usize, joined: bool) {
        let queue = self.queue(target);
        let at = queue.pieces.len();
        queue.messages.push(Message { pieces: at..at, to: To::Bound, segment: 0, tos: 0 });
        queue.loads.push(Load { tunnel: None, segment: 0, packets, octets: 0, open: false, joined });
    }

    /// Adds a piece to the message begun last for this target.
    pub(crate) fn add(&mut self, target: Target, piece: Range<usize>) {
        let queue = self.queue(target);
        if let (Some(message), Some(load)) = (queue.messages.last_mut(), queue.loads.last_mut()) {
            load.octets += piece.len();
            message.pieces.end += 1;
            queue.pieces.push(piece);
        }
    }

    /// Adds all of these.
    pub(crate) fn add_all(&mut self, target: Target, pieces: impl Iterator<Item = Range<usize>>) {
        let queue = self.queue(target);
        let before = queue.pieces.len();
        queue.pieces.extend(pieces);
        let octets = queue.pieces[before..].iter().map(Range::len).sum::<usize>();
        if let (Some(message), Some(load)) = (queue.messages.last_mut(), queue.loads.last_mut()) {
            load.octets += octets;
            message.pieces.end = queue.pieces.len();
        }
    }

    /// Adds one packet for a tunnel: to the last message where it fits, else to a new one.
    pub(crate) fn add_slice(&mut self, slice: TunnelSlice, segments: bool, pieces: [Range<usize>; 2]) {
        let len = pieces.iter().map(Range::len).sum::<usize>();
        let queue = self.queue(slice.target);
        let last = queue.messages.last_mut().zip(queue.loads.last_mut());
        if let Some((message, load)) = last.filter(|(message, load)| {
            segments
                && load.open
                && load.tunnel == Some(slice.tunnel)
                && message.tos == slice.tos
                && len <= load.segment
                && load.packets < MAX_SEGMENTS
                && load.octets + len <= MAX_GSO_OCTETS
        }) {
            load.packets += 1;
            load.octets += len;
            load.open = len == load.segment;
            message.segment = u16::try_from(load.segment).unwrap_or(0);
            message.pieces.end += pieces.len();
            queue.pieces.extend(pieces);
            return;
        }
        let at = queue.pieces.len();
        let (to, tos) = (slice.to, slice.tos);
        queue.messages.push(Message { pieces: at..at + pieces.len(), to, segment: 0, tos });
        let open = matches!(slice.target, Target::Udp(_) | Target::Connected(..));
        let (tunnel, joined, octets) = (Some(slice.tunnel), false, len - slice.outer.min(len));
        queue.loads.push(Load { tunnel, segment: len, packets: 1, octets, open, joined });
        queue.pieces.extend(pieces);
    }

    /// What waits to be sent: messages and their pieces, socket by socket.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (Target, &[Message], &[Range<usize>])> {
        let queues = self.queues.iter().take(self.used);
        queues.map(|queue| (queue.target, queue.messages.as_slice(), queue.pieces.as_slice()))
    }

    /// Sends everything.
    pub(crate) fn flush(&mut self, snapshot: &Snapshot, memory: &[u8], now_ms: u32) {
        for queue in self.queues.iter_mut().take(self.used) {
            Flush { snapshot, memory, now_ms, sender: &mut self.sender }.queue(queue);
            queue.pieces.clear();
            queue.messages.clear();
            queue.loads.clear();
        }
        self.used = 0;
    }

    fn queue(&mut self, target: Target) -> &mut Queue {
        // A batch goes to few sockets, and mostly to the one before.
        let before = Some(self.last).filter(|last| self.used > *last && self.queues[*last].target == target);
        let found =
            before.or_else(|| self.queues.iter().take(self.used).rposition(|queue| queue.target == target));
        let index = found.unwrap_or_else(|| {
            if self.used == self.queues.len() {
                let (pieces, messages, loads) = (Vec::new(), Vec::new(), Vec::new());
                self.queues.push(Queue { target, pieces, messages, loads });
            }
            self.used += 1;
            self.used - 1
        });
        self.last = index;
        let queue = &mut self.queues[index];
        queue.target = target;
        queue
    }
}

struct Flush<'f> {
    snapshot: &'f Snapshot,
    memory: &'f [u8],
    now_ms: u32,
    sender: &'f mut Sender,
}

impl Flush<'_> {
    fn queue(&mut self, queue: &Queue) {
        let snapshot = self.snapshot;
        let underlay = snapshot.underlay.as_deref();
        match queue.target {
            Target::Host => self.write_all(queue),
            Target::Port(port) => match snapshot.port(port).filter(|link| !link.is_down()) {
                Some(link) => self.send_all(queue, link.fd()),
                None => self.drop_rest(queue, 0, DropReason::PortNotOpen),
            },
            Target::Udp(place) => match underlay.and_then(|underlay| underlay.pool(place)) {
                Some(fd) => self.send_all(queue, fd),
                None => self.drop_rest(queue, 0, DropReason::NoUnderlay),
            },
            Target::Connected(tunnel, place) => match snapshot.connected(tunnel, place) {
                Some(fd) => self.send_all(queue, fd),
                None => self.drop_rest(queue, 0, DropReason::NoUnderlay),
            },
            Target::UdpInFragments(place) => self.send_in_fragments(queue, |underlay| underlay.pool(place)),
            Target::GreInFragments => self.send_in_fragments(queue, Underlay::gre),
            Target::Link => match underlay.and_then(Underlay::link) {
                Some(fd) => self.send_all(queue, fd),
                None => self.drop_rest(queue, 0, DropReason::NoUnderlay),
            },
            Target::Gre => match underlay.and_then(Underlay::gre) {
                Some(fd) => self.send_all(queue, fd),
                None => self.drop_rest(queue, 0, DropReason::NoUnderlay),
            },
        }
    }

    fn send_in_fragments(&mut self, queue: &Queue, socket: impl FnOnce(&Underlay) -> Option<BorrowedFd<'_>>) {
        let underlay = self.snapshot.underlay.as_deref();
        match underlay.and_then(|underlay| socket(underlay).map(|fd| (underlay, fd))) {
            Some((underlay, fd)) => {
                underlay.may_fragment(fd, true);
                self.send_all(queue, fd);
                underlay.may_fragment(fd, false);
            }
            None => self.drop_rest(queue, 0, DropReason::NoUnderlay),
        }
    }

    fn write_all(&mut self, queue: &Queue) {
        let Some(host) = &self.snapshot.host else { return self.drop_rest(queue, 0, DropReason::HostClosed) };
        for (message, load) in queue.messages.iter().zip(&queue.loads) {
            let pieces = queue.pieces.get(message.pieces.clone()).unwrap_or_default();
            if let Err(error) = self.sender.write(host.fd(), self.memory, pieces) {
                self.judge_joined(&error, Some(load));
                self.dropped(queue, load, DropReason::SendFailed);
            }
        }
    }

    fn send_all(&mut self, queue: &Queue, fd: BorrowedFd<'_>) {
        let mut at = 0;
        // An error that belongs to an earlier message is told once; more than that is about this one.
        let mut again = 0;
        while let Some(rest) = queue.messages.get(at..).filter(|rest| !rest.is_empty()) {
            match self.sender.send(fd, self.memory, &queue.pieces, rest) {
                Ok(sent) => {
                    self.count_sent(queue, at..at + sent);
                    at += sent.max(1);
                }
                Err(error) if self.may_try_queue(queue, rest, &error) => {}
                Err(error) if again < 3 && may_be_old(queue.target, &error) => again += 1,
                Err(error) => match judge(&error, rest.first().map_or(0, |first| first.segment)) {
                    Refusal::Again if again < 3 => again += 1,
                    Refusal::DropAll(reason) => {
                        if let Target::Port(port) = queue.target
                            && let Some(link) = self.snapshot.port(port)
                        {
                            link.check_interface();
                        }
                        return self.drop_rest(queue, at, reason);
                    }
                    Refusal::Split => {
                        self.send_split(queue, at, fd);
                        at += 1;
                    }
                    refusal => {
                        let load = queue.loads.get(at);
                        self.judge_joined(&error, load);
                        let reason = match refusal {
                            Refusal::Drop(reason) => reason,
                            _ => DropReason::SendFailed,
                        };
                        load.inspect(|load| self.refused(queue, load, reason));
                        at += 1;
                    }
                },
            }
        }
    }

    /// Whether a superframe that a port's interface did not take may pass through its queue, where it would be cut.
    fn may_try_queue(&self, queue: &Queue, rest: &[Message], error: &io::Error) -> bool {
        let Target::Port(port) = queue.target else { return false };
        let header = rest.first().and_then(|message| queue.pieces.get(message.pieces.start));
        // The second octet of a virtio-net header: how the frame is to be cut.
        let superframe =
            header.and_then(|header| self.memory.get(header.start + 1)).is_some_and(|kind| *kind != 0);
        superframe
            && error.raw_os_error() == Some(libc::ENOBUFS)
            && self.snapshot.port(port).is_some_and(|link| link.end_bypass())
    }

    /// Sends the datagrams of one message one by one: for kernels and ways out that cannot segment.
    fn send_split(&mut self, queue: &Queue, at: usize, fd: BorrowedFd<'_>) {
        let (Some(message), Some(load)) = (queue.messages.get(at), queue.loads.get(at)) else { return };
        if let Some(underlay) = &self.snapshot.underlay {
            underlay.segments.store(false, Relaxed);
        }
        // Every slice is two pieces: its header and its payload.
        let single = |first| Message { pieces: first..first + 2, segment: 0, ..message.clone() };
        let mut sent = 0;
        for message in message.pieces.clone().step_by(2).map(single) {
            let result = self.sender.send(fd, self.memory, &queue.pieces, std::slice::from_ref(&message));
            sent += usize::from(result.is_ok());
        }
        let lost = Load { packets: load.packets - sent, ..*load };
        if lost.packets > 0 {
            self.dropped(queue, &lost, DropReason::SendFailed);
        }
        self.count_tunnel(&Load { packets: sent, ..*load });
    }

    /// A kernel that refuses what we have joined gets datagrams one by one from now on.
    fn judge_joined(&self, error: &io::Error, load: Option<&Load>) {
        if error.raw_os_error() == Some(libc::EINVAL) && load.is_some_and(|load| load.joined) {
            self.snapshot.datagrams.store(false, Relaxed);
        }
    }

    fn count_sent(&self, queue: &Queue, sent: Range<usize>) {
        let loads = queue.loads.get(sent).unwrap_or_default();
        if let Target::Port(port) = queue.target {
            let packets: usize = loads.iter().map(|load| load.packets).sum();
            // The virtio-net headers are no part of the frames.
            let octets: usize = loads.iter().map(|load| load.octets.saturating_sub(VNET_HEADER_LEN)).sum();
            if let Some(link) = self.snapshot.port(port) {
                link.stats.traffic.sent(packets as u64, octets as u64);
            }
        }
        loads.iter().for_each(|load| self.count_tunnel(load));
    }

    fn count_tunnel(&self, load: &Load) {
        if let Some(stats) = load.tunnel.and_then(|id| self.snapshot.tunnel(id)) {
            stats.traffic.sent(load.packets as u64, load.octets as u64);
        }
    }

    fn drop_rest(&self, queue: &Queue, from: usize, reason: DropReason) {
        for load in queue.loads.get(from..).unwrap_or_default() {
            self.dropped(queue, load, reason);
        }
    }

    fn dropped(&self, queue: &Queue, load: &Load, reason: DropReason) {
        let port = if let Target::Port(port) = queue.target { Some(port) } else { None };
        self.snapshot.drop_packets(reason, port, load.packets as u64);
    }

    /// A message that the kernel refused. Too big for the path: later superframes are cut to what the kernel knows.
    fn refused(&self, queue: &Queue, load: &Load, reason: DropReason) {
        self.dropped(queue, load, reason);
        let stats = load.tunnel.and_then(|id| self.snapshot.tunnel(id).map(|stats| (id, stats)));
        let Some((id, stats)) = stats.filter(|_| reason == DropReason::TooBig) else { return };
        stats.refused(load.packets as u64);
        let (Some(underlay), Some(tunnel)) = (&self.snapshot.underlay, self.snapshot.fib.tunnel(id)) else {
            return;
        };
        if stats.may_learn(self.now_ms)
            && let Ok(outer) = underlay.path_mtu(tunnel.remote)
        {
            stats.learn(outer.saturating_sub(overhead(tunnel.remote, tunnel.encap)));
        }
    }
}

/// Octets between the link and the inner packet.
pub(crate) fn overhead(remote: IpAddr, encap: Encap) -> u16 {
    encap.overhead() + if remote.is_ipv6() { 40 } else { 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: TunnelSlice = TunnelSlice {
        target: Target::Udp(0),
        tunnel: TunnelId(0),
        to: To::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6635),
        outer: 0,
        tos: 0,
    };

    fn messages(slices: &[(TunnelSlice, usize)], segments: bool) -> Vec<(u16, usize)> {
        let mut egress = Egress::new();
        for (slice, len) in slices {
            egress.add_slice(*slice, segments, [0..4, 4..*len]);
        }
        let queues = egress.queues.iter().take(egress.used);
        queues
            .flat_map(|q| q.messages.iter().map(|m| (m.segment, m.pieces.len() / 2)).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn equal_slices_share_a_message_and_a_shorter_one_ends_it() {
        let slices = [(SLICE, 100), (SLICE, 100), (SLICE, 60), (SLICE, 60), (SLICE, 100)];
        assert_eq!(messages(&slices, true), [(100, 3), (0, 1), (0, 1)]);
    }

    #[test]
    fn another_tunnel_or_traffic_class_starts_a_message() {
        let (tunnel, tos) = (TunnelSlice { tunnel: TunnelId(1), ..SLICE }, TunnelSlice { tos: 3, ..SLICE });
        assert_eq!(messages(&[(SLICE, 9), (tunnel, 9), (tos, 9), (tos, 9)], true), [(0, 1), (0, 1), (9, 2)]);
    }

    #[test]
    fn without_segmentation_and_over_gre_each_slice_is_a_message() {
        let gre = TunnelSlice { target: Target::Gre, ..SLICE };
        assert_eq!(messages(&[(SLICE, 9), (SLICE, 9)], false), [(0, 1), (0, 1)]);
        assert_eq!(messages(&[(gre, 9), (gre, 9)], true), [(0, 1), (0, 1)]);
    }

    #[test]
    fn a_message_stays_within_what_the_kernel_takes() {
        for len in [20, 1472, 9000, 65_000] {
            let all = messages(&vec![(SLICE, len); 200], true);
            assert_eq!(all.iter().map(|(_, packets)| packets).sum::<usize>(), 200);
            assert!(
                all.iter().all(|(_, packets)| *packets <= MAX_SEGMENTS && packets * len <= MAX_GSO_OCTETS)
            );
        }
    }
}
