//! UUIDs as OpenStack writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// 128 bits, printed as `8-4-4-4-12` in small letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub u128);

/// The text is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no UUID (want 8-4-4-4-12 hexadecimal digits)")]
pub struct ParseUuidError;

impl Uuid {
    /// Stands for "none".
    pub const NIL: Uuid = Uuid(0);

    /// Whether it stands for none.
    pub fn is_nil(self) -> bool {
        self == Uuid::NIL
    }

    /// As it must stand in a URL: small letters, hyphens in their places. Anything else is another path.
    pub fn in_path(text: &str) -> Option<Uuid> {
        let small = !text.bytes().any(|letter| letter.is_ascii_uppercase());
        (text.len() == 36 && small).then(|| text.parse().ok()).flatten()
    }

    /// The same name always makes the same one.
    pub fn of_name(name: &str) -> Uuid {
        // FNV-1a over 128 bits: it names, it protects nothing.
        let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, octet| {
            (hash ^ u128::from(octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
        // RFC 9562 §5.8: version 8, variant 10.
        Uuid(hash & !(0xf << 76) & !(0b11 << 62) | 0x8 << 76 | 0b10 << 62)
    }

    /// The octets.
    pub fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl FromStr for Uuid {
    type Err = ParseUuidError;

    /// With hyphens, or all 32 digits in one, as keystone writes projects.
    fn from_str(text: &str) -> Result<Uuid, ParseUuidError> {
        let hyphens_fit = match text.len() {
            32 => !text.contains('-'),
            36 => text.bytes().enumerate().all(|(at, b)| (b == b'-') == matches!(at, 8 | 13 | 18 | 23)),
            _ => false,
        };
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        if !hyphens_fit || digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseUuidError);
        }
        u128::from_str_radix(&digits, 16).map(Uuid).map_err(|_| ParseUuidError)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
        f.pad(&format!("{a}-{b}-{c}-{d}-{e}"))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_is_read_and_nothing_else_is() {
        let text = "93c2c386-6e79-485e-bfa4-b9daa713133b";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!("93c2c3866e79485ebfa4b9daa713133b".parse(), Ok(uuid));
        assert_eq!("93C2C386-6E79-485E-BFA4-B9DAA713133B".parse(), Ok(uuid));
        for text in [
            "",
            "None",
            "93c2c386",
            "93c2c386-6e79-485e-bfa4-b9daa713133",
            "../../../../../../../../../../../etc/p",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
        assert!("93c2c3866-e79-485e-bfa4-b9daa713133b".parse::<Uuid>().is_err(), "hyphens in other places");
        assert!("+3c2c3866e79485ebfa4b9daa713133b".parse::<Uuid>().is_err(), "a sign is no digit");
    }

    #[test]
    fn a_path_takes_small_letters_only() {
        assert!(Uuid::in_path("93c2c386-6e79-485e-bfa4-b9daa713133b").is_some());
        assert!(Uuid::in_path("93C2C386-6E79-485E-BFA4-B9DAA713133B").is_none());
        assert!(Uuid::in_path("93c2c3866e79485ebfa4b9daa713133b").is_none());
    }

    #[test]
    fn a_name_makes_one_uuid_and_another_name_another() {
        assert_eq!(Uuid::of_name("k8s__default__a"), Uuid::of_name("k8s__default__a"));
        assert_ne!(Uuid::of_name("k8s__default__a"), Uuid::of_name("k8s__default__b"));
        assert_eq!(&Uuid::of_name("x").to_string()[14..15], "8");
    }
}
