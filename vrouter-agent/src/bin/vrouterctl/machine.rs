//! What `port add` tells a virtual machine, beside its addresses.

use std::net::IpAddr;
use std::str::FromStr;

use agent_api::{Subnet, VmServices};
use clap::Args;
use vrouter_types::Prefix;

#[derive(Debug, Args, Default)]
pub(crate) struct Machine {
    /// Answer DHCP and router solicitations: the VM learns its addresses and all below
    #[arg(long, help_heading = "What the VM is told")]
    pub(crate) dhcp: bool,
    /// A subnet of its addresses, with the router in it if there is one; may be repeated
    #[arg(
        long = "subnet",
        value_name = "PREFIX[=GATEWAY]",
        help_heading = "What the VM is told",
        requires = "dhcp"
    )]
    pub(crate) subnets: Vec<SubnetArg>,
    /// Its host name
    #[arg(long, value_name = "NAME", help_heading = "What the VM is told", requires = "dhcp")]
    pub(crate) host_name: Option<String>,
    /// Its domain
    #[arg(long, value_name = "NAME", help_heading = "What the VM is told", requires = "dhcp")]
    pub(crate) domain: Option<String>,
    /// A DNS server, instead of the gateway; may be repeated
    #[arg(long = "dns", value_name = "ADDR", help_heading = "What the VM is told", requires = "dhcp")]
    pub(crate) dns: Vec<IpAddr>,
    /// Seconds that an address is leased, instead of the configured time
    #[arg(long, value_name = "SECONDS", help_heading = "What the VM is told", requires = "dhcp")]
    pub(crate) lease: Option<u32>,
    /// The instance that the metadata service knows; serves metadata at 169.254.169.254
    #[arg(long, value_name = "UUID", help_heading = "What the VM is told")]
    pub(crate) instance: Option<String>,
    /// The instance's project
    #[arg(long, value_name = "UUID", help_heading = "What the VM is told", requires = "instance")]
    pub(crate) project: Option<String>,
}

impl Machine {
    /// `None`: nothing was said.
    pub(crate) fn services(&self) -> Option<VmServices> {
        let said = self.dhcp || self.instance.is_some();
        said.then(|| VmServices {
            instance: self.instance.clone(),
            project: self.project.clone(),
            host_name: self.host_name.clone(),
            domain: self.domain.clone(),
            dns: self.dns.clone(),
            subnets: self.subnets.iter().map(|subnet| subnet.0.clone()).collect(),
            lease: self.lease.unwrap_or(0),
            dhcp: self.dhcp,
            metadata: self.instance.is_some(),
        })
    }
}

/// `10.0.0.0/24=10.0.0.1`, or without the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubnetArg(Subnet);

impl FromStr for SubnetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<SubnetArg, String> {
        let (prefix, gateway) = match text.split_once('=') {
            Some((prefix, gateway)) => (prefix, Some(gateway)),
            None => (text, None),
        };
        let prefix: Prefix = prefix.parse().map_err(|error| format!("{error}"))?;
        let gateway = match gateway {
            Some(gateway) => {
                Some(gateway.parse::<IpAddr>().map_err(|_| format!("{gateway:?} is no address"))?)
            }
            None => None,
        };
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != prefix.is_ipv4()) {
            return Err("the router is of another family than the subnet".to_owned());
        }
        Ok(SubnetArg(Subnet { prefix, gateway, routes: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_with_and_without_a_router() {
        let read = |text: &str| text.parse::<SubnetArg>().map(|subnet| subnet.0);
        let subnet = read("10.0.0.0/24=10.0.0.1").unwrap();
        assert_eq!(
            (subnet.prefix.to_string().as_str(), subnet.gateway),
            ("10.0.0.0/24", "10.0.0.1".parse().ok())
        );
        assert_eq!(read("fd00::/64").unwrap().gateway, None);
        for bad in ["", "10.0.0.0/33", "10.0.0.0/24=", "10.0.0.0/24=fd00::1", "x=10.0.0.1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_served_unless_asked_for() {
        assert_eq!(Machine::default().services(), None);
        let instance = Some("i-1".to_owned());
        let services = Machine { instance, ..Machine::default() }.services().unwrap();
        assert!(services.metadata && !services.dhcp);
    }
}
