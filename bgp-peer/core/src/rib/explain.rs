//! Why a prefix is, or is not, where an operator looks for it.

/// Why a neighbor is not told of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdvertised {
    /// There is no usable path.
    NoRoute,
    /// The family is not in force on the session.
    FamilyOff,
    /// The neighbor said it, or its originator is the neighbor.
    OwnRoute,
    /// It came from an internal neighbor, and neither of the two is a client (RFC 4456 §6), or from another AS.
    SplitHorizon,
    /// Its IPv6 next hop cannot be said in this family (RFC 8950).
    NextHop,
    /// NO_ADVERTISE, or NO_EXPORT towards another AS (RFC 1997).
    Community,
    /// It is long-lived stale, which the neighbor does not know (RFC 9494 §4.3).
    LongLived,
    /// The neighbor announced no membership for its route targets (RFC 4684).
    NoMembership,
}

impl std::fmt::Display for NotAdvertised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            NotAdvertised::NoRoute => "no usable path",
            NotAdvertised::FamilyOff => "family not in force",
            NotAdvertised::OwnRoute => "the neighbor's own route",
            NotAdvertised::SplitHorizon => "split horizon: neither end is a client",
            NotAdvertised::NextHop => "IPv6 next hop not negotiated",
            NotAdvertised::Community => "its community forbids it",
            NotAdvertised::LongLived => "long-lived stale, which the neighbor does not know",
            NotAdvertised::NoMembership => "no membership for its route targets",
        })
    }
}
