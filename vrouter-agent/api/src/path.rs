//! Where each call lives, and how filters travel in a query string.

use std::fmt::{Display, Write as _};

use crate::{CaptureRequest, RouteFilter};

/// POST [`crate::AttachPort`].
pub const ATTACH: &str = "/v1/ports/attach";
/// POST [`crate::DetachPort`].
pub const DETACH: &str = "/v1/ports/detach";
/// POST [`crate::AttachPort`].
pub const CHECK: &str = "/v1/ports/check";
/// GET [`crate::Status`].
pub const STATUS: &str = "/v1/status";
/// GET [`crate::BgpSummary`].
pub const BGP_SUMMARY: &str = "/v1/show/bgp/summary";
/// GET [`crate::BgpNeighbors`]; query `address`.
pub const BGP_NEIGHBORS: &str = "/v1/show/bgp/neighbors";
/// GET [`crate::BgpRoutes`]; query as [`RouteFilter`].
pub const BGP_ROUTES: &str = "/v1/show/bgp/routes";
/// GET [`crate::BgpRtc`].
pub const BGP_RTC: &str = "/v1/show/bgp/rtc";
/// GET [`crate::MonitorEvent`], one JSON object per line, as long as both sides want.
pub const BGP_MONITOR: &str = "/v1/monitor/bgp";
/// POST [`crate::BgpClear`].
pub const BGP_CLEAR: &str = "/v1/bgp/clear";
/// GET [`crate::Explanation`]; query `vrf`, `prefix`.
pub const EXPLAIN: &str = "/v1/explain";
/// GET [`crate::Memory`].
pub const MEMORY: &str = "/v1/show/memory";
/// POST, without a body; answered with [`crate::Reloaded`].
pub const RELOAD: &str = "/v1/reload";
/// GET [`crate::Vrfs`].
pub const VRFS: &str = "/v1/show/vrfs";
/// GET [`crate::Routes`]; query `vrf`, `prefix`.
pub const ROUTES: &str = "/v1/show/routes";
/// GET [`crate::Ports`].
pub const PORTS: &str = "/v1/show/ports";
/// GET [`crate::Labels`].
pub const LABELS: &str = "/v1/show/labels";
/// GET [`crate::Tunnels`].
pub const TUNNELS: &str = "/v1/show/tunnels";
/// GET [`crate::Drops`].
pub const DROPS: &str = "/v1/show/drops";
/// GET [`crate::OpenStack`].
pub const OPENSTACK: &str = "/v1/show/openstack";
/// GET a pcapng file; query as [`CaptureRequest`].
pub const CAPTURE: &str = "/v1/capture";
/// GET [`crate::Flows`]; query `vrf`, `port`, `limit`.
pub const FLOWS: &str = "/v1/show/flows";
/// GET [`crate::SecurityGroups`]; with `/NAME` GET, PUT and DELETE of one.
pub const SECURITY_GROUPS: &str = "/v1/security-groups";
/// POST [`crate::TraceRequest`].
pub const TRACE: &str = "/v1/trace";

/// A path with a query string, built pair by pair.
#[derive(Debug, Clone)]
pub struct Target(String);

impl Target {
    /// The path alone.
    pub fn new(path: &str) -> Target {
        Target(path.to_owned())
    }

    /// Adds `name=value` where there is a value.
    pub fn with(mut self, name: &str, value: Option<impl Display>) -> Target {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            encode(&value.to_string(), &mut self.0);
        }
        self
    }

    /// The path of [`BGP_ROUTES`] with this filter.
    pub fn bgp_routes(filter: &RouteFilter) -> Target {
        Target::new(BGP_ROUTES)
            .with("family", filter.family.as_ref())
            .with("rd", filter.rd)
            .with("rt", filter.rt)
            .with("neighbor", filter.neighbor)
            .with("received", filter.received)
            .with("prefix", filter.prefix)
    }

    /// The path of [`CAPTURE`] with this request.
    pub fn capture(request: &CaptureRequest) -> Target {
        Target::new(CAPTURE)
            .with("point", Some(&request.point))
            .with("filter", request.filter.as_ref())
            .with("direction", request.direction)
            .with("snaplen", request.snaplen)
            .with("count", request.count)
            .with("seconds", request.seconds)
    }

    /// As [`crate::Client::get`] wants it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The query is not `name=value` pairs in percent-encoded UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the query string is not percent-encoded UTF-8 at {0:?}")]
pub struct QueryError(String);

/// The pairs of a query string (what stands behind the `?`), decoded. `+` stands for a space, as forms have it.
pub fn query_pairs(query: &str) -> Result<Vec<(String, String)>, QueryError> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// RFC 3986 §3.4: a query may hold `:` and `/` as they are, which keeps addresses and prefixes readable.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

fn decode(text: &str) -> Result<String, QueryError> {
    let refuse = || QueryError(text.chars().take(64).collect());
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        octets.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let value = high.zip(low).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                value.ok_or_else(refuse)?
            }
            _ => byte,
        });
    }
    String::from_utf8(octets).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_reads_what_target_writes() {
        let target = Target::new(ROUTES).with("vrf", Some("a b&c=ü+%")).with("prefix", Some("10.0.0.0/8"));
        assert_eq!(target.as_str(), "/v1/show/routes?vrf=a%20b%26c%3D%C3%BC%2B%25&prefix=10.0.0.0/8");
        let query = target.as_str().split_once('?').unwrap().1;
        let pairs = query_pairs(query).unwrap();
        assert_eq!(pairs, [("vrf".into(), "a b&c=ü+%".into()), ("prefix".into(), "10.0.0.0/8".into())]);
    }

    #[test]
    fn absent_values_leave_no_trace() {
        assert_eq!(Target::bgp_routes(&RouteFilter::default()).as_str(), BGP_ROUTES);
    }

    #[test]
    fn broken_percent_codes_are_refused() {
        for query in ["vrf=%", "vrf=%2", "vrf=%zz", "vrf=%ff", "%=1"] {
            assert!(query_pairs(query).is_err(), "{query}");
        }
        assert_eq!(
            query_pairs("a+b&&c").unwrap(),
            [("a b".into(), String::new()), ("c".into(), String::new())]
        );
    }
}
