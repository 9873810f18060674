//! A TCP stream from end to end: superframes of random sizes are cut, packets are lost, doubled and overtaken on the
//! way, what arrives is joined, and the receiver's stream must be the sender's.

use proptest::prelude::*;

use crate::reference::{ACK, Fields, PSH, TCP, TcpFields, expand};
use crate::{coalescing, segmentation};

/// What the network does to a packet.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    Overtaken,
    Marked,
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        20 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        1 => Just(Fate::Overtaken),
        1 => Just(Fate::Marked),
    ]
}

/// Sets the congestion mark (RFC 3168), as a router does.
fn mark(packet: &mut [u8]) {
    let (mut fields, _) = Fields::read(packet).unwrap();
    fields.tos |= 3;
    packet.copy_from_slice(&fields.write());
}

/// A receiver that keeps whatever fits and asks again for what is missing.
struct Receiver {
    first: u32,
    octets: Vec<Option<u8>>,
    marked: usize,
}

impl Receiver {
    fn take(&mut self, packet: &[u8]) {
        let (fields, checksum) = Fields::read(packet).unwrap();
        assert!(fields.checksum_is(checksum), "nothing wrong arrives");
        self.marked += usize::from(fields.tos & 3 == 3);
        let at = usize::try_from(fields.tcp.unwrap().seq.wrapping_sub(self.first)).unwrap();
        for (slot, octet) in self.octets[at..].iter_mut().zip(fields.payload) {
            assert!(slot.is_none_or(|before| before == octet), "an octet changed");
            *slot = Some(octet);
        }
    }

    fn missing(&self) -> Option<usize> {
        self.octets.iter().position(Option::is_none)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_stream_survives_what_networks_do(
        v6: bool, seq: u32, id: u16, mss in 100u16..1461, narrow in 200usize..1500, stamps in any::<[u8; 8]>(),
        octets in 1usize..120_000, fates in prop::collection::vec(fates(), 50..300), batch in 1usize..70,
    ) {
        let stream: Vec<u8> = (0..octets).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        let mut receiver = Receiver { first: seq, octets: vec![None; octets], marked: 0 };
        let (mut turn, mut rounds, mut marks, mut joined) = (0usize, 0usize, 0usize, 0usize);
        let len = if v6 { 16 } else { 4 };
        while let Some(from) = receiver.missing() {
            rounds += 1;
            prop_assert!(rounds < 400, "the stream stands still");
            // A flight: one superframe from the first octet that is missing.
            let end = octets.min(from + 1 + rounds * 9973 % 60_000);
            let tcp = TcpFields {
                seq: seq.wrapping_add(u32::try_from(from).unwrap()),
                ack: 1,
                flags: if end == octets { ACK | PSH } else { ACK },
                window: 700,
                options: [&[1, 1, 8, 10][..], &stamps].concat(),
                ..TcpFields::default()
            };
            let flight = Fields {
                v6, tos: 2, flow_label: 0, id: if v6 { 0 } else { id }, df: !v6, ttl: 63,
                src: vec![1; len], dst: vec![2; len], between: vec![], next: TCP, ports: (4, 5),
                tcp: Some(tcp), payload: stream[from..end].to_vec(),
            };
            let (bytes, vnet) = flight.write_superframe(mss);
            let sent = segmentation::ours(&bytes, vnet, narrow, false, 4096).unwrap();
            let mut wire: Vec<Vec<u8>> = Vec::new();
            for mut packet in sent {
                prop_assert!(packet.len() <= narrow);
                // Rounds differ, or a loss that repeats would repeat for ever.
                let fate = fates[(turn + rounds / fates.len()) % fates.len()];
                turn += 1;
                match fate {
                    Fate::Arrives => wire.push(packet),
                    Fate::Lost => {}
                    Fate::Doubled => wire.extend([packet.clone(), packet]),
                    Fate::Overtaken => wire.insert(wire.len().saturating_sub(1), packet),
                    Fate::Marked => {
                        mark(&mut packet);
                        marks += 1;
                        wire.push(packet);
                    }
                }
            }
            for batch in wire.chunks(batch) {
                let groups = coalescing::ours(batch);
                joined += batch.len() - groups.len();
                for (_, bytes, vnet) in groups {
                    expand(&bytes, &vnet).iter().for_each(|packet| receiver.take(packet));
                }
            }
        }
        let got: Option<Vec<u8>> = receiver.octets.iter().copied().collect();
        prop_assert_eq!(got, Some(stream));
        prop_assert_eq!(receiver.marked, marks, "every congestion mark arrives, and no other");
        prop_assert!(joined > 0 || octets < 20_000 || batch < 3, "superframes arrive as such");
    }
}
