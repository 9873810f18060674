//! What `port add` says of whom a workload may reach and be, beside its addresses.

use std::net::IpAddr;
use std::str::FromStr;

use agent_api::{AddressPair, AttachPort, FloatingIp};
use clap::Args;
use vrouter_types::Prefix;

#[derive(Debug, Args, Default)]
pub(crate) struct Reach {
    /// A security group that it is in; may be repeated. Without one all may pass
    #[arg(long = "security-group", value_name = "NAME", help_heading = "Whom it reaches")]
    pub(crate) security_groups: Vec<String>,
    /// Addresses that it may use beside its own, perhaps only with this MAC address; may be repeated
    #[arg(long = "allow", value_name = "PREFIX[=MAC]", help_heading = "Whom it reaches")]
    pub(crate) allowed: Vec<AllowArg>,
    /// An address of another VRF that stands for one of its own; may be repeated
    #[arg(long = "floating-ip", value_name = "ADDR=OWN@VRF", help_heading = "Whom it reaches")]
    pub(crate) floating_ips: Vec<FloatingArg>,
    /// The DSCP of its tunnel packets, instead of the VRF's
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=63), help_heading = "Whom it reaches")]
    pub(crate) dscp: Option<u8>,
}

impl Reach {
    pub(crate) fn put(&self, port: AttachPort) -> AttachPort {
        AttachPort {
            security_groups: (!self.security_groups.is_empty()).then(|| self.security_groups.clone()),
            allowed: self.allowed.iter().map(|allow| allow.0).collect(),
            floating_ips: self.floating_ips.iter().map(|floating| floating.0.clone()).collect(),
            dscp: self.dscp,
            ..port
        }
    }
}

/// `10.20.11.9/32=00:00:5e:00:01:09`
#[derive(Debug, Clone)]
pub(crate) struct AllowArg(AddressPair);

impl FromStr for AllowArg {
    type Err = String;

    fn from_str(text: &str) -> Result<AllowArg, String> {
        let (prefix, mac) = match text.split_once('=') {
            Some((prefix, mac)) => (prefix, Some(mac.parse().map_err(|error| format!("{error}"))?)),
            None => (text, None),
        };
        let address = prefix.parse::<IpAddr>().map(Prefix::host);
        let prefix = address.or_else(|_| prefix.parse()).map_err(|error| format!("{error}"))?;
        Ok(AllowArg(AddressPair { prefix, mac }))
    }
}

/// `198.51.100.5=10.20.11.2@public`
#[derive(Debug, Clone)]
pub(crate) struct FloatingArg(FloatingIp);

impl FromStr for FloatingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<FloatingArg, String> {
        let parts = || {
            let (address, rest) = text.split_once('=')?;
            let (fixed, vrf) = rest.split_once('@')?;
            Some((address.parse().ok()?, fixed.parse().ok()?, vrf.to_owned()))
        };
        let (address, fixed, vrf): (IpAddr, IpAddr, String) =
            parts().ok_or("want ADDRESS=OWN@VRF, like 198.51.100.5=10.20.11.2@public")?;
        if address.is_ipv4() != fixed.is_ipv4() {
            return Err(format!("{address} and {fixed} are of two families"));
        }
        Ok(FloatingArg(FloatingIp { address, fixed, vrf }))
    }
}
