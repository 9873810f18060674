//! Two connections between the same two speakers, and which of them stays (RFC 4271 §6.8, RFC 6286 §2.3).

use std::net::Ipv4Addr;

use vrouter_types::Asn;

use crate::fsm::State;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// We did.
    Outgoing,
    /// The neighbor did.
    Incoming,
}

/// What becomes of two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no collision, or it is too early to tell.
    KeepBoth,
    /// The one whose OPEN has just been read goes.
    DropThis,
    /// The other one goes.
    DropOther,
}

/// Decides when the OPEN of `this` connection has been read and the other is in the state `other`.
///
/// The connection that the speaker with the larger identifier opened stays; where the identifiers are the same, the
/// larger AS number decides. An established session is never given up for a new connection.
pub(crate) fn resolve(
    this: Direction,
    other: State,
    local: (Ipv4Addr, Asn),
    peer: (Ipv4Addr, Asn),
) -> Verdict {
    let winner = if local > peer { Direction::Outgoing } else { Direction::Incoming };
    match other {
        State::Idle | State::Connect | State::Active => Verdict::KeepBoth,
        State::Established => Verdict::DropThis,
        State::OpenConfirm if this == winner => Verdict::DropOther,
        State::OpenConfirm => Verdict::DropThis,
        // The identifier is known from this connection, so the other's OPEN need not be awaited to drop it. To drop
        // this one would be rash: the other may never get that far.
        State::OpenSent if this == winner => Verdict::DropOther,
        State::OpenSent => Verdict::KeepBoth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: (Ipv4Addr, Asn) = (Ipv4Addr::new(192, 0, 2, 1), Asn(65000));
    const HIGH: (Ipv4Addr, Asn) = (Ipv4Addr::new(192, 0, 2, 200), Asn(64000));

    #[test]
    fn both_ends_keep_the_same_connection() {
        // The connection that HIGH opened: outgoing at HIGH, incoming at LOW.
        assert_eq!(resolve(Direction::Outgoing, State::OpenConfirm, HIGH, LOW), Verdict::DropOther);
        assert_eq!(resolve(Direction::Incoming, State::OpenConfirm, LOW, HIGH), Verdict::DropOther);
        // The connection that LOW opened.
        assert_eq!(resolve(Direction::Outgoing, State::OpenConfirm, LOW, HIGH), Verdict::DropThis);
        assert_eq!(resolve(Direction::Incoming, State::OpenConfirm, HIGH, LOW), Verdict::DropThis);
    }

    #[test]
    fn same_identifier_leaves_it_to_the_as_number() {
        let (a, b) = ((LOW.0, Asn(1)), (LOW.0, Asn(2)));
        assert_eq!(resolve(Direction::Outgoing, State::OpenConfirm, b, a), Verdict::DropOther);
        assert_eq!(resolve(Direction::Outgoing, State::OpenConfirm, a, b), Verdict::DropThis);
    }

    #[test]
    fn established_stays_whoever_comes() {
        for (this, local, peer) in [(Direction::Outgoing, HIGH, LOW), (Direction::Incoming, LOW, HIGH)] {
            assert_eq!(resolve(this, State::Established, local, peer), Verdict::DropThis);
        }
    }

    #[test]
    fn no_other_connection_no_collision() {
        for other in [State::Idle, State::Connect, State::Active] {
            assert_eq!(resolve(Direction::Outgoing, other, LOW, HIGH), Verdict::KeepBoth);
        }
    }

    #[test]
    fn unheard_connection_is_only_dropped_for_the_winner() {
        assert_eq!(resolve(Direction::Outgoing, State::OpenSent, HIGH, LOW), Verdict::DropOther);
        assert_eq!(resolve(Direction::Outgoing, State::OpenSent, LOW, HIGH), Verdict::KeepBoth);
    }
}
