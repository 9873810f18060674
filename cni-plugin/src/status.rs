//! STATUS: whether an ADD could be served now, and why not. The runtime asks this while its own callers wait, so it takes
//! a second at most, the delegate's share included.
//!
//! ```text
//!   51  the agent does not answer: pods that run have no network either
//!   50  it is not ready, has no such VRF, or no address of a family is left in the VRF's ranges; or the delegate says so
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_api::{Client, PoolUse, VrfSummary, Vrfs, path};

use crate::call::Call;
use crate::error::Error;
use crate::ipam;

const TIMEOUT: Duration = Duration::from_millis(800);
/// What a delegate has at least, however long the agent took.
const DELEGATE_TIMEOUT: Duration = Duration::from_millis(150);
/// Room for a thousand VRFs.
const MAX_REPLY: usize = 4 << 20;

/// Fails with the reason.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let start = Instant::now();
    let left = || TIMEOUT.saturating_sub(start.elapsed()).max(Duration::from_millis(50));
    let away = |error: agent_api::client::ClientError| Error::Away(error.to_string());
    let status =
        Client::connect(&call.conf.socket, left()).and_then(|mut agent| agent.status()).map_err(away)?;
    if !status.ready {
        return Err(Error::NotReady(status.problems));
    }
    if call.conf.ipam.is_none() {
        let mut agent = Client::connect(&call.conf.socket, left()).map_err(away)?.with_max_reply(MAX_REPLY);
        let vrfs: Vrfs = agent.get(path::VRFS).map_err(away)?;
        if let Some(reason) = no_address(&vrfs.vrfs, call.conf.vrf.as_deref()) {
            return Err(Error::NotReady(vec![reason]));
        }
    }
    ipam::forward(call, "STATUS", left().max(DELEGATE_TIMEOUT))
}

/// Why the next pod that names no VRF itself would get no address. Where its namespace chooses the VRF, nothing is known.
fn no_address(vrfs: &BTreeMap<String, VrfSummary>, configured: Option<&str>) -> Option<String> {
    let (name, vrf) = match configured {
        Some(name) => match vrfs.get_key_value(name) {
            Some(found) => found,
            None => {
                return Some(format!("there is no VRF {name:?} on this node; see `vrouterctl show vrfs`"));
            }
        },
        None => vrfs.iter().find(|(_, vrf)| vrf.default)?,
    };
    let is_full = |range: &&PoolUse| range.used >= range.size;
    for (family, ipv4) in [("IPv4", true), ("IPv6", false)] {
        let ranges: Vec<_> = vrf.pods.iter().filter(|range| range.range.is_ipv4() == ipv4).collect();
        if !ranges.is_empty() && ranges.iter().all(is_full) {
            let ranges: Vec<_> =
                ranges.iter().map(|it| format!("{} (all {} in use)", it.range, it.size)).collect();
            let ranges = ranges.join(", ");
            return Some(format!(
                "VRF {name:?} has no {family} address left in {ranges}; delete pods there, or add a range"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vrf(default: bool, pods: &[(&str, u64, u64)]) -> VrfSummary {
        let pods = pods.iter().map(|(range, used, size)| PoolUse {
            range: range.parse().unwrap(),
            used: *used,
            size: *size,
        });
        serde_json::from_value(serde_json::json!({
            "rd": "192.0.2.1:1", "import": [], "export": [], "pods": pods.collect::<Vec<_>>(), "namespaces": [],
            "default": default, "ports": 0, "routes": 0,
        }))
        .unwrap()
    }

    #[test]
    fn only_a_vrf_without_any_address_of_a_family_is_full() {
        let mut vrfs = BTreeMap::new();
        vrfs.insert(
            "a".to_owned(),
            vrf(true, &[("10.0.0.0/30", 1, 1), ("10.0.1.0/30", 0, 1), ("fd00::/64", 5, 1 << 60)]),
        );
        vrfs.insert("b".to_owned(), vrf(false, &[("10.0.0.0/30", 1, 1), ("fd00::/64", 5, 1 << 60)]));
        vrfs.insert("c".to_owned(), vrf(false, &[]));
        assert_eq!(no_address(&vrfs, None), None);
        assert_eq!(no_address(&vrfs, Some("c")), None);
        let full = no_address(&vrfs, Some("b")).unwrap();
        assert!(
            full.contains("\"b\"") && full.contains("IPv4") && full.contains("10.0.0.0/30 (all 1 in use)"),
            "{full}"
        );
        assert!(no_address(&vrfs, Some("d")).unwrap().contains("no VRF \"d\""));
        assert_eq!(no_address(&BTreeMap::new(), None), None);
    }
}
