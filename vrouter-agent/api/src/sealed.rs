//! JSON objects that know whether they are whole, for files that are read after a crash or from a worn-out disk.
//!
//! ```text
//!  {"version":2,"port":3,…,"check":"5f2ba1c09a8d0b44"}
//!   └────────── checked ──┘         └ FNV-1a, 64 bits ┘
//! ```
//! Any one octet that changed is noticed for certain, more of them as good as certainly. It is no signature: who may
//! write the file may write anything.

use serde::Serialize;
use serde::de::DeserializeOwned;

const BEFORE: &[u8] = b",\"check\":\"";
const AFTER: &[u8] = b"\"}";
const DIGITS: usize = 16;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsealed<T> {
    /// The object.
    pub content: T,
    /// Whether it bore a seal, which is then intact. Who wrote none could not have.
    pub is_sealed: bool,
}

/// The object's JSON with a seal, and a newline.
pub fn seal(content: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut text = serde_json::to_vec(content).map_err(|error| error.to_string())?;
    if text.pop() != Some(b'}') || text.last().is_none_or(|last| *last == b'{') {
        return Err("only a JSON object with members can be sealed".to_owned());
    }
    let check = digits(&text);
    text.extend([BEFORE, check.as_bytes(), AFTER, b"\n"].concat());
    Ok(text)
}

/// Reads an object, and its seal if there is one.
pub fn unseal<T: DeserializeOwned>(text: &[u8]) -> Result<Unsealed<T>, String> {
    let checked = checked(text);
    if let Some((content, check)) = checked
        && digits(content).as_bytes() != check
    {
        return Err("it is damaged: its check does not match its content".to_owned());
    }
    let content = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(Unsealed { content, is_sealed: checked.is_some() })
}

/// What is checked, and the check.
fn checked(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_end().strip_suffix(AFTER)?;
    let (text, check) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    Some((text.strip_suffix(BEFORE)?, check))
}

fn digits(text: &[u8]) -> String {
    let fnv = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{fnv:016x}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Object = BTreeMap<String, u64>;

    fn object() -> Object {
        BTreeMap::from([("port".to_owned(), 3), ("label".to_owned(), 19)])
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Port {
        port: u64,
        label: u64,
    }

    #[test]
    fn a_sealed_object_is_json_and_comes_back() {
        let text = seal(&object()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((json["port"].as_u64(), json["check"].as_str().map(str::len)), (Some(3), Some(16)));
        let port = Port { port: 3, label: 19 };
        assert_eq!(unseal(&text), Ok(Unsealed { content: port, is_sealed: true }));
        let port = Port { port: 3, label: 19 };
        assert_eq!(unseal(br#"{"port":3,"label":19}"#), Ok(Unsealed { content: port, is_sealed: false }));
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let text = seal(&object()).unwrap();
        for place in 0..text.len() - 1 {
            for bit in 0..8 {
                let mut text = text.clone();
                text[place] ^= 1 << bit;
                // Damage to the seal's own name leaves what it sealed as it was, and no seal.
                let read = unseal::<Port>(&text);
                assert!(
                    read.as_ref().is_err()
                        || read.as_ref().is_ok_and(|read| !read.is_sealed && read.content.label == 19),
                    "octet {place}, bit {bit}: {read:?}"
                );
            }
        }
    }

    #[test]
    fn no_truncation_goes_unnoticed_and_no_length_panics() {
        let text = seal(&object()).unwrap();
        for length in 0..text.len() - 1 {
            assert!(unseal::<Port>(&text[..length]).is_err(), "{length}");
        }
        assert!(seal(&BTreeMap::<String, u64>::new()).is_err());
        assert!(seal(&[1]).is_err());
    }
}
