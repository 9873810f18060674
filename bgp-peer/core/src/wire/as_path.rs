//! AS_PATH and AS4_PATH: segments of AS numbers (RFC 4271 §4.3, RFC 6793).
//!
//! ```text
//! | type (1): 1 set, 2 sequence | count (1) | count AS numbers of 2 or 4 octets | …
//! ```
//! Confederation segments (RFC 5065) are refused: this speaker is in no confederation, so nobody may send them to it.

use vrouter_types::Asn;

/// The octets of a path that has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsPath<'a> {
    octets: &'a [u8],
    as4: bool,
}

/// Why a path is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AsPathError {
    /// A type other than set and sequence.
    #[error("segment type {0}")]
    SegmentType(u8),
    /// A segment without AS numbers.
    #[error("empty segment")]
    EmptySegment,
    /// The attribute ends inside a segment.
    #[error("segment passes the end")]
    Truncated,
    /// AS number 0 (RFC 7607).
    #[error("AS 0")]
    AsZero,
}

impl<'a> AsPath<'a> {
    /// The path of a route that has not left its AS.
    pub const EMPTY: AsPath<'static> = AsPath { octets: &[], as4: true };

    /// Checks the octets. `as4`: AS numbers take four octets.
    pub fn new(octets: &'a [u8], as4: bool) -> Result<AsPath<'a>, AsPathError> {
        let width = width(as4);
        let mut rest = octets;
        while let [kind, count, tail @ ..] = rest {
            if !matches!(*kind, SET | SEQUENCE) {
                return Err(AsPathError::SegmentType(*kind));
            }
            if *count == 0 {
                return Err(AsPathError::EmptySegment);
            }
            let (numbers, tail) =
                tail.split_at_checked(usize::from(*count) * width).ok_or(AsPathError::Truncated)?;
            if numbers.chunks_exact(width).any(|number| number.iter().all(|octet| *octet == 0)) {
                return Err(AsPathError::AsZero);
            }
            rest = tail;
        }
        if rest.is_empty() { Ok(AsPath { octets, as4 }) } else { Err(AsPathError::Truncated) }
    }

    /// Its segments: whether a set, and the AS numbers.
    pub fn segments(self) -> impl Iterator<Item = (bool, AsNumbers<'a>)> {
        let mut rest = self.octets;
        std::iter::from_fn(move || {
            let [kind, count, tail @ ..] = rest else { return None };
            let (numbers, tail) = tail.split_at_checked(usize::from(*count) * width(self.as4))?;
            rest = tail;
            Some((*kind == SET, AsNumbers { octets: numbers, as4: self.as4 }))
        })
    }

    /// Every AS number in it.
    pub fn numbers(self) -> impl Iterator<Item = Asn> + use<'a> {
        self.segments().flat_map(|(_, numbers)| numbers)
    }

    /// Length as route selection counts it: a set counts one (RFC 4271 §9.1.2.2 a).
    pub fn length(self) -> u32 {
        self.segments().map(|(is_set, numbers)| if is_set { 1 } else { numbers.count_left() }).sum()
    }

    /// The AS that the route came from last: the first number of a leading sequence.
    pub fn first(self) -> Option<Asn> {
        let (is_set, mut numbers) = self.segments().next()?;
        if is_set { None } else { numbers.next() }
    }

    /// Appends the path in four octets per number.
    pub fn encode_as4(self, out: &mut Vec<u8>) {
        for (is_set, numbers) in self.segments() {
            put_segment(is_set, numbers, out);
        }
    }

    /// Appends the path in two octets per number, AS_TRANS for those that do not fit. True: some did not.
    pub fn encode_as2(self, out: &mut Vec<u8>) -> bool {
        let mut lost = false;
        for (is_set, numbers) in self.segments() {
            out.push(if is_set { SET } else { SEQUENCE });
            out.push(u8::try_from(numbers.count_left()).unwrap_or(u8::MAX));
            for number in numbers {
                lost |= number.0 > u32::from(u16::MAX);
                out.extend_from_slice(&number.to_two_octets().to_be_bytes());
            }
        }
        lost
    }

    /// Appends, in four octets per number, this two-octet path with its tail replaced by the AS4_PATH (RFC 6793 §4.2.3):
    /// the leading numbers that the AS4_PATH lacks, then the AS4_PATH. A longer AS4_PATH is ignored.
    pub fn encode_merged(self, as4_path: AsPath<'_>, out: &mut Vec<u8>) {
        let Some(mut lacking) = self.length().checked_sub(as4_path.length()) else {
            return self.encode_as4(out);
        };
        for (is_set, mut numbers) in self.segments() {
            if lacking == 0 {
                break;
            }
            if is_set {
                lacking -= 1;
                put_segment(true, numbers, out);
            } else {
                let taken = lacking.min(numbers.count_left());
                lacking -= taken;
                numbers.truncate(taken);
                put_segment(false, numbers, out);
            }
        }
        as4_path.encode_as4(out);
    }
}

impl std::fmt::Display for AsPath<'_> {
    /// As routers print it: numbers between blanks, sets in braces.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (is_set, numbers)) in self.segments().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            if is_set {
                f.write_str("{")?;
            }
            for (m, number) in numbers.enumerate() {
                if m > 0 {
                    f.write_str(if is_set { "," } else { " " })?;
                }
                write!(f, "{number}")?;
            }
            if is_set {
                f.write_str("}")?;
            }
        }
        Ok(())
    }
}

/// The AS numbers of one segment.
#[derive(Debug, Clone, Copy)]
pub struct AsNumbers<'a> {
    octets: &'a [u8],
    as4: bool,
}

impl AsNumbers<'_> {
    fn count_left(&self) -> u32 {
        u32::try_from(self.octets.len() / width(self.as4)).unwrap_or(u32::MAX)
    }

    fn truncate(&mut self, count: u32) {
        let octets = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(width(self.as4));
        self.octets = self.octets.get(..octets).unwrap_or(self.octets);
    }
}

impl Iterator for AsNumbers<'_> {
    type Item = Asn;

    fn next(&mut self) -> Option<Asn> {
        let (number, rest) = self.octets.split_at_checked(width(self.as4))?;
        self.octets = rest;
        match number {
            [a, b] => Some(Asn(u32::from(u16::from_be_bytes([*a, *b])))),
            [a, b, c, d] => Some(Asn(u32::from_be_bytes([*a, *b, *c, *d]))),
            _ => None,
        }
    }
}

fn put_segment(is_set: bool, numbers: AsNumbers<'_>, out: &mut Vec<u8>) {
    out.push(if is_set { SET } else { SEQUENCE });
    out.push(u8::try_from(numbers.count_left()).unwrap_or(u8::MAX));
    numbers.for_each(|number| out.extend_from_slice(&number.0.to_be_bytes()));
}

const fn width(as4: bool) -> usize {
    if as4 { 4 } else { 2 }
}

const SET: u8 = 1;
const SEQUENCE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(octets: &[u8]) -> String {
        AsPath::new(octets, true).unwrap().to_string()
    }

    #[test]
    fn malformed_paths_are_refused() {
        use AsPathError::*;
        for (octets, error) in [
            (&[5, 1, 0, 0, 0, 1][..], SegmentType(5)),
            (&[3, 1, 0, 0, 0, 1], SegmentType(3)),
            (&[2, 0], EmptySegment),
            (&[2, 2, 0, 0, 0, 1], Truncated),
            (&[2], Truncated),
            (&[2, 1, 0, 0, 0, 0], AsZero),
        ] {
            assert_eq!(AsPath::new(octets, true), Err(error), "{octets:?}");
        }
    }

    #[test]
    fn a_set_counts_one() {
        let octets = [2, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        let path = AsPath::new(&octets, true).unwrap();
        assert_eq!(path.length(), 3);
        assert_eq!(path.first(), Some(Asn(1)));
        assert_eq!(text(&octets), "1 2 {3,4}");
    }

    #[test]
    fn merging_restores_the_numbers_that_two_octets_lost() {
        let old = [2, 3, 0, 10, 0x5b, 0xa0, 0x5b, 0xa0];
        let new = [2, 2, 0xfa, 0x56, 0xea, 0, 0xfa, 0x56, 0xea, 1];
        let mut out = Vec::new();
        AsPath::new(&old, false).unwrap().encode_merged(AsPath::new(&new, true).unwrap(), &mut out);
        assert_eq!(text(&out), "10 4200000000 4200000001");
    }

    #[test]
    fn an_as4_path_longer_than_the_path_is_ignored() {
        let old = [2, 1, 0, 10];
        let new = [2, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let mut out = Vec::new();
        AsPath::new(&old, false).unwrap().encode_merged(AsPath::new(&new, true).unwrap(), &mut out);
        assert_eq!(text(&out), "10");
    }

    #[test]
    fn two_octets_say_as_trans_for_what_does_not_fit() {
        let octets = [2, 2, 0, 0, 0xfd, 0xe8, 0, 1, 0, 0];
        let mut out = Vec::new();
        assert!(AsPath::new(&octets, true).unwrap().encode_as2(&mut out));
        assert_eq!(out, [2, 2, 0xfd, 0xe8, 0x5b, 0xa0]);
    }
}
