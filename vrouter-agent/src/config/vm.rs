//! What virtual machines are served: keys of `[openstack]`.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Password;
use super::document::Table;
use super::sections::addresses;

/// A day: what neutron's own agent gives.
const DEFAULT_LEASE: u32 = 86_400;
const MAX_SECRET: usize = 1024;
/// What nova's metadata service listens on.
const METADATA_PORT: u16 = 8775;

/// What virtual machines are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// The metadata service; absent: virtual machines have none.
    pub metadata: Option<MetadataConfig>,
    /// Whom the gateway asks for names; empty: whom the node asks.
    pub resolvers: Vec<IpAddr>,
    /// How long addresses are leased that say nothing else, in seconds.
    pub lease: u32,
}

impl Default for VmConfig {
    fn default() -> VmConfig {
        VmConfig { metadata: None, resolvers: Vec::new(), lease: DEFAULT_LEASE }
    }
}

/// Where metadata comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataConfig {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it knows us by. It is in no recording.
    #[serde(skip)]
    pub secret: Option<Password>,
}

/// Reads its keys of a table that has others too.
pub(super) fn vm(table: &Table<'_, '_>) -> VmConfig {
    let mut vm = VmConfig::default();
    let secret = table.text("metadata-secret-file").and_then(|file| secret(table, file));
    vm.metadata = table.text("metadata").and_then(|url| metadata(table, url));
    match (&mut vm.metadata, secret) {
        (Some(metadata), secret) => metadata.secret = secret,
        (None, Some(_)) if !table.is_broken() => {
            let message = "metadata-secret-file needs metadata, where the service is, like metadata = \
                           \"http://192.0.2.5:8775\"";
            table.error(table.span_of("metadata-secret-file"), message.to_owned());
        }
        (None, _) => {}
    }
    vm.resolvers = addresses(table, "resolvers").into_iter().map(Spanned::into_inner).collect();
    if let Some(seconds) = table.number("dhcp-lease", 60..=u32::MAX) {
        vm.lease = seconds;
    }
    vm
}

fn metadata(table: &Table<'_, '_>, url: &str) -> Option<MetadataConfig> {
    let parsed = parse_url(url);
    if parsed.is_none() {
        let message = format!(
            "metadata {url:?} must be where nova's metadata service is, like \"http://192.0.2.5:8775\": plain HTTP, no path"
        );
        table.error(table.span_of("metadata"), message);
    }
    parsed
}

fn parse_url(url: &str) -> Option<MetadataConfig> {
    let uri: hyper::Uri = url.parse().ok()?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority()?;
    if !plain || authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(MetadataConfig { host, port: authority.port_u16().unwrap_or(METADATA_PORT), secret: None })
}

/// The first line of a file. Whoever may read it may ask for any machine's metadata.
fn secret(table: &Table<'_, '_>, file: &str) -> Option<Password> {
    let refuse = |message: String| table.error(table.span_of("metadata-secret-file"), message);
    let bytes = match std::fs::read(Path::new(file)) {
        Ok(bytes) => bytes,
        Err(error) => {
            refuse(format!("metadata-secret-file {file}: {error}"));
            return None;
        }
    };
    let secret = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    if secret.is_empty() || secret.len() > MAX_SECRET {
        refuse(format!("metadata-secret-file {file}: its first line must hold 1 to {MAX_SECRET} octets"));
        return None;
    }
    Some(Password(secret.to_vec()))
}
