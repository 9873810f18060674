use std::fmt;
use std::str::FromStr;

use crate::rd::{format_admin_number, parse_admin_number};
use crate::text::serde_as_text;

/// A route target: a transitive extended community of sub-type 2 in one of three types (RFC 4360 §4, RFC 5668 §2).
/// Prints as `target:64512:100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteTarget([u8; 8]);

/// The text is not `target:administrator:number`, or a number does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no route target (want target:AS:number or target:IPv4:number, like target:64512:100)")]
pub struct ParseRouteTargetError(String);

impl RouteTarget {
    const SUB_TYPE: u8 = 0x02;

    /// The extended community if it is a route target; `None` if it is another community.
    pub const fn from_ext_community(octets: [u8; 8]) -> Option<RouteTarget> {
        match octets {
            [0..=2, Self::SUB_TYPE, ..] => Some(RouteTarget(octets)),
            _ => None,
        }
    }

    /// The eight octets of the extended community.
    pub const fn octets(self) -> [u8; 8] {
        self.0
    }
}

impl FromStr for RouteTarget {
    type Err = ParseRouteTargetError;

    fn from_str(text: &str) -> Result<RouteTarget, ParseRouteTargetError> {
        let refuse = || ParseRouteTargetError(text.chars().take(64).collect());
        let (kind, [a, b, c, d, e, g]) =
            text.strip_prefix("target:").and_then(parse_admin_number).ok_or_else(refuse)?;
        Ok(RouteTarget([kind, Self::SUB_TYPE, a, b, c, d, e, g]))
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, _, a, b, c, d, e, g] = self.0;
        // The only constructors admit types 0 to 2, which all have a text.
        let text = format_admin_number(kind, [a, b, c, d, e, g]).unwrap_or_default();
        f.pad(&format!("target:{text}"))
    }
}

serde_as_text!(RouteTarget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_types_read_and_print() {
        for (text, octets) in [
            ("target:64512:100", [0, 2, 0xfc, 0x00, 0, 0, 0, 100]),
            ("target:192.0.2.11:1", [1, 2, 192, 0, 2, 11, 0, 1]),
            ("target:4200000000:7", [2, 2, 0xfa, 0x56, 0xea, 0x00, 0, 7]),
        ] {
            let target: RouteTarget = text.parse().unwrap();
            assert_eq!(target.octets(), octets);
            assert_eq!(target.to_string(), text);
            assert_eq!(RouteTarget::from_ext_community(octets), Some(target));
        }
    }

    #[test]
    fn other_communities_are_no_route_target() {
        assert_eq!(RouteTarget::from_ext_community([0x03, 0x0c, 0, 0, 0, 0, 0, 13]), None);
        assert_eq!(RouteTarget::from_ext_community([0x40, 0x02, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(RouteTarget::from_ext_community([0x00, 0x03, 0, 0, 0, 0, 0, 1]), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["64512:100", "target:64512", "target:x:1", "target:4200000000:65536", "rt:1:1"] {
            assert!(text.parse::<RouteTarget>().is_err(), "{text}");
        }
    }
}
