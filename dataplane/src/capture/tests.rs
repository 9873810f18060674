use dataplane_core::Fib;
use dataplane_core::vnet::VNET_HEADER_LEN;
use vrouter_types::Encap;

use super::*;
use crate::adjacency::follow::Bell;
use crate::cmsg::{Message, To};
use crate::egress::Target;
use crate::snapshot::Snapshot;
use crate::underlay::{Plan, Underlay};

const PORT: PortId = PortId(3);

/// An Ethernet frame with a UDP datagram from 10.0.0.1:7 to 10.0.0.2:9.
fn frame(payload: usize) -> Vec<u8> {
    let udp = u16::try_from(8 + payload).unwrap();
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + udp).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9]);
    frame.extend(udp.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|octet| u8::try_from(octet % 251).unwrap()));
    frame
}

fn tap(point: CapturePoint, filter: &str) -> Arc<Tap> {
    let filter = (!filter.is_empty()).then(|| filter.parse().unwrap());
    Arc::new(Tap::new(CaptureConfig { point, direction: None, snaplen: MAX_SNAPLEN, filter }, 1))
}

fn snapshot(taps: &[&Arc<Tap>]) -> Snapshot {
    let taps = Arc::new(taps.iter().map(|tap| Arc::clone(tap)).collect());
    Snapshot { taps, ..Snapshot::empty(Arc::new(Fib::new())) }
}

fn read(tap: &Arc<Tap>) -> Vec<Captured> {
    Capture { tap: Arc::clone(tap), dataplane: Weak::new(), told: vec![0] }.read()
}

#[test]
fn a_frame_is_seen_as_it_came_with_what_became_of_it() {
    let (all, none) = (tap(CapturePoint::Port(PORT), "udp and port 9"), tap(CapturePoint::Port(PORT), "tcp"));
    let other = tap(CapturePoint::Port(PortId(4)), "");
    let snapshot = snapshot(&[&none, &all, &other]);
    let bytes = frame(5);
    let begun = incoming_frame(&snapshot, 0, CapturePoint::Port(PORT), &bytes);
    assert_eq!(read(&all), [], "not before it is known what becomes of it");
    begun.end(&snapshot, 0, Some(DropReason::NoRoute));
    incoming_frame(&snapshot, 0, CapturePoint::Port(PORT), &bytes).end(&snapshot, 0, None);
    let seen = read(&all);
    assert_eq!(
        seen.iter().map(|packet| packet.dropped).collect::<Vec<_>>(),
        [Some(DropReason::NoRoute), None]
    );
    for packet in seen {
        assert_eq!((packet.direction, packet.octets, packet.original), (Direction::In, bytes.clone(), 47));
        assert_eq!(packet.lost, 0);
    }
    assert_eq!((read(&none), read(&other)), (vec![], vec![]));
}

#[test]
fn a_frame_that_leaves_is_seen_without_its_virtio_net_header() {
    let tap = tap(CapturePoint::Port(PORT), "host 10.0.0.2");
    let bytes = frame(300);
    let memory = [&[0xee; VNET_HEADER_LEN][..], &bytes].concat();
    let pieces = [0..VNET_HEADER_LEN + 20, VNET_HEADER_LEN + 20..memory.len()];
    let message = Message { pieces: 0..2, to: To::Bound, segment: 0, tos: 0 };
    let snapshot = snapshot(&[&tap]);
    outgoing(&snapshot, 0, &memory, (Target::Port(PORT), std::slice::from_ref(&message), &pieces));
    outgoing(&snapshot, 0, &memory, (Target::Port(PortId(4)), &[message], &pieces));
    let seen = read(&tap);
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].direction, &seen[0].octets), (Direction::Out, &bytes));
}

#[test]
fn snaplen_and_direction_hold() {
    let config = CaptureConfig {
        point: CapturePoint::Port(PORT),
        direction: Some(Direction::In),
        snaplen: 20,
        filter: None,
    };
    let tap = Arc::new(Tap::new(config, 1));
    let snapshot = snapshot(&[&tap]);
    let bytes = frame(100);
    incoming_frame(&snapshot, 0, CapturePoint::Port(PORT), &bytes).end(&snapshot, 0, None);
    let message = Message { pieces: 0..1, to: To::Bound, segment: 0, tos: 0 };
    let pieces = std::iter::once(0..bytes.len()).collect::<Vec<_>>();
    outgoing(&snapshot, 0, &bytes, (Target::Port(PORT), &[message], &pieces));
    let seen = read(&tap);
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].octets[..], seen[0].original as usize), (&bytes[..20], bytes.len()));
}

#[test]
fn what_does_not_fit_the_ring_is_counted_and_told_with_the_next_packet() {
    let tap = tap(CapturePoint::Port(PORT), "");
    let snapshot = snapshot(&[&tap]);
    let bytes = frame(60_000);
    for _ in 0..200 {
        incoming_frame(&snapshot, 0, CapturePoint::Port(PORT), &bytes).end(&snapshot, 0, None);
    }
    let mut capture = Capture { tap: Arc::clone(&tap), dataplane: Weak::new(), told: vec![0] };
    let (kept, lost) = (capture.read().len(), capture.lost());
    assert!(kept > 60 && kept as u64 + lost == 200, "{kept} kept, {lost} lost");
    incoming_frame(&snapshot, 0, CapturePoint::Port(PORT), &bytes).end(&snapshot, 0, None);
    let next = capture.read();
    assert_eq!((next.len(), next[0].lost), (1, lost));
    assert_eq!(next[0].octets, bytes);
}

fn labelled(payload: usize) -> Vec<u8> {
    [&[0, 0x01, 0x01, 64][..], &frame(payload)[14..]].concat()
}

/// Whether an outer header and what follows it add up: lengths and checksums.
fn assert_sound(octets: &[u8]) {
    use dataplane_core::checksum::{checksum, fold, pseudo_header, sum};
    let word = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
    let (at, length) = if octets[0] >> 4 == 4 {
        assert_eq!(checksum(&octets[..20]), 0);
        (20, usize::from(word(2)))
    } else {
        (40, usize::from(word(4)) + 40)
    };
    assert_eq!(length, octets.len());
    let protocol = if at == 20 { octets[9] } else { octets[6] };
    if protocol == 17 {
        let address = |v4: usize, v6: usize| -> std::net::IpAddr {
            if at == 20 {
                <[u8; 4]>::try_from(&octets[v4..v4 + 4]).unwrap().into()
            } else {
                <[u8; 16]>::try_from(&octets[v6..v6 + 16]).unwrap().into()
            }
        };
        let (src, dst) = (address(12, 8), address(16, 24));
        let udp = &octets[at..];
        assert_eq!(usize::from(word(at + 4)), udp.len());
        assert_eq!(fold(sum(udp) + pseudo_header(src, dst, 17, udp.len())), 0xffff);
    } else {
        assert_eq!(octets[at..at + 4], [0, 0, 0x88, 0x47]);
    }
}

#[test]
fn tunnel_packets_get_an_outer_header_that_adds_up() {
    for encap in [Encap::MplsOverUdp, Encap::MplsOverGre] {
        for (src, dst) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let tap = tap(CapturePoint::Underlay, "label 16 and udp and src host 10.0.0.1");
            let snapshot = snapshot(&[&tap]);
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let ends = Ends { src, dst, ports: (50_000, 6635), tos: 0xb8, encap };
            for payload in [0, 1, 37, 1400] {
                let bytes = labelled(payload);
                incoming_tunnel(&snapshot, 0, &ends, &bytes).end(&snapshot, 0, None);
                let seen = read(&tap);
                assert_eq!(seen.len(), 1, "{encap} {src}");
                assert_sound(&seen[0].octets);
                assert!(seen[0].octets.ends_with(&bytes));
            }
        }
    }
}

#[test]
fn a_gathered_message_is_seen_as_the_datagrams_that_the_kernel_makes_of_it() {
    let address = "127.0.0.1".parse().unwrap();
    let (kept, bell) = (crate::adopt::Kept::default(), Arc::new(Bell::new().unwrap()));
    let plan = Plan { workers: 0, entropy_ports: 1, buffer: 1 << 16, kept: &kept, bell: &bell, without: &[] };
    let Ok((underlay, _)) = Underlay::open(address, plan) else {
        return eprintln!("skipped: the ports for tunnels cannot be opened here");
    };
    let tap = tap(CapturePoint::Underlay, "label 16");
    let port = underlay.pool_port(0);
    let snapshot = Snapshot { underlay: Some(Arc::new(underlay)), ..snapshot(&[&tap]) };
    let (one, last) = (labelled(101), labelled(13));
    let memory = [&one[..], &one, &one, &last].concat();
    // Pieces of any length: what counts is where the kernel cuts.
    let cuts = [0, 3, 50, one.len(), one.len() + 60, memory.len()];
    let pieces: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    let to = To::Address("127.0.0.9".parse().unwrap(), 6635);
    let segment = u16::try_from(one.len()).unwrap();
    let message = Message { pieces: 0..pieces.len(), to, segment, tos: 2 };
    outgoing(&snapshot, 0, &memory, (Target::Udp(0), &[message], &pieces));
    let seen = read(&tap);
    let ends: Vec<&[u8]> = seen.iter().map(|packet| &packet.octets[28..]).collect();
    assert_eq!(ends, [&one[..], &one, &one, &last]);
    for packet in &seen {
        assert_sound(&packet.octets);
        assert_eq!(packet.octets[20..22], port.to_be_bytes());
        assert_eq!((packet.octets[1], packet.direction), (2, Direction::Out));
    }
}
