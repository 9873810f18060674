use serde::{Deserialize, Serialize};

/// An MPLS label: twenty bits (RFC 3032 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Label(u32);

/// The value does not fit twenty bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("label {0} does not fit 20 bits")]
pub struct LabelError(pub u32);

impl Label {
    /// IPv4 explicit null (RFC 3032 §2.1).
    pub const IPV4_EXPLICIT_NULL: Label = Label(0);
    /// IPv6 explicit null (RFC 3032 §2.1).
    pub const IPV6_EXPLICIT_NULL: Label = Label(2);
    /// Implicit null: a signalled value, never on the wire (RFC 3032 §2.1).
    pub const IMPLICIT_NULL: Label = Label(3);
    /// The first value outside the reserved range 0–15 (RFC 3032 §2.1).
    pub const FIRST_UNRESERVED: Label = Label(16);
    /// The largest value.
    pub const MAX: Label = Label(0xf_ffff);

    /// Checks that the value fits twenty bits.
    pub const fn new(value: u32) -> Result<Label, LabelError> {
        if value <= Self::MAX.0 { Ok(Label(value)) } else { Err(LabelError(value)) }
    }

    /// The label in the upper twenty bits of three octets, as NLRI carry it (RFC 8277 §2.2). The lower four bits,
    /// traffic class and bottom of stack, are ignored.
    pub const fn from_nlri(octets: [u8; 3]) -> Label {
        Label(u32::from_be_bytes([0, octets[0], octets[1], octets[2]]) >> 4)
    }

    /// Three octets for an NLRI with one label: bottom of stack set (RFC 8277 §2.2).
    pub const fn to_nlri(self) -> [u8; 3] {
        let [_, a, b, c] = (self.0 << 4 | 1).to_be_bytes();
        [a, b, c]
    }

    /// The number.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The number as an index into a table by label.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether the value is one of the sixteen that RFC 3032 reserves.
    pub const fn is_reserved(self) -> bool {
        self.0 < Self::FIRST_UNRESERVED.0
    }
}

impl TryFrom<u32> for Label {
    type Error = LabelError;

    fn try_from(value: u32) -> Result<Label, LabelError> {
        Label::new(value)
    }
}

impl From<Label> for u32 {
    fn from(label: Label) -> u32 {
        label.0
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_one_bits_are_refused() {
        assert_eq!(Label::new(0x10_0000), Err(LabelError(0x10_0000)));
        assert_eq!(Label::new(0xf_ffff), Ok(Label::MAX));
    }

    #[test]
    fn nlri_octets_carry_label_and_bottom_of_stack() {
        assert_eq!(Label::new(16).unwrap().to_nlri(), [0x00, 0x01, 0x01]);
        assert_eq!(Label::from_nlri([0x00, 0x01, 0x00]), Label::new(16).unwrap());
        assert_eq!(Label::from_nlri([0xff, 0xff, 0xff]), Label::MAX);
    }
}
