//! Capture files as Wireshark reads them (draft-ietf-opsawg-pcapng): one section, one interface, packets, statistics.
//!
//! ```text
//!  │ type │ length │ body …, options … │ length │        every block; a multiple of four octets
//!  section header ─ interface description ─ enhanced packet * ─ interface statistics
//! ```
//! Little-endian throughout, times in nanoseconds. [`Blocks`] cuts a stream into blocks without trusting it.

/// Ethernet frames.
pub const LINK_ETHERNET: u16 = 1;
/// IPv4 or IPv6 packets, without a link header.
pub const LINK_RAW_IP: u16 = 101;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Options (by block type).
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const TIME_RESOLUTION: u16 = 9;
const FILTER: u16 = 11;
const PACKET_FLAGS: u16 = 2;
const PACKET_DROPS: u16 = 4;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// No block of ours is longer; neither are those that [`Blocks`] takes.
const MAX_BLOCK: usize = 1 << 20;

/// The interface of a file.
#[derive(Debug, Clone, Copy)]
pub struct Interface<'a> {
    /// [`LINK_ETHERNET`] or [`LINK_RAW_IP`].
    pub link: u16,
    /// Octets kept of each packet.
    pub snaplen: u32,
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub description: &'a str,
    /// What a reader should know of the packets.
    pub comment: &'a str,
    /// Which packets were wanted, if not all.
    pub filter: Option<&'a str>,
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// When, in nanoseconds since 1970.
    pub at_ns: u64,
    /// Whether it arrived, as opposed to leaving.
    pub inbound: bool,
    /// Its length on the wire.
    pub original: u32,
    /// What was kept of it.
    pub octets: &'a [u8],
    /// Packets that were lost between the one before and this one.
    pub lost: u64,
    /// What there is to say about it.
    pub comment: Option<&'a str>,
}

/// Begins a file.
pub fn begin(out: &mut Vec<u8>, application: &str, interface: &Interface<'_>) {
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        // Version 1.0, of unknown length.
        out.extend([1, 0, 0, 0]);
        out.extend(u64::MAX.to_le_bytes());
        option(out, APPLICATION, application.as_bytes());
        end_of_options(out);
    });
    block(out, INTERFACE, |out| {
        out.extend(interface.link.to_le_bytes());
        out.extend([0, 0]);
        out.extend(interface.snaplen.to_le_bytes());
        option(out, NAME, interface.name.as_bytes());
        option(out, DESCRIPTION, interface.description.as_bytes());
        option(out, COMMENT, interface.comment.as_bytes());
        option(out, TIME_RESOLUTION, &[9]);
        if let Some(filter) = interface.filter {
            // Zero: a filter in words.
            option(out, FILTER, &[&[0], filter.as_bytes()].concat());
        }
        end_of_options(out);
    });
}

/// Adds a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, PACKET, |out| {
        out.extend([0; 4]);
        time(out, packet.at_ns);
        out.extend(length(packet.octets.len()).to_le_bytes());
        out.extend(packet.original.to_le_bytes());
        out.extend(packet.octets);
        pad(out, packet.octets.len());
        let flags = if packet.inbound { INBOUND } else { OUTBOUND };
        option(out, PACKET_FLAGS, &flags.to_le_bytes());
        if packet.lost > 0 {
            option(out, PACKET_DROPS, &packet.lost.to_le_bytes());
        }
        if let Some(comment) = packet.comment {
            option(out, COMMENT, comment.as_bytes());
        }
        end_of_options(out);
    });
}

/// Ends a file, as far as one ends: how many packets were seen and how many lost.
pub fn statistics(out: &mut Vec<u8>, at_ns: u64, received: u64, lost: u64) {
    block(out, STATISTICS, |out| {
        out.extend([0; 4]);
        time(out, at_ns);
        option(out, RECEIVED, &received.to_le_bytes());
        option(out, DROPPED, &lost.to_le_bytes());
        end_of_options(out);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let total = length(out.len() - start + 4).to_le_bytes();
    out.extend(total);
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&total);
    }
}

/// High word first, each little-endian.
fn time(out: &mut Vec<u8>, at_ns: u64) {
    let [a, b, c, d, e, f, g, h] = at_ns.to_le_bytes();
    out.extend([e, f, g, h, a, b, c, d]);
}

/// Longer texts are cut: what matters of them stands at their beginning.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..value.len().min(1024)).unwrap_or_default();
    out.extend(code.to_le_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.extend(std::iter::repeat_n(0, len.next_multiple_of(4) - len));
}

fn length(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}

/// What a stream holds that is no capture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is no capture file")]
pub struct NotPcapng;

/// What a block is, for whoever passes blocks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet, before which so many were lost.
    Packet {
        /// How many.
        lost: u64,
    },
    /// The end: so many were lost in all, those behind the last packet among them.
    Statistics {
        /// How many.
        lost: u64,
    },
    /// Anything else.
    Other,
}

/// Cuts a stream into blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    octets: Vec<u8>,
    used: usize,
}

impl Blocks {
    /// Takes what came.
    pub fn push(&mut self, octets: &[u8]) {
        self.octets.drain(..std::mem::take(&mut self.used));
        self.octets.extend(octets);
    }

    /// The next complete block; `None`: more must come first.
    pub fn next_block(&mut self) -> Result<Option<(Kind, &[u8])>, NotPcapng> {
        let rest = self.octets.get(self.used..).unwrap_or_default();
        let (Some(kind), Some(total)) = (word(rest, 0), word(rest, 4)) else { return Ok(None) };
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        if !(12..=MAX_BLOCK).contains(&total) || total % 4 != 0 {
            return Err(NotPcapng);
        }
        let Some(block) = rest.get(..total) else { return Ok(None) };
        if word(block, total - 4) != word(block, 4) {
            return Err(NotPcapng);
        }
        self.used += total;
        let kind = match kind {
            PACKET => {
                let kept = word(block, 20).and_then(|kept| usize::try_from(kept).ok());
                let options = kept.and_then(|kept| kept.checked_next_multiple_of(4)?.checked_add(28));
                Kind::Packet {
                    lost: options.and_then(|at| number(block, at, PACKET_DROPS)).ok_or(NotPcapng)?,
                }
            }
            STATISTICS => Kind::Statistics { lost: number(block, 20, DROPPED).ok_or(NotPcapng)? },
            _ => Kind::Other,
        };
        Ok(Some((kind, block)))
    }
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..at + 4)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// The number that a block's options give under a code, zero where they do not. `None` where the block does not add up.
fn number(block: &[u8], options: usize, wanted: u16) -> Option<u64> {
    let mut options = block.get(options..block.len().checked_sub(4)?)?;
    while let [c0, c1, l0, l1, rest @ ..] = options {
        let (code, len) = (u16::from_le_bytes([*c0, *c1]), usize::from(u16::from_le_bytes([*l0, *l1])));
        let value = rest.get(..len)?;
        match code {
            0 => return Some(0),
            code if code == wanted => return value.first_chunk().map(|number| u64::from_le_bytes(*number)),
            _ => options = rest.get(len.next_multiple_of(4)..)?,
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACE: Interface<'static> = Interface {
        link: LINK_ETHERNET,
        snaplen: 100,
        name: "vr1",
        description: "port 1",
        comment: "",
        filter: Some("tcp"),
    };

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, "test", &INTERFACE);
        for (octets, lost, comment) in
            [(&b"abc"[..], 0, None), (b"defgh", 9, Some("dropped")), (b"", 0, None)]
        {
            let at_ns = 0x0102_0304_0506_0708;
            packet(&mut out, &Packet { at_ns, inbound: true, original: 77, octets, lost, comment });
        }
        statistics(&mut out, 1, 3, 11);
        out
    }

    fn kinds(file: &[u8], step: usize) -> Result<Vec<Kind>, NotPcapng> {
        let (mut blocks, mut kinds, mut whole) = (Blocks::default(), Vec::new(), Vec::new());
        for chunk in file.chunks(step) {
            blocks.push(chunk);
            while let Some((kind, block)) = blocks.next_block()? {
                kinds.push(kind);
                whole.extend(block);
            }
        }
        assert!(file.starts_with(&whole));
        Ok(kinds)
    }

    #[test]
    fn blocks_are_found_however_the_stream_is_cut() {
        let packet = |lost| Kind::Packet { lost };
        let wanted =
            [Kind::Other, Kind::Other, packet(0), packet(9), packet(0), Kind::Statistics { lost: 11 }];
        for step in [1, 3, 4, 64, 1 << 20] {
            assert_eq!(kinds(&file(), step).unwrap(), wanted, "{step}");
        }
    }

    #[test]
    fn numbers_stand_where_the_format_has_them() {
        let file = file();
        assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
        assert_eq!(file[8..12], [0x4d, 0x3c, 0x2b, 0x1a]);
        assert_eq!(file.len() % 4, 0);
        let mut blocks = Blocks::default();
        blocks.push(&file);
        (0..2).for_each(|_| assert!(blocks.next_block().unwrap().is_some()));
        let (_, block) = blocks.next_block().unwrap().unwrap();
        assert_eq!(block[12..20], [4, 3, 2, 1, 8, 7, 6, 5], "time, high word first");
        assert_eq!(block[20..32], [3, 0, 0, 0, 77, 0, 0, 0, b'a', b'b', b'c', 0]);
        assert_eq!(block[32..40], [2, 0, 4, 0, 1, 0, 0, 0], "inbound");
    }

    #[test]
    fn what_is_no_capture_file_is_refused_and_nothing_panics() {
        let good = file();
        assert_eq!(kinds(b"HTTP/1.1 200 OK\r\n\r\n", 64), Err(NotPcapng));
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = kinds(&bad, 64);
            }
            assert!(kinds(&good[..at], 64).is_ok(), "what is not complete is no mistake yet");
        }
    }
}
