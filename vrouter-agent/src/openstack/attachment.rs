//! What `POST /attach_localport` says: one endpoint of one VPN instance.
//!
//! ```text
//!   instance ipvpn_7 ── import, export, gateway ──▶ its VRF
//!        └── MAC, address, local_port ──▶ the tap: direction, local_pref, order, subnet, re-advertised routes
//! ```
//! Bagpipe's fields by bagpipe's names. What it took for IPv4 only is taken for both families, and route targets in all
//! three forms. What it took and did not do, or cannot be done here (FlowSpec, EVPN), is refused by name; keys that
//! nobody knows are ignored, as it did.

mod body;

use std::net::IpAddr;

use agent_api::{AddressPair, ApiError, FloatingIp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vrouter_types::{MacAddr, Prefix, RouteTarget};

use body::{Body, bad};

/// Which way packets of an endpoint go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// In and out.
    #[default]
    Both,
    /// The instance sends to it, and announces it; its own packets do not enter.
    ToPort,
    /// Its packets enter the instance; it is not announced.
    FromPort,
}

/// Routes that come with one of `from` are announced again with `to`, through the endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readvertise {
    /// What is taken.
    pub from: Vec<RouteTarget>,
    /// What is given.
    pub to: Vec<RouteTarget>,
}

/// An endpoint of a VPN instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The caller's name for the instance; its VRF's name here.
    pub instance: String,
    /// The endpoint's MAC address.
    pub mac: MacAddr,
    /// The tap, as the caller names it.
    pub interface: String,
    /// The address, or the first of its prefix.
    pub address: IpAddr,
    /// What follows the address: the subnet's length, or that of one address.
    pub length: u8,
    /// Announce the prefix, not the address.
    pub advertise_subnet: bool,
    /// The instance's gateway, if one is named.
    pub gateway: Option<IpAddr>,
    /// What the instance imports.
    pub import: Vec<RouteTarget>,
    /// What its routes carry.
    pub export: Vec<RouteTarget>,
    /// LOCAL_PREF of the endpoint's routes; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// Its place for consistent hashing; absent: not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_order: Option<u32>,
    /// Which way.
    pub direction: Direction,
    /// Routes to leak through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readvertise: Option<Readvertise>,
    /// Of the instance, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_description: Option<String>,
    /// Of the endpoint, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Addresses that it may hold beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<AddressPair>,
    /// Addresses of other instances that stand for its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating_ips: Vec<FloatingIp>,
    /// Its security groups; absent: no policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,
}

/// What `POST /detach_localport` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detachment {
    /// The instance.
    pub instance: String,
    /// The endpoint's MAC address.
    pub mac: MacAddr,
    /// Its address; absent: all of that MAC address.
    pub address: Option<Prefix>,
}

/// Which attachment: an instance has an address of a MAC address once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentKey {
    /// The instance.
    pub instance: String,
    /// The MAC address.
    pub mac: MacAddr,
    /// What is announced.
    pub prefix: Prefix,
}

impl Attachment {
    /// Which it is.
    pub fn key(&self) -> AttachmentKey {
        AttachmentKey { instance: self.instance.clone(), mac: self.mac, prefix: self.prefix() }
    }

    /// What is announced: one address, or the subnet.
    pub fn prefix(&self) -> Prefix {
        let whole = Prefix::new(self.address, self.length).filter(|_| self.advertise_subnet);
        whole.unwrap_or_else(|| Prefix::host(self.address))
    }

    /// The endpoint's own address: that of a subnet is its own only if it is not the subnet's name.
    pub fn own_address(&self) -> Option<IpAddr> {
        let prefix = self.prefix();
        (prefix.is_host() || prefix.addr() != self.address).then_some(self.address)
    }

    /// The subnet that its address is in, where one is named.
    pub fn subnet(&self) -> Option<Prefix> {
        Prefix::new(self.address, self.length).filter(|prefix| !prefix.is_host())
    }

    /// Whether others are told of it.
    pub fn announces(&self) -> bool {
        self.direction != Direction::FromPort
    }

    /// Whether packets of the port enter the instance.
    pub fn takes_packets(&self) -> bool {
        self.direction != Direction::ToPort
    }

    /// Reads the body of an attach.
    pub fn read(value: &Value) -> Result<Attachment, ApiError> {
        let body = Body::of(value)?;
        body.check_type()?;
        body.refuse_what_is_not_done()?;
        let (address, length) = body.address()?.ok_or_else(|| bad("ip_address is missing"))?;
        let local_pref = body.number("local_pref")?;
        let attachment = Attachment {
            instance: body.instance()?,
            mac: body.mac()?,
            interface: body.interface()?,
            address,
            length,
            advertise_subnet: body.flag("advertise_subnet")?,
            gateway: body.gateway()?,
            import: body.targets("import_rt")?.ok_or_else(|| bad("import_rt is missing"))?,
            export: body.targets("export_rt")?.ok_or_else(|| bad("export_rt is missing"))?,
            local_pref,
            hash_order: body.number("lb_consistent_hash_order")?,
            direction: body.direction()?,
            readvertise: body.readvertise()?,
            instance_description: body.words("instance_description")?,
            description: body.words("description")?,
            allowed: body.pairs()?,
            floating_ips: body.floating()?,
            security_groups: body.names("security_groups")?,
        };
        let holds = !attachment.allowed.is_empty() || !attachment.floating_ips.is_empty();
        if holds && !attachment.takes_packets() {
            return Err(bad(
                "allowed_address_pairs and floating_ips go with the direction \"both\" or \"from-port\"",
            ));
        }
        Ok(attachment)
    }
}

impl Detachment {
    /// Reads the body of a detach.
    pub fn read(value: &Value) -> Result<Detachment, ApiError> {
        let body = Body::of(value)?;
        body.check_type()?;
        let address = body.address()?.map(|(address, length)| {
            let whole =
                Prefix::new(address, length).filter(|_| body.flag("advertise_subnet").unwrap_or(false));
            whole.unwrap_or_else(|| Prefix::host(address))
        });
        Ok(Detachment { instance: body.instance()?, mac: body.mac()?, address })
    }

    /// Whether it means this one. Callers name a prefix as they attached it, but often without saying that it is one.
    pub fn means(&self, key: &AttachmentKey) -> bool {
        let same = |wanted: Prefix| {
            wanted == key.prefix || (!key.prefix.is_host() && wanted.addr() == key.prefix.addr())
        };
        self.instance == key.instance && self.mac == key.mac && self.address.is_none_or(same)
    }
}

#[cfg(test)]
mod tests;
