//! COMMUNITIES (RFC 1997) and LARGE_COMMUNITY (RFC 8092), read in place.

use std::fmt;

/// A community of four octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl Community {
    /// Not to another AS (RFC 1997).
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// Not to anyone (RFC 1997).
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Not to another AS, nor to another member of a confederation (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
    /// Kept although its origin has been away for long (RFC 9494 §4.3).
    pub const LLGR_STALE: Community = Community(0xffff_0006);
    /// Not to be kept like that (RFC 9494 §4.3).
    pub const NO_LLGR: Community = Community(0xffff_0007);
}

/// The text is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no {1}")]
pub struct ParseCommunityError(String, &'static str);

impl std::str::FromStr for Community {
    type Err = ParseCommunityError;

    /// `64512:1`, or one of the names of RFC 1997 and RFC 9494.
    fn from_str(text: &str) -> Result<Community, ParseCommunityError> {
        let numbers = || {
            let (high, low) = text.split_once(':')?;
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(Community(u32::from(high) << 16 | u32::from(low)))
        };
        match text {
            "no-export" => Ok(Community::NO_EXPORT),
            "no-advertise" => Ok(Community::NO_ADVERTISE),
            "no-export-subconfed" => Ok(Community::NO_EXPORT_SUBCONFED),
            "llgr-stale" => Ok(Community::LLGR_STALE),
            "no-llgr" => Ok(Community::NO_LLGR),
            _ => numbers().ok_or_else(|| {
                ParseCommunityError(shorten(text), "community (want 64512:1, no-export, no-advertise …)")
            }),
        }
    }
}

impl std::str::FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    /// `64512:1:2`.
    fn from_str(text: &str) -> Result<LargeCommunity, ParseCommunityError> {
        let mut numbers = text.split(':').map(|number| number.parse::<u32>().ok());
        match [numbers.next(), numbers.next(), numbers.next(), numbers.next()] {
            [Some(Some(a)), Some(Some(b)), Some(Some(c)), None] => Ok(LargeCommunity([a, b, c])),
            _ => Err(ParseCommunityError(shorten(text), "large community (want 64512:1:2)")),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(48).collect()
}

/// A community of twelve octets: global administrator and two numbers of its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub [u32; 3]);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [administrator, one, two] = self.0;
        write!(f, "{administrator}:{one}:{two}")
    }
}

/// The communities of a COMMUNITIES attribute.
pub fn communities(octets: &[u8]) -> impl Iterator<Item = Community> {
    octets.as_chunks::<4>().0.iter().map(|octets| Community(u32::from_be_bytes(*octets)))
}

/// The communities of a LARGE_COMMUNITY attribute.
pub fn large_communities(octets: &[u8]) -> impl Iterator<Item = LargeCommunity> {
    octets.as_chunks::<12>().0.iter().map(|[a, b, c, d, e, f, g, h, i, j, k, l]| {
        LargeCommunity([[*a, *b, *c, *d], [*e, *f, *g, *h], [*i, *j, *k, *l]].map(u32::from_be_bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_operators_write_them() {
        assert_eq!("65000:1".parse(), Ok(Community(65000 << 16 | 1)));
        assert_eq!("no-export".parse(), Ok(Community::NO_EXPORT));
        assert_eq!("65000:1:2".parse(), Ok(LargeCommunity([65000, 1, 2])));
        for wrong in ["", "1", "65536:1", "1:65536", "1:2:3", "a:b", "no-such"] {
            assert!(wrong.parse::<Community>().is_err(), "{wrong}");
        }
        for wrong in ["", "1:2", "1:2:3:4", "4294967296:1:1", "1:2:x"] {
            assert!(wrong.parse::<LargeCommunity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn communities_print_as_operators_write_them() {
        let octets = [0xff, 0xff, 0, 6, 0xfd, 0xe8, 0, 1];
        assert_eq!(communities(&octets).map(|c| c.to_string()).collect::<Vec<_>>(), ["65535:6", "65000:1"]);
        let octets = [0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(large_communities(&octets).map(|c| c.to_string()).collect::<Vec<_>>(), ["65000:1:2"]);
    }
}
