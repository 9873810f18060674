//! What a port gets: runs of packets as superframes. A group is right if cutting it, as the kernel will, gives back the
//! packets that went in; and it is missed if it could have been longer.

use std::ops::Range;

use dataplane_core::VnetHeader;
use dataplane_core::coalesce::{Coalescer, MAX_HEADER};
use proptest::prelude::*;

use crate::generate::tcp_options;
use crate::reference::{ACK, CWR, FIN, Fields, PSH, RST, SYN, TCP, TcpFields, UDP, URG, expand};

/// As many datagrams as a receiver's socket takes at once.
const MAX_DATAGRAMS: usize = 64;

/// Runs a batch through the coalescer: per group how many packets it has, its octets, its virtio-net header.
pub(crate) fn ours(packets: &[Vec<u8>]) -> Vec<(usize, Vec<u8>, VnetHeader)> {
    let mut memory = vec![0xee; 3];
    let ranges: Vec<Range<usize>> = packets
        .iter()
        .map(|packet| {
            memory.extend(packet);
            memory.len() - packet.len()..memory.len()
        })
        .collect();
    let mut coalescer = Coalescer::new(packets.len() + 1);
    for range in ranges {
        assert!(!coalescer.is_full());
        coalescer.push(&memory, 5, range, &VnetHeader::NONE);
    }
    let groups = coalescer.groups().iter().map(|group| {
        let mut out = vec![0; MAX_HEADER];
        let (len, vnet) = coalescer.write_header(group, &memory, &mut out).unwrap();
        out.truncate(len);
        for piece in coalescer.payload(group) {
            out.extend(&memory[piece]);
        }
        (usize::from(group.packets), out, vnet)
    });
    groups.collect()
}

/// What becomes of the next packet of a script.
#[derive(Debug, Clone)]
enum Change {
    Nothing,
    Short(usize),
    Push,
    Acknowledge(u32),
    Window(u16),
    Options(Vec<u8>),
    Tos(u8),
    Ttl(u8),
    FlowLabel(u32),
    /// The one before was lost on the way.
    Lost,
    /// The one before comes again.
    Again,
    /// The one before comes after this one.
    Swapped,
    Flags(u8),
    Reserved(u8),
    WrongChecksum,
    NoChecksum,
    Id(u16),
    DontFragment,
    Empty,
    Between,
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        24 => Just(Change::Nothing),
        1 => (1usize..100).prop_map(Change::Short),
        1 => Just(Change::Push),
        1 => any::<u32>().prop_map(Change::Acknowledge),
        1 => any::<u16>().prop_map(Change::Window),
        1 => tcp_options().prop_map(Change::Options),
        1 => any::<u8>().prop_map(Change::Tos),
        1 => any::<u8>().prop_map(Change::Ttl),
        1 => (0u32..0x10_0000).prop_map(Change::FlowLabel),
        1 => Just(Change::Lost),
        1 => Just(Change::Again),
        1 => Just(Change::Swapped),
        1 => prop::sample::select(vec![FIN, SYN, RST, URG, CWR, 0x40]).prop_map(Change::Flags),
        1 => (1u8..16).prop_map(Change::Reserved),
        1 => Just(Change::WrongChecksum),
        1 => Just(Change::NoChecksum),
        1 => any::<u16>().prop_map(Change::Id),
        1 => Just(Change::DontFragment),
        1 => Just(Change::Empty),
        1 => Just(Change::Between),
    ]
}

/// The packets of one flow: `still` leaves the identification as it is, as many senders do under "don't fragment".
#[derive(Debug, Clone)]
pub(crate) struct Script {
    v6: bool,
    tcp: bool,
    df: bool,
    still: bool,
    options: Vec<u8>,
    seq: u32,
    id: u16,
    size: usize,
    changes: Vec<Change>,
}

pub(crate) fn scripts(flags: impl Strategy<Value = [bool; 4]>) -> impl Strategy<Value = Script> {
    let numbers = (any::<u32>(), any::<u16>(), 1usize..1500);
    (flags, tcp_options(), numbers, prop::collection::vec(changes(), 1..90)).prop_map(
        |([v6, tcp, df, still], options, (seq, id, size), changes)| Script {
            v6,
            tcp,
            df: df && !v6,
            still,
            options,
            seq,
            id: if v6 { 0 } else { id },
            size,
            changes,
        },
    )
}

impl Script {
    /// `flow` tells flows apart by their ports.
    pub(crate) fn packets(&self, flow: u16) -> Vec<Vec<u8>> {
        let len = if self.v6 { 16 } else { 4 };
        let tcp = TcpFields {
            seq: self.seq,
            flags: ACK,
            window: 500,
            options: self.options.clone(),
            ..TcpFields::default()
        };
        let mut next = Fields {
            v6: self.v6,
            tos: 2,
            flow_label: 0,
            id: self.id,
            df: self.df,
            ttl: 61,
            src: vec![10; len],
            dst: vec![11; len],
            between: vec![],
            next: if self.tcp { TCP } else { UDP },
            ports: (1000 + flow, 2000),
            tcp: self.tcp.then_some(tcp),
            payload: (0..self.size).map(|at| u8::try_from(at % 253).unwrap()).collect(),
        };
        let mut out: Vec<Vec<u8>> = Vec::new();
        for change in &self.changes {
            let mut packet = next.clone();
            packet.payload[0] = packet.payload[0].wrapping_add(u8::try_from(out.len() % 256).unwrap());
            let (mut again, mut swapped) = (false, false);
            match (change, &mut packet.tcp) {
                (Change::Short(octets), _) => packet.payload.truncate((*octets).min(self.size)),
                (Change::Push, Some(tcp)) => tcp.flags |= PSH,
                (Change::Acknowledge(ack), Some(tcp)) => tcp.ack = *ack,
                (Change::Window(window), Some(tcp)) => tcp.window = *window,
                (Change::Options(options), Some(tcp)) => tcp.options.clone_from(options),
                (Change::Tos(tos), _) => packet.tos = *tos,
                (Change::Ttl(ttl), _) => packet.ttl = *ttl,
                (Change::FlowLabel(label), _) if self.v6 => packet.flow_label = *label,
                (Change::Flags(flags), Some(tcp)) => tcp.flags |= flags,
                (Change::Reserved(bits), Some(tcp)) => tcp.reserved = *bits,
                (Change::Id(id), _) if !self.v6 => packet.id = *id,
                (Change::DontFragment, _) => packet.df ^= !self.v6,
                (Change::Empty, _) => packet.payload.clear(),
                (Change::Between, _) if self.v6 => {
                    packet.between = vec![packet.next, 0, 1, 4, 0, 0, 0, 0];
                    packet.next = 60;
                }
                (Change::Between, _) => packet.between = vec![1; 4],
                (Change::Again, _) => again = true,
                (Change::Swapped, _) => swapped = true,
                _ => {}
            }
            let mut bytes = packet.write();
            let l4 =
                bytes.len() - packet.payload.len() - packet.tcp.as_ref().map_or(8, |t| 20 + t.options.len());
            match change {
                Change::WrongChecksum => *bytes.last_mut().unwrap() ^= 1,
                Change::NoChecksum if !self.tcp => bytes[l4 + 6..l4 + 8].fill(0),
                _ => {}
            }
            if !matches!(change, Change::Lost) {
                out.push(bytes.clone());
            }
            if again {
                out.push(bytes);
            }
            let last = out.len();
            if swapped && last >= 2 {
                out.swap(last - 1, last - 2);
            }
            // What changed in a packet's window, acknowledgement and options stays; marks and faults do not.
            if let (Some(next), Some(sent)) = (&mut next.tcp, &packet.tcp) {
                let octets = u32::try_from(packet.payload.len()).unwrap();
                next.seq = sent.seq.wrapping_add(octets);
                (next.ack, next.window) = (sent.ack, sent.window);
                next.options.clone_from(&sent.options);
            }
            if !self.still && !self.v6 {
                next.id = packet.id.wrapping_add(1);
            }
        }
        out
    }
}

/// Without what means nothing: the identification of a packet that is not to be fragmented (RFC 6864 §4.1).
fn meaning(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Whether one superframe may stand for these packets: each is plain, verified, and cutting their sum gives them back.
fn is_a_superframe(packets: &[Vec<u8>]) -> bool {
    let read: Option<Vec<(Fields, u16)>> = packets.iter().map(|packet| Fields::read(packet)).collect();
    let Some(read) = read else { return false };
    let plain = |(fields, checksum): &(Fields, u16)| {
        let flags = fields.tcp.as_ref().is_none_or(|tcp| tcp.flags & !PSH == ACK && tcp.reserved == 0);
        let summed = fields.tcp.is_some() || *checksum != 0;
        flags
            && summed
            && fields.between.is_empty()
            && !fields.payload.is_empty()
            && fields.checksum_is(*checksum)
    };
    if !read.iter().all(plain) || (read[0].0.tcp.is_none() && read.len() > MAX_DATAGRAMS) {
        return false;
    }
    let mut whole = read[0].0.clone();
    let size = whole.payload.len();
    for (fields, _) in &read[1..] {
        whole.payload.extend(&fields.payload);
        if let (Some(whole), Some(tcp)) = (&mut whole.tcp, &fields.tcp) {
            whole.flags |= tcp.flags;
        }
    }
    let headers = packets[0].len() - size;
    if headers + whole.payload.len() > 65_535 {
        return false;
    }
    let mut cut = whole.cut(size);
    // Counting up, or standing still under "don't fragment", where it means nothing.
    for (packet, (sent, _)) in cut.iter_mut().zip(&read) {
        if sent.df && sent.id == whole.id {
            packet.id = whole.id;
        }
    }
    cut == read.into_iter().map(|(fields, _)| fields).collect::<Vec<_>>()
}

/// Groups of one flow's packets, each as long as it can be.
fn greedy(packets: &[Vec<u8>]) -> Vec<usize> {
    let (mut groups, mut start) = (Vec::new(), 0);
    for end in 1..=packets.len() {
        if end == packets.len() || !is_a_superframe(&packets[start..=end]) {
            groups.push(end - start);
            start = end;
        }
    }
    groups
}

proptest! {
    #[test]
    fn one_flow_is_joined_as_far_as_it_can_be_and_no_further(script in scripts(any::<[bool; 4]>())) {
        let packets = script.packets(0);
        let groups = ours(&packets);
        let after: Vec<Vec<u8>> = groups.iter().flat_map(|(_, bytes, vnet)| expand(bytes, vnet)).map(meaning).collect();
        prop_assert_eq!(after, packets.iter().cloned().map(meaning).collect::<Vec<_>>());
        prop_assert_eq!(groups.iter().map(|(count, ..)| *count).collect::<Vec<_>>(), greedy(&packets));
    }

    #[test]
    fn flows_stay_in_order_and_whole_among_each_other(
        scripts in prop::collection::vec(scripts(any::<[bool; 4]>()), 1..5), order in any::<[u64; 2]>(),
    ) {
        let mut flows: Vec<_> = (0..).zip(&scripts).map(|(n, script)| script.packets(n).into_iter().peekable()).collect();
        let want: Vec<Vec<Vec<u8>>> = flows.clone().into_iter().map(|flow| flow.map(meaning).collect()).collect();
        let mut mixed = Vec::new();
        let mut random = order[0] | 1;
        while flows.iter_mut().any(|flow| flow.peek().is_some()) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(order[1] | 1);
            let turn = usize::try_from(random >> 40).unwrap() % flows.len();
            // Bursts, as they arrive.
            mixed.extend(flows[turn].by_ref().take(usize::try_from(random >> 33 & 7).unwrap()));
        }
        let groups = ours(&mixed);
        prop_assert_eq!(groups.iter().map(|(count, ..)| count).sum::<usize>(), mixed.len());
        let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); scripts.len()];
        for packet in groups.iter().flat_map(|(_, bytes, vnet)| expand(bytes, vnet)) {
            // By the source port, wherever the transport header is.
            let (fields, _) = Fields::read(&packet).expect("what went in was readable");
            got[usize::from(fields.ports.0 - 1000)].push(meaning(packet));
        }
        prop_assert_eq!(got, want);
    }
}

/// So many packets of one flow, in order.
pub(crate) fn plain(v6: bool, tcp: bool, packets: usize) -> Script {
    Script {
        v6,
        tcp,
        df: !v6,
        still: false,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        seq: u32::MAX - 2000,
        id: if v6 { 0 } else { 0xfff0 },
        size: 1000,
        changes: vec![Change::Nothing; packets],
    }
}

#[test]
fn the_scripts_reach_long_groups_and_every_reason_to_end_one() {
    // What the properties above would not notice: that nothing is ever joined.
    assert_eq!(greedy(&plain(false, true, 130).packets(0)), [65, 65]);
    assert_eq!(greedy(&plain(false, false, 130).packets(0)), [64, 64, 2]);
    for change in
        [Change::Tos(3), Change::Ttl(9), Change::Acknowledge(8), Change::Lost, Change::WrongChecksum]
    {
        let mut script = plain(false, true, 130);
        script.changes.truncate(20);
        script.changes[10] = change.clone();
        assert!(greedy(&script.packets(0)).len() > 1, "{change:?}");
    }
}
