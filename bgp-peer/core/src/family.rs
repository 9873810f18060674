use std::fmt;

/// An address family that this speaker can carry: AFI and SAFI as IANA numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 1/1.
    Ipv4Unicast,
    /// 2/1.
    Ipv6Unicast,
    /// 1/128: labelled IPv4 behind a route distinguisher (RFC 4364).
    Vpnv4,
    /// 2/128: labelled IPv6 behind a route distinguisher (RFC 4659).
    Vpnv6,
    /// 1/132: route target membership (RFC 4684), for route targets of VPN routes of both IP families.
    Rtc,
}

impl Family {
    /// Every family there is. Route target membership comes first, because it decides what the others need to send.
    pub const ALL: [Family; 5] =
        [Family::Rtc, Family::Vpnv4, Family::Vpnv6, Family::Ipv4Unicast, Family::Ipv6Unicast];

    /// The family of these code points, if it is one of ours.
    pub const fn from_code(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4Unicast),
            (2, 1) => Some(Family::Ipv6Unicast),
            (1, 128) => Some(Family::Vpnv4),
            (2, 128) => Some(Family::Vpnv6),
            (1, 132) => Some(Family::Rtc),
            _ => None,
        }
    }

    /// AFI and SAFI.
    pub const fn code(self) -> (u16, u8) {
        match self {
            Family::Ipv4Unicast => (1, 1),
            Family::Ipv6Unicast => (2, 1),
            Family::Vpnv4 => (1, 128),
            Family::Vpnv6 => (2, 128),
            Family::Rtc => (1, 132),
        }
    }

    /// What an operator types: `vpnv4`, `vpnv6`, `rtc`, `ipv4`, `ipv6`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4Unicast => "ipv4",
            Family::Ipv6Unicast => "ipv6",
            Family::Vpnv4 => "vpnv4",
            Family::Vpnv6 => "vpnv6",
            Family::Rtc => "rtc",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address family (want vpnv4, vpnv6, rtc, ipv4 or ipv6)")]
pub struct ParseFamilyError(String);

impl std::str::FromStr for Family {
    type Err = ParseFamilyError;

    fn from_str(text: &str) -> Result<Family, ParseFamilyError> {
        Family::ALL
            .into_iter()
            .find(|family| family.name() == text)
            .ok_or_else(|| ParseFamilyError(text.chars().take(32).collect()))
    }
}

/// A set of families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FamilySet(u8);

impl FamilySet {
    /// No family.
    pub const EMPTY: FamilySet = FamilySet(0);
    /// What a provider edge speaks unless its configuration says otherwise: VPNv4, VPNv6 and route target membership.
    pub const L3VPN: FamilySet = FamilySet(Family::Vpnv4.bit() | Family::Vpnv6.bit() | Family::Rtc.bit());

    /// Adds one.
    pub fn insert(&mut self, family: Family) {
        self.0 |= family.bit();
    }

    /// Whether it holds this one.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & family.bit() != 0
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in both.
    #[must_use]
    pub const fn intersection(self, other: FamilySet) -> FamilySet {
        FamilySet(self.0 & other.0)
    }

    /// Those in the set, in the order of [`Family::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> FamilySet {
        let mut set = FamilySet::EMPTY;
        families.into_iter().for_each(|family| set.insert(family));
        set
    }
}

impl fmt::Debug for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_and_names_round_trip() {
        for family in Family::ALL {
            let (afi, safi) = family.code();
            assert_eq!(Family::from_code(afi, safi), Some(family));
            assert_eq!(family.name().parse(), Ok(family));
        }
        assert_eq!(Family::from_code(2, 129), None);
        assert!("vpnv5".parse::<Family>().is_err());
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for family in Family::ALL {
            let set = FamilySet::from_iter([family]);
            assert_eq!(set.iter().collect::<Vec<_>>(), [family]);
        }
        assert!(FamilySet::EMPTY.is_empty());
        assert!(FamilySet::L3VPN.intersection(FamilySet::from_iter([Family::Ipv4Unicast])).is_empty());
    }
}
