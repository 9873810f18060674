//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and what partial checksums still need.

use std::net::IpAddr;

/// Words that are summed side by side.
const LANES: usize = 8;

/// The ones-complement sum of big-endian words, folded to sixteen bits. An odd last octet counts as a high one.
pub fn sum(bytes: &[u8]) -> u32 {
    // In the machine's order: the sum is the same up to a swap (RFC 1071 §2). Long runs take eight octets at a time:
    // the halves of each word are summed apart, so that no carry is lost and the compiler makes vectors of it.
    let (mut low, mut high) = ([0u64; LANES], [0u64; LANES]);
    let mut runs = bytes.chunks_exact(8 * LANES);
    for run in &mut runs {
        for ((word, low), high) in run.chunks_exact(8).zip(&mut low).zip(&mut high) {
            let mut octets = [0; 8];
            octets.copy_from_slice(word);
            let word = u64::from_ne_bytes(octets);
            *low += word & u64::from(u32::MAX);
            *high += word >> 32;
        }
    }
    let mut total: u64 = low.iter().chain(&high).sum();
    let mut words = runs.remainder().chunks_exact(4);
    for word in &mut words {
        let mut octets = [0; 4];
        octets.copy_from_slice(word);
        total += u64::from(u32::from_ne_bytes(octets));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u32::from(u16::from_be(fold64(total)))
}

/// Folds a sum of sums to sixteen bits.
pub fn fold(sum: u32) -> u16 {
    fold64(u64::from(sum))
}

/// The checksum of these bytes: the complement of their sum.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). Mixed families have none: zero.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u32 {
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        _ => return 0,
    };
    u32::from(fold64(u64::from(addresses) + u64::from(protocol) + len as u64))
}

/// The checksum after one of the words it covers changed (RFC 1624 §3, equation 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

/// Completes a partial checksum: the field at `start + offset` holds the pseudo header's sum, and the sum runs from
/// `start` to the end. `false`, and nothing is changed, where the field lies outside.
pub fn finish_partial(bytes: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = bytes.get_mut(start..) else { return false };
    if offset.checked_add(2).is_none_or(|end| end > covered.len()) {
        return false;
    }
    // Zero would say "none" in UDP (RFC 768), and 0xffff is the same number everywhere else.
    let complete = match checksum(covered) {
        0 => 0xffff,
        other => other,
    };
    covered[offset..offset + 2].copy_from_slice(&complete.to_be_bytes());
    true
}

fn fold64(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop ends below 2^16.
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn a_partial_checksum_outside_the_bytes_is_refused() {
        let mut bytes = [7; 12];
        assert!(!finish_partial(&mut bytes, 13, 0));
        assert!(!finish_partial(&mut bytes, 4, 7));
        assert!(!finish_partial(&mut bytes, 4, usize::MAX));
        assert_eq!(bytes, [7; 12]);
        assert!(finish_partial(&mut bytes, 4, 6));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_sum(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(fold(sum(&bytes)), slow_sum(&bytes));
        }

        #[test]
        fn an_updated_checksum_is_the_one_computed_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..64), at in 0usize..16, new: u16,
        ) {
            let at = (at * 2) % (bytes.len() & !1);
            // A covered field that makes the sum nonzero, as every real header has one.
            bytes[if at == 0 { 2 } else { 0 }] = 0x45;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }

        #[test]
        fn a_finished_partial_checksum_verifies(mut segment in proptest::collection::vec(any::<u8>(), 8..100)) {
            let (src, dst): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
            let pseudo = pseudo_header(src, dst, 17, segment.len());
            segment[6..8].copy_from_slice(&fold(pseudo).to_be_bytes());
            prop_assert!(finish_partial(&mut segment, 0, 6));
            prop_assert_eq!(fold(sum(&segment) + pseudo), 0xffff);
        }
    }
}
