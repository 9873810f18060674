//! `[openstack]`: the APIs that nova and neutron's agents speak. Without the section there are none.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::VmConfig;
use super::document::Table;
use crate::openstack::Uuid;

const DEFAULT_PORTS_DIR: &str = "/var/lib/contrail/ports";

/// `[openstack]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStackConfig {
    /// Where the incumbent's port API is served; absent: it is not.
    pub port_api: Option<SocketAddr>,
    /// Where its clients leave ports as files.
    pub ports_dir: PathBuf,
    /// Where bagpipe's VPN API is served; absent: it is not.
    pub vpn_api: Option<SocketAddr>,
}

impl Default for OpenStackConfig {
    fn default() -> OpenStackConfig {
        OpenStackConfig { port_api: None, ports_dir: PathBuf::from(DEFAULT_PORTS_DIR), vpn_api: None }
    }
}

pub(super) fn openstack(top: &Table<'_, '_>) -> (OpenStackConfig, VmConfig) {
    let mut config = OpenStackConfig::default();
    let Some(table) = top.table("openstack", "[openstack]") else { return (config, VmConfig::default()) };
    config.port_api = loopback(&table, "port-api", "127.0.0.1:9091");
    config.vpn_api = loopback(&table, "vpn-api", "127.0.0.1:8082");
    if config.port_api.is_some() && config.port_api == config.vpn_api {
        let message = "port-api and vpn-api cannot share an address; keep 127.0.0.1:9091 and 127.0.0.1:8082";
        table.error(table.span_of("vpn-api"), message.to_owned());
    }
    if let Some(text) = table.text("ports-dir") {
        if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
            let message = format!("ports-dir {text:?} must be a path that begins with / and has no ..");
            table.error(table.span_of("ports-dir"), message);
        }
        config.ports_dir = PathBuf::from(text);
    }
    let vm = super::vm::vm(&table);
    table.finish();
    (config, vm)
}

/// These APIs know no password: only this host may ask.
fn loopback(table: &Table<'_, '_>, key: &'static str, like: &str) -> Option<SocketAddr> {
    let text = table.text(key)?;
    let address: Option<SocketAddr> = text.parse().ok();
    let address = address.filter(|address| address.ip().is_loopback() && address.port() != 0);
    if address.is_none() {
        let message = format!(
            "{key}: {text:?} must be an address of this host alone with a port (like {like:?}): whoever reaches it may \
             join any network"
        );
        table.error(table.span_of(key), message);
    }
    address
}

/// `openstack-networks` and `openstack-projects` of a `[[vrf]]`.
pub(super) fn uuids(table: &Table<'_, '_>, key: &'static str) -> Vec<Uuid> {
    let mut uuids = Vec::new();
    for text in table.texts(key).unwrap_or_default() {
        match text.get_ref().parse::<Uuid>() {
            Ok(uuid) if uuids.contains(&uuid) => {
                table.error(text.span(), format!("{key}: {uuid} stands there twice; keep one"));
            }
            Ok(uuid) if !uuid.is_nil() => uuids.push(uuid),
            _ => {
                let message = format!(
                    "{key}: {:?} is no UUID (want one like 56297dc0-2b8c-4d5f-8f0e-000000000002; `openstack network \
                     list` and `openstack project list` show them)",
                    text.get_ref()
                );
                table.error(text.span(), message);
            }
        }
    }
    uuids
}
