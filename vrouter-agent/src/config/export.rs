//! What a VRF's routes carry beside their route targets: `local-pref`, `med`, `as-path-prepend`, `communities`,
//! `large-communities`. That is all the policy there is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use vrouter_types::Asn;

use super::document::Table;

const DEFAULT_LOCAL_PREF: u32 = 100;
/// Nobody prepends more, and the attribute must fit a message with everything else.
const MAX_PREPEND: usize = 32;
const MAX_COMMUNITIES: usize = 64;

/// What a VRF's routes carry beside their route targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPolicy {
    /// LOCAL_PREF, for neighbors in our AS.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// AS numbers in front of the path.
    pub as_path_prepend: Vec<Asn>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
}

impl Default for ExportPolicy {
    fn default() -> ExportPolicy {
        ExportPolicy {
            local_pref: DEFAULT_LOCAL_PREF,
            med: None,
            as_path_prepend: Vec::new(),
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}

/// A community as operators write it: `64512:1`, or one of the well-known names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Community(pub u32);

/// A large community as operators write it: `64512:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LargeCommunity(pub [u32; 3]);

/// IANA's registry of well-known communities, those that an exporting edge has a use for.
const WELL_KNOWN: [(&str, u32); 7] = [
    ("graceful-shutdown", 0xffff_0000),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

pub(super) fn export_policy(table: &Table<'_, '_>) -> ExportPolicy {
    ExportPolicy {
        local_pref: table.number("local-pref", 0..=u32::MAX).unwrap_or(DEFAULT_LOCAL_PREF),
        med: table.number("med", 0..=u32::MAX),
        as_path_prepend: prepend(table),
        communities: communities(table, "communities"),
        large_communities: communities(table, "large-communities"),
    }
}

fn prepend(table: &Table<'_, '_>) -> Vec<Asn> {
    let path = table.numbers("as-path-prepend", 1..=u32::MAX - 1).unwrap_or_default();
    if path.len() > MAX_PREPEND {
        let message = format!("as-path-prepend has {} AS numbers; {MAX_PREPEND} are the most", path.len());
        table.error(table.span_of("as-path-prepend"), message);
    }
    path.into_iter().map(Asn).collect()
}

fn communities<T>(table: &Table<'_, '_>, key: &'static str) -> Vec<T>
where
    T: FromStr + Ord,
    T::Err: fmt::Display,
{
    let mut found: Vec<T> =
        table.parsed_list(key).unwrap_or_default().into_iter().map(Spanned::into_inner).collect();
    found.sort_unstable();
    found.dedup();
    if found.len() > MAX_COMMUNITIES {
        let message = format!("{key} has {} communities; {MAX_COMMUNITIES} are the most", found.len());
        table.error(table.span_of(key), message);
    }
    found
}

impl FromStr for Community {
    type Err = String;

    fn from_str(text: &str) -> Result<Community, String> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(Community(*value));
        }
        let halves = text
            .split_once(':')
            .and_then(|(high, low)| high.parse::<u16>().ok().zip(low.parse::<u16>().ok()));
        halves.map(|(high, low)| Community(u32::from(high) << 16 | u32::from(low))).ok_or_else(|| {
            let names: Vec<&str> = WELL_KNOWN.iter().map(|(name, _)| *name).collect();
            format!(
                "{text:?} is no community (want two numbers below 65536, like 64512:1, or {})",
                names.join(", ")
            )
        })
    }
}

impl FromStr for LargeCommunity {
    type Err = String;

    fn from_str(text: &str) -> Result<LargeCommunity, String> {
        let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
        let numbers = numbers.and_then(|numbers| <[u32; 3]>::try_from(numbers).ok());
        numbers.map(LargeCommunity).ok_or_else(|| {
            format!("{text:?} is no large community (want three numbers, like 64512:1:2; RFC 8092)")
        })
    }
}
