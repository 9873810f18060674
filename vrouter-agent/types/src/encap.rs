use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// How a labelled packet travels to another provider edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encap {
    /// MPLS in UDP, destination port 6635 (RFC 7510).
    MplsOverUdp,
    /// MPLS in GRE, protocol 0x8847, four-octet header (RFC 4023).
    MplsOverGre,
}

/// The name of an encapsulation is `mpls-over-udp` or `mpls-over-gre`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no encapsulation (want \"mpls-over-udp\" or \"mpls-over-gre\")")]
pub struct ParseEncapError(String);

impl Encap {
    /// Every encapsulation there is.
    pub const ALL: [Encap; 2] = [Encap::MplsOverUdp, Encap::MplsOverGre];

    /// Octets between the outer IP header and the inner packet: UDP (8) or GRE (4), and one label (4).
    pub const fn overhead(self) -> u16 {
        match self {
            Encap::MplsOverUdp => 12,
            Encap::MplsOverGre => 8,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Encap::MplsOverUdp => 1,
            Encap::MplsOverGre => 2,
        }
    }
}

impl FromStr for Encap {
    type Err = ParseEncapError;

    fn from_str(text: &str) -> Result<Encap, ParseEncapError> {
        match text {
            "mpls-over-udp" => Ok(Encap::MplsOverUdp),
            "mpls-over-gre" => Ok(Encap::MplsOverGre),
            _ => Err(ParseEncapError(text.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Encap::MplsOverUdp => "mpls-over-udp",
            Encap::MplsOverGre => "mpls-over-gre",
        })
    }
}

serde_as_text!(Encap);

/// A set of encapsulations: what a route's communities name, or what an operator allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EncapSet(u8);

impl EncapSet {
    /// No encapsulation: on a received route, "none was named".
    pub const EMPTY: EncapSet = EncapSet(0);

    /// Adds one.
    pub fn insert(&mut self, encap: Encap) {
        self.0 |= encap.bit();
    }

    /// Whether it holds this one.
    pub const fn contains(self, encap: Encap) -> bool {
        self.0 & encap.bit() != 0
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Encap> {
        Encap::ALL.into_iter().filter(move |encap| self.contains(*encap))
    }
}

impl FromIterator<Encap> for EncapSet {
    fn from_iter<I: IntoIterator<Item = Encap>>(encaps: I) -> EncapSet {
        let mut set = EncapSet::EMPTY;
        encaps.into_iter().for_each(|encap| set.insert(encap));
        set
    }
}

impl fmt::Debug for EncapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl serde::Serialize for EncapSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> serde::Deserialize<'de> for EncapSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<EncapSet, D::Error> {
        Ok(Vec::<Encap>::deserialize(deserializer)?.into_iter().collect())
    }
}
