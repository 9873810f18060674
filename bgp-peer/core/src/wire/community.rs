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
    fn communities_print_as_operators_write_them() {
        let octets = [0xff, 0xff, 0, 6, 0xfd, 0xe8, 0, 1];
        assert_eq!(communities(&octets).map(|c| c.to_string()).collect::<Vec<_>>(), ["65535:6", "65000:1"]);
        let octets = [0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(large_communities(&octets).map(|c| c.to_string()).collect::<Vec<_>>(), ["65000:1:2"]);
    }
}
