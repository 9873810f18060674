//! Bagpipe's VPN API: from method, path and body to what is asked.
//!
//! | method and path | asks |
//! |---|---|
//! | `POST /attach_localport` | attach or change one endpoint, or an array of them: all or none |
//! | `POST /detach_localport` | detach one, or an array; what is unknown is detached already |
//! | `GET /ping` | a number that changes when attachments were lost, and only then |
//! | `GET /attachments` | all of them (not bagpipe's) |
//! | `GET /looking-glass/…` | what there is, as a tree |
//!
//! Success is 200. What cannot be is 400, what is another's 409, another method 405, another path 404; each with
//! `{"error": reason}`.

use agent_api::{ApiError, ErrorKind};
use serde_json::{Value, json};

use super::{Attachment, Change, Detachment, LIMITS};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum VpnCall {
    /// Something is to change.
    Change(Change),
    /// The number.
    Ping,
    /// All attachments.
    List,
    /// This place of the tree.
    Glass(Vec<String>),
    /// Bagpipe answers a GET of the two POST paths with an empty object.
    Nothing,
}

/// What is answered: the code and the body.
#[derive(Debug, Clone, PartialEq)]
pub struct VpnReply {
    /// The HTTP status.
    pub status: u16,
    /// The JSON.
    pub body: Value,
}

impl VpnReply {
    /// 200 with this.
    pub fn ok(body: Value) -> VpnReply {
        VpnReply { status: 200, body }
    }

    fn refused(status: u16, why: impl Into<String>) -> VpnReply {
        VpnReply { status, body: json!({ "error": why.into() }) }
    }

    /// There is nothing at this path.
    pub fn not_found(path: &str) -> VpnReply {
        VpnReply::refused(404, format!("there is no {path}"))
    }
}

impl From<&ApiError> for VpnReply {
    fn from(error: &ApiError) -> VpnReply {
        VpnReply::refused(error.kind.status(), error.message.clone())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn refusal(error: ApiError) -> VpnReply {
    VpnReply::from(&error)
}

/// What a request asks.
pub fn read(method: &str, path: &str, body: &[u8]) -> Result<VpnCall, VpnReply> {
    let segments: Vec<&str> =
        path.trim_matches('/').split('/').filter(|segment| !segment.is_empty()).collect();
    match (method, segments.as_slice()) {
        ("POST", ["attach_localport"]) => {
            Ok(VpnCall::Change(Change::Attach(many(body, Attachment::read).map_err(refusal)?)))
        }
        ("POST", ["detach_localport"]) => {
            Ok(VpnCall::Change(Change::Detach(many(body, Detachment::read).map_err(refusal)?)))
        }
        ("GET", ["attach_localport" | "detach_localport"]) => Ok(VpnCall::Nothing),
        ("GET", ["ping"]) => Ok(VpnCall::Ping),
        ("GET", ["attachments"]) => Ok(VpnCall::List),
        ("GET", ["looking-glass", rest @ ..]) => {
            Ok(VpnCall::Glass(rest.iter().map(|segment| plain(segment)).collect()))
        }
        (_, ["attach_localport" | "detach_localport"]) => {
            Err(VpnReply::refused(405, format!("{path} takes POST")))
        }
        (_, ["ping" | "attachments"] | ["looking-glass", ..]) => {
            Err(VpnReply::refused(405, format!("{path} takes GET")))
        }
        _ => Err(VpnReply::not_found(path)),
    }
}

/// One object, or an array. The first mistake refuses all.
fn many<T>(body: &[u8], read: impl Fn(&Value) -> Result<T, ApiError>) -> Result<Vec<T>, ApiError> {
    let bad = |message: String| ApiError::new(ErrorKind::BadRequest, message);
    let value: Value =
        serde_json::from_slice(body).map_err(|error| bad(format!("the body is no JSON: {error}")))?;
    let Value::Array(items) = &value else { return Ok(vec![read(&value)?]) };
    if items.len() > LIMITS.batch {
        return Err(bad(format!("at most {} at once", LIMITS.batch)));
    }
    let one = |(at, item): (usize, &Value)| {
        read(item).map_err(|error| {
            ApiError::new(error.kind, format!("element {at}: {}; nothing was changed", error.message))
        })
    };
    items.iter().enumerate().map(one).collect()
}

/// A segment without its percent signs.
fn plain(segment: &str) -> String {
    let mut octets = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(octet)) => {
                octets.push(octet);
                rest = &after[2..];
            }
            _ => {
                octets.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&octets).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, path: &str, body: &Value) -> u16 {
        read(method, path, body.to_string().as_bytes()).map_or_else(|reply| reply.status, |_| 200)
    }

    fn attach() -> Value {
        json!({
            "vpn_instance_id": "red", "vpn_type": "ipvpn", "import_rt": ["64512:1"], "export_rt": ["64512:1"],
            "mac_address": "52:54:00:00:00:01", "ip_address": "10.0.0.5", "gateway_ip": "10.0.0.1",
            "local_port": { "linuxif": "tap0" }
        })
    }

    #[test]
    fn paths_and_methods_are_bagpipes() {
        for (method, path, wanted) in [
            ("GET", "/attach_localport", 200),
            ("GET", "/detach_localport", 200),
            ("PUT", "/attach_localport", 405),
            ("DELETE", "/detach_localport", 405),
            ("GET", "/ping", 200),
            ("POST", "/ping", 405),
            ("GET", "/attachments", 200),
            ("GET", "/looking-glass", 200),
            ("GET", "/looking-glass/vpns/instances", 200),
            ("POST", "/looking-glass", 405),
            ("GET", "/metrics", 404),
            ("GET", "/", 404),
        ] {
            assert_eq!(status(method, path, &json!({})) / 100, wanted / 100, "{method} {path}");
        }
        assert_eq!(status("POST", "/attach_localport", &attach()), 200);
        assert_eq!(
            read("GET", "/looking-glass/vpns/instances/a%3Ab/", b""),
            Ok(VpnCall::Glass(vec!["vpns".into(), "instances".into(), "a:b".into()]))
        );
    }

    #[test]
    fn an_array_is_taken_as_a_whole_or_not_at_all() {
        assert_eq!(status("POST", "/attach_localport", &json!([attach(), attach()])), 200);
        let mut bad = attach();
        bad["mac_address"] = json!("x");
        let reply =
            read("POST", "/attach_localport", json!([attach(), bad]).to_string().as_bytes()).unwrap_err();
        assert_eq!(reply.status, 400);
        assert!(
            reply.body["error"].as_str().unwrap().starts_with("element 1: mac_address"),
            "{}",
            reply.body
        );
        let many: Vec<Value> = (0..=LIMITS.batch).map(|_| attach()).collect();
        assert_eq!(status("POST", "/attach_localport", &json!(many)), 400);
        assert_eq!(read("POST", "/detach_localport", b"{").unwrap_err().status, 400);
        assert_eq!(read("POST", "/detach_localport", b"").unwrap_err().status, 400);
    }

    #[test]
    fn a_percent_sign_that_encodes_nothing_is_one() {
        assert_eq!(plain("a%"), "a%");
        assert_eq!(plain("%zz%41"), "%zzA");
    }
}
