use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Asn;
use crate::text::serde_as_text;

/// A route distinguisher (RFC 4364 §4.2), as its eight octets.
///
/// ```text
///  0                   1                   2                   3
///  +-------------------------------+-------------------------------+
///  | type (0, 1, 2)                | administrator (2 or 4 octets) …
///  +-------------------------------+-------------------------------+
///  …                               | assigned number (4 or 2)      |
///  +-------------------------------+-------------------------------+
/// ```
/// Types beyond 2 arrive from the wire and are kept; they print as hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteDistinguisher([u8; 8]);

/// The text is not `administrator:number`, or a number does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no route distinguisher (want AS:number or IPv4:number, like 64512:1 or 192.0.2.11:1)")]
pub struct ParseRdError(String);

impl RouteDistinguisher {
    /// All zero: what stands in front of next hops (RFC 4364 §4.3.2).
    pub const ZERO: RouteDistinguisher = RouteDistinguisher([0; 8]);

    /// As the wire has it. Every value is legal.
    pub const fn from_octets(octets: [u8; 8]) -> RouteDistinguisher {
        RouteDistinguisher(octets)
    }

    /// As the wire has it.
    pub const fn octets(self) -> [u8; 8] {
        self.0
    }

    /// Type 1: an IPv4 address and a number.
    pub fn from_ipv4(administrator: Ipv4Addr, number: u16) -> RouteDistinguisher {
        let [a, b, c, d] = administrator.octets();
        let [x, y] = number.to_be_bytes();
        RouteDistinguisher([0, 1, a, b, c, d, x, y])
    }
}

/// `ADMIN:NUMBER` in the three forms that route distinguishers and route targets share, as the six octets behind the
/// type field and that type (RFC 4360 §3, RFC 5668 §2).
pub(crate) fn parse_admin_number(text: &str) -> Option<(u8, [u8; 6])> {
    let (admin, number) = text.split_once(':')?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if let Ok(address) = admin.parse::<Ipv4Addr>() {
        let [a, b, c, d] = address.octets();
        let [x, y] = number.parse::<u16>().ok()?.to_be_bytes();
        return Some((1, [a, b, c, d, x, y]));
    }
    if !admin.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let asn = admin.parse::<u32>().ok()?;
    match u16::try_from(asn) {
        Ok(asn) => {
            let ([a, b], [w, x, y, z]) = (asn.to_be_bytes(), number.parse::<u32>().ok()?.to_be_bytes());
            Some((0, [a, b, w, x, y, z]))
        }
        Err(_) => {
            let ([a, b, c, d], [x, y]) = (asn.to_be_bytes(), number.parse::<u16>().ok()?.to_be_bytes());
            Some((2, [a, b, c, d, x, y]))
        }
    }
}

/// The reverse of [`parse_admin_number`]; `None` for types that have no such text.
pub(crate) fn format_admin_number(kind: u8, [a, b, c, d, e, g]: [u8; 6]) -> Option<String> {
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g]));
    match kind {
        0 => Some(format!("{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g]))),
        1 => Some(format!("{}:{low}", Ipv4Addr::from(high))),
        2 => Some(format!("{}:{low}", Asn(high))),
        _ => None,
    }
}

impl FromStr for RouteDistinguisher {
    type Err = ParseRdError;

    fn from_str(text: &str) -> Result<RouteDistinguisher, ParseRdError> {
        let (kind, [a, b, c, d, e, g]) =
            parse_admin_number(text).ok_or_else(|| ParseRdError(text.chars().take(64).collect()))?;
        Ok(RouteDistinguisher([0, kind, a, b, c, d, e, g]))
    }
}

impl fmt::Display for RouteDistinguisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, kind, a, b, c, d, e, g] = self.0;
        let text = if high == 0 { format_admin_number(kind, [a, b, c, d, e, g]) } else { None };
        match text {
            Some(text) => f.pad(&text),
            None => f.pad(&format!("0x{:016x}", u64::from_be_bytes(self.0))),
        }
    }
}

serde_as_text!(RouteDistinguisher);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_types_read_and_print() {
        for (text, octets) in [
            ("64512:100", [0, 0, 0xfc, 0x00, 0, 0, 0, 100]),
            ("192.0.2.11:1", [0, 1, 192, 0, 2, 11, 0, 1]),
            ("4200000000:7", [0, 2, 0xfa, 0x56, 0xea, 0x00, 0, 7]),
        ] {
            let rd: RouteDistinguisher = text.parse().unwrap();
            assert_eq!(rd.octets(), octets);
            assert_eq!(rd.to_string(), text);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for text in
            ["4200000000:65536", "192.0.2.1:65536", "64512:4294967296", "64512", "a:1", "1:-1", "+1:1"]
        {
            assert!(text.parse::<RouteDistinguisher>().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_type_prints_as_hexadecimal() {
        assert_eq!(RouteDistinguisher([0, 3, 0, 0, 0, 0, 0, 1]).to_string(), "0x0003000000000001");
    }
}
