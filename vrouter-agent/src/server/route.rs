//! From method, path, query and body to a [`Request`], or to what is wrong with them.

use std::fmt::Display;
use std::str::FromStr;

use agent_api::{ApiError, CaptureRequest, ErrorKind, RouteFilter, SecurityGroup, path};
use hyper::Method;
use serde::de::DeserializeOwned;

use super::Request;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Attach,
    Detach,
    Check,
    Status,
    BgpSummary,
    BgpNeighbors,
    BgpRoutes,
    Vrfs,
    Routes,
    Ports,
    Labels,
    Tunnels,
    Drops,
    Trace,
    BgpRtc,
    BgpClear,
    Explain,
    Memory,
    Reload,
    Monitor,
    Capture,
    OpenStack,
    Flows,
    SecurityGroups,
    SecurityGroup,
    PutSecurityGroup,
    DeleteSecurityGroup,
}

/// Why nothing can be asked there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unroutable {
    /// No such path.
    Path,
    /// The path takes this method.
    Method(&'static str),
}

/// Which endpoint this is.
pub(super) fn find(method: &Method, path: &str) -> Result<Endpoint, Unroutable> {
    if group_name(path).is_some() {
        return match method.as_str() {
            "GET" => Ok(Endpoint::SecurityGroup),
            "PUT" => Ok(Endpoint::PutSecurityGroup),
            "DELETE" => Ok(Endpoint::DeleteSecurityGroup),
            _ => Err(Unroutable::Method("GET, PUT, DELETE")),
        };
    }
    let (endpoint, wanted) = match path {
        path::ATTACH => (Endpoint::Attach, "POST"),
        path::DETACH => (Endpoint::Detach, "POST"),
        path::CHECK => (Endpoint::Check, "POST"),
        path::STATUS => (Endpoint::Status, "GET"),
        path::BGP_SUMMARY => (Endpoint::BgpSummary, "GET"),
        path::BGP_NEIGHBORS => (Endpoint::BgpNeighbors, "GET"),
        path::BGP_ROUTES => (Endpoint::BgpRoutes, "GET"),
        path::VRFS => (Endpoint::Vrfs, "GET"),
        path::ROUTES => (Endpoint::Routes, "GET"),
        path::PORTS => (Endpoint::Ports, "GET"),
        path::LABELS => (Endpoint::Labels, "GET"),
        path::TUNNELS => (Endpoint::Tunnels, "GET"),
        path::DROPS => (Endpoint::Drops, "GET"),
        path::TRACE => (Endpoint::Trace, "POST"),
        path::BGP_RTC => (Endpoint::BgpRtc, "GET"),
        path::BGP_CLEAR => (Endpoint::BgpClear, "POST"),
        path::EXPLAIN => (Endpoint::Explain, "GET"),
        path::MEMORY => (Endpoint::Memory, "GET"),
        path::RELOAD => (Endpoint::Reload, "POST"),
        path::BGP_MONITOR => (Endpoint::Monitor, "GET"),
        path::CAPTURE => (Endpoint::Capture, "GET"),
        path::OPENSTACK => (Endpoint::OpenStack, "GET"),
        path::FLOWS => (Endpoint::Flows, "GET"),
        path::SECURITY_GROUPS => (Endpoint::SecurityGroups, "GET"),
        _ => return Err(Unroutable::Path),
    };
    if method.as_str() == wanted { Ok(endpoint) } else { Err(Unroutable::Method(wanted)) }
}

/// The request that query and body make of an endpoint.
pub(super) fn request(endpoint: Endpoint, path: &str, query: &str, body: &[u8]) -> Result<Request, ApiError> {
    let group = || group_name(path).unwrap_or_default().to_owned();
    let mut query = Query::read(query)?;
    let request = match endpoint {
        Endpoint::Attach => Request::Attach(json("AttachPort", body)?),
        Endpoint::Detach => Request::Detach(json("DetachPort", body)?),
        Endpoint::Check => Request::Check(json("AttachPort", body)?),
        Endpoint::Status => Request::Status,
        Endpoint::BgpSummary => Request::BgpSummary,
        Endpoint::BgpNeighbors => Request::BgpNeighbors(query.take("address")?),
        Endpoint::BgpRoutes => Request::BgpRoutes(filter(&mut query)?),
        Endpoint::Vrfs => Request::Vrfs,
        Endpoint::Routes => Request::Routes { vrf: query.take("vrf")?, prefix: query.take("prefix")? },
        Endpoint::Ports => Request::Ports,
        Endpoint::Labels => Request::Labels,
        Endpoint::Tunnels => Request::Tunnels,
        Endpoint::Drops => Request::Drops,
        Endpoint::Trace => Request::Trace(json("TraceRequest", body)?),
        Endpoint::BgpRtc => Request::BgpRtc,
        Endpoint::BgpClear => Request::BgpClear(json("BgpClear", body)?),
        Endpoint::Explain => {
            let missing =
                |what: &str| bad(format!("explain needs a {what}, as in ?vrf=NAME&prefix=10.0.0.0/8"));
            let vrf = query.take("vrf")?.ok_or_else(|| missing("vrf"))?;
            Request::Explain { vrf, prefix: query.take("prefix")?.ok_or_else(|| missing("prefix"))? }
        }
        Endpoint::Memory => Request::Memory,
        Endpoint::Flows => {
            Request::Flows { vrf: query.take("vrf")?, port: query.take("port")?, limit: query.take("limit")? }
        }
        Endpoint::SecurityGroups => Request::SecurityGroups,
        Endpoint::SecurityGroup => Request::SecurityGroup(group()),
        Endpoint::PutSecurityGroup => {
            Request::PutSecurityGroup(named(json("SecurityGroup", body)?, group())?)
        }
        Endpoint::DeleteSecurityGroup => Request::DeleteSecurityGroup(group()),
        Endpoint::Reload => Request::Reload,
        Endpoint::Monitor => Request::Monitor,
        Endpoint::Capture => Request::Capture(capture(&mut query)?),
        Endpoint::OpenStack => Request::OpenStack,
    };
    query.finish()?;
    Ok(request)
}

/// What stands behind the path of the security groups.
fn group_name(path: &str) -> Option<&str> {
    path.strip_prefix(path::SECURITY_GROUPS)?.strip_prefix('/')
}

/// The group with the name that its path gives it.
fn named(group: SecurityGroup, name: String) -> Result<SecurityGroup, ApiError> {
    if !group.name.is_empty() && group.name != name {
        return Err(bad(format!(
            "the path says {name:?} and the body {:?}; leave the name out there",
            group.name
        )));
    }
    Ok(SecurityGroup { name, ..group })
}

fn capture(query: &mut Query) -> Result<CaptureRequest, ApiError> {
    let missing = || bad("capture needs a point, as in ?point=underlay or ?point=3".into());
    Ok(CaptureRequest {
        point: query.take("point")?.ok_or_else(missing)?,
        filter: query.take("filter")?,
        direction: query.take("direction")?,
        snaplen: query.take("snaplen")?,
        count: query.take("count")?,
        seconds: query.take("seconds")?,
    })
}

fn filter(query: &mut Query) -> Result<RouteFilter, ApiError> {
    let filter = RouteFilter {
        family: query.take("family")?,
        rd: query.take("rd")?,
        rt: query.take("rt")?,
        neighbor: query.take("neighbor")?,
        received: query.take("received")?,
        prefix: query.take("prefix")?,
    };
    if let Some(family) = &filter.family
        && !matches!(family.as_str(), "vpnv4" | "vpnv6" | "rtc")
    {
        return Err(bad(format!("family {family:?} is not known: it is vpnv4, vpnv6 or rtc")));
    }
    if filter.received.is_some() && filter.neighbor.is_none() {
        return Err(bad("`received` needs a `neighbor`".into()));
    }
    Ok(filter)
}

fn json<T: DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(bad(format!("the body is empty; {name} as JSON is expected")));
    }
    serde_json::from_slice(body).map_err(|error| bad(format!("the body is no {name}: {error}")))
}

fn bad(message: String) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, message)
}

/// A query string of which every pair must be used, once.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(query: &str) -> Result<Query, ApiError> {
        path::query_pairs(query).map(Query).map_err(|error| bad(error.to_string()))
    }

    fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        value.parse().map(Some).map_err(|error| bad(format!("query {name}={value}: {error}")))
    }

    fn finish(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(format!("query {name:?} is not known here, or is there twice"))),
        }
    }
}
