//! Graceful restart in an OPEN: capabilities 64 (RFC 4724 §3, RFC 8538 §2) and 71 (RFC 9494 §3).
//!
//! ```text
//!  64  | R N · ·  restart time (12 bits) |  then for each family: | AFI (2) | SAFI (1) | F · · · · · · · |
//!  71                                       for each family: | AFI (2) | SAFI (1) | F · … | stale time (3) |
//! ```
//! R: the sender has restarted. N: a NOTIFICATION need not end what is kept. F: forwarding went on meanwhile. Families
//! that we do not carry are passed over; lengths that cannot be are refused.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::capability::{Capability, GRACEFUL_RESTART, LONG_LIVED_GRACEFUL_RESTART};
use crate::{Family, FamilySet};

/// What one end says about its restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// R: it has just restarted, and nobody need wait for its End-of-RIB.
    pub restarting: bool,
    /// N: a NOTIFICATION other than a hard reset ends the session and not the routes (RFC 8538 §2).
    pub notification: bool,
    /// How long it may be away, in seconds: at most 4,095.
    pub restart_time: u16,
    /// Families whose routes are worth keeping.
    pub families: FamilySet,
    /// Those of them whose forwarding went on meanwhile: F.
    pub forwarding_kept: FamilySet,
    /// Families whose routes are worth keeping for longer (RFC 9494). They mean nothing without capability 64.
    pub long_lived: Vec<LongLived>,
}

/// A family in capability 71.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongLived {
    /// Which.
    pub family: Family,
    /// F: forwarding went on meanwhile.
    pub forwarding_kept: bool,
    /// How long its routes are worth keeping once the restart time is over, in seconds: at most 16,777,215.
    pub stale_time: u32,
}

impl GracefulRestart {
    /// Capability 64, and 71 where there is something to say in it.
    pub fn capabilities(&self) -> impl Iterator<Item = Capability> {
        let mut value = BytesMut::new();
        let flags =
            if self.restarting { RESTARTING } else { 0 } | if self.notification { NOTIFICATION } else { 0 };
        value.put_u16(flags | self.restart_time.min(MAX_RESTART_TIME));
        for family in self.families.iter() {
            put_family(&mut value, family, self.forwarding_kept.contains(family));
        }
        let short = Capability { code: GRACEFUL_RESTART, value: value.freeze() };
        let mut value = BytesMut::new();
        for entry in &self.long_lived {
            put_family(&mut value, entry.family, entry.forwarding_kept);
            let [_, high, middle, low] = entry.stale_time.min(MAX_STALE_TIME).to_be_bytes();
            value.put_slice(&[high, middle, low]);
        }
        let long = (!value.is_empty())
            .then(|| Capability { code: LONG_LIVED_GRACEFUL_RESTART, value: value.freeze() });
        std::iter::once(short).chain(long)
    }

    /// Reads the value of capability 64. `None`: not a length that it can have.
    pub(super) fn decode(value: &[u8]) -> Option<GracefulRestart> {
        let (&[high, low], families) = value.split_first_chunk::<2>()?;
        if !families.len().is_multiple_of(4) {
            return None;
        }
        let first = u16::from_be_bytes([high, low]);
        let mut read = GracefulRestart {
            restarting: first & RESTARTING != 0,
            notification: first & NOTIFICATION != 0,
            restart_time: first & MAX_RESTART_TIME,
            ..GracefulRestart::default()
        };
        for entry in families.chunks_exact(4) {
            let [a, b, safi, flags] = *entry else { continue };
            let Some(family) = Family::from_code(u16::from_be_bytes([a, b]), safi) else { continue };
            read.families.insert(family);
            if flags & KEPT != 0 {
                read.forwarding_kept.insert(family);
            }
        }
        Some(read)
    }
}

impl LongLived {
    /// Reads the value of capability 71: each family once, as it comes first. `None`: not a length that it can have.
    pub(super) fn decode(value: &[u8]) -> Option<Vec<LongLived>> {
        if !value.len().is_multiple_of(7) {
            return None;
        }
        let mut read: Vec<LongLived> = Vec::new();
        for entry in value.chunks_exact(7) {
            let [a, b, safi, flags, high, middle, low] = *entry else { continue };
            let Some(family) = Family::from_code(u16::from_be_bytes([a, b]), safi) else { continue };
            if read.iter().all(|known| known.family != family) {
                let stale_time = u32::from_be_bytes([0, high, middle, low]);
                read.push(LongLived { family, forwarding_kept: flags & KEPT != 0, stale_time });
            }
        }
        Some(read)
    }
}

impl fmt::Display for GracefulRestart {
    /// `graceful restart 120 s, restarted, notification, vpnv4 kept, vpnv6`: without capability 71, which has its own line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graceful restart {} s", self.restart_time)?;
        if self.restarting {
            f.write_str(", restarted")?;
        }
        if self.notification {
            f.write_str(", notification")?;
        }
        self.families.iter().try_for_each(|family| {
            write!(f, ", {family}{}", if self.forwarding_kept.contains(family) { " kept" } else { "" })
        })
    }
}

impl fmt::Display for LongLived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.forwarding_kept { " kept" } else { "" };
        write!(f, "{} {} s{kept}", self.family, self.stale_time)
    }
}

fn put_family(value: &mut BytesMut, family: Family, is_kept: bool) {
    let (afi, safi) = family.code();
    value.put_u16(afi);
    value.put_u8(safi);
    value.put_u8(if is_kept { KEPT } else { 0 });
}

/// For `show`: capability 64 or 71 in words, if its length is right.
pub(super) fn describe(code: u8, value: &Bytes) -> Option<String> {
    if code == GRACEFUL_RESTART {
        return GracefulRestart::decode(value).map(|read| read.to_string());
    }
    let entries: Vec<String> = LongLived::decode(value)?.iter().map(LongLived::to_string).collect();
    Some(format!("long-lived graceful restart {}", entries.join(", ")).trim_end().to_owned())
}

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const MAX_RESTART_TIME: u16 = 0x0fff;
const MAX_STALE_TIME: u32 = 0x00ff_ffff;
const KEPT: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::capability::Offer;

    fn everything() -> GracefulRestart {
        GracefulRestart {
            restarting: true,
            notification: true,
            restart_time: 120,
            families: FamilySet::L3VPN,
            forwarding_kept: FamilySet::from_iter([Family::Vpnv4]),
            long_lived: vec![
                LongLived { family: Family::Vpnv4, forwarding_kept: true, stale_time: 86_400 },
                LongLived { family: Family::Rtc, forwarding_kept: false, stale_time: 16_777_215 },
            ],
        }
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let quiet = GracefulRestart { families: FamilySet::L3VPN, ..GracefulRestart::default() };
        for said in [everything(), quiet, GracefulRestart::default()] {
            let capabilities: Vec<_> = said.capabilities().collect();
            assert_eq!(Offer::from_capabilities(&capabilities).unwrap().graceful, Some(said));
        }
    }

    #[test]
    fn octets_are_those_of_the_rfcs() {
        let capabilities: Vec<_> = everything().capabilities().collect();
        assert_eq!(capabilities[0].value[..6], [0xc0, 120, 0, 1, 132, 0]);
        assert_eq!(capabilities[1].value[..7], [0, 1, 128, 0x80, 0x01, 0x51, 0x80]);
        let text: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        assert_eq!(text[0], "graceful restart 120 s, restarted, notification, rtc, vpnv4 kept, vpnv6");
        assert_eq!(text[1], "long-lived graceful restart vpnv4 86400 s kept, rtc 16777215 s");
    }

    #[test]
    fn times_that_do_not_fit_are_the_longest_that_do() {
        let mut said = everything();
        (said.restart_time, said.long_lived[0].stale_time) = (u16::MAX, u32::MAX);
        let capabilities: Vec<_> = said.capabilities().collect();
        let read = Offer::from_capabilities(&capabilities).unwrap().graceful.unwrap();
        assert!(read.restarting && read.notification);
        assert_eq!((read.restart_time, read.long_lived[0].stale_time), (4095, 16_777_215));
    }

    #[test]
    fn every_wrong_length_is_refused_and_unknown_families_are_not() {
        for length in 0..64usize {
            let value = vec![0; length];
            assert_eq!(GracefulRestart::decode(&value).is_some(), length % 4 == 2, "{length}");
            assert_eq!(LongLived::decode(&value).is_some(), length % 7 == 0, "{length}");
        }
        let unknown = GracefulRestart::decode(&[0, 10, 0, 25, 70, 0x80]).unwrap();
        assert!(unknown.families.is_empty() && unknown.restart_time == 10);
    }

    #[test]
    fn long_lived_alone_is_nothing() {
        let only: Vec<_> = everything().capabilities().skip(1).collect();
        assert_eq!(Offer::from_capabilities(&only).unwrap().graceful, None);
    }
}
