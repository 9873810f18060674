//! GC: takes away what is attached to this network and not in the runtime's list.
//!
//! Ports carry no network name, but their host interfaces do (see [`add::alias`]). So a port goes when its interface says that
//! it is this network's, or when it has no interface any more: then its pod is gone, whatever network it was. Without a list
//! nothing is known, and nothing goes.

use std::collections::HashSet;
use std::time::Duration;

use agent_api::{Client, PortKey, PortKind, Ports, path};

use crate::call::Call;
use crate::error::Error;
use crate::veth::Links;
use crate::{add, del, detach, ipam, name};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Goes on past failures; the first is reported.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let mut outcome = match &call.conf.valid_attachments {
        Some(valid) => collect(call, &valid.iter().collect()),
        None => Ok(()),
    };
    // The delegate has the same list, or the same absence of one.
    let forwarded = ipam::forward(call, "GC", ipam::TIMEOUT);
    if outcome.is_ok() {
        outcome = forwarded;
    }
    outcome
}

fn collect(call: &Call, valid: &HashSet<&PortKey>) -> Result<(), Error> {
    // Ports first: a port that is attached meanwhile has had its interface before.
    let ports: Ports = Client::connect(&call.conf.socket, TIMEOUT)?.get(path::PORTS)?;
    let mut host = Links::open().map_err(Error::kernel("open netlink"))?;
    let links = host.all().map_err(Error::kernel("list interfaces"))?;
    let prefix = add::alias_prefix(&call.conf.name);
    let keep: HashSet<String> = valid.iter().map(|key| name::host_interface(key)).collect();
    let mut outcome = Ok(());
    for port in ports.ports.iter().filter(|port| port.kind == PortKind::Pod && !valid.contains(&port.key)) {
        let link = links.iter().find(|link| link.name == port.host_interface);
        let is_stale =
            link.is_none_or(|link| link.alias.as_ref().is_some_and(|text| text.starts_with(&prefix)));
        if is_stale {
            let gone = detach::detach(&call.conf, &port.key)
                .and_then(|_| del::remove(std::slice::from_ref(&port.host_interface)));
            outcome = outcome.and(gone);
        }
    }
    let is_ours = |alias: &Option<String>| alias.as_ref().is_some_and(|text| text.starts_with(&prefix));
    let stale = links.into_iter().filter(|link| is_ours(&link.alias) && !keep.contains(&link.name));
    outcome.and(del::remove(&stale.map(|link| link.name).collect::<Vec<_>>()))
}
