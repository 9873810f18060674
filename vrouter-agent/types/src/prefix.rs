use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::RouteDistinguisher;
use crate::text::serde_as_text;

/// An IP prefix whose host bits are zero, so that equal prefixes are equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNetwork);

/// The text is no address, or the length does not fit the family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no prefix (want an address and a length, like 10.20.11.0/24)")]
pub struct ParsePrefixError(String);

impl Prefix {
    /// The prefix of this length that holds the address; `None` if the length does not fit the family.
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        let net = IpNetwork::new(addr, len).ok()?;
        IpNetwork::new(net.network(), len).ok().map(Prefix)
    }

    /// The /32 or /128 of one address.
    pub fn host(addr: IpAddr) -> Prefix {
        Prefix(IpNetwork::from(addr))
    }

    /// The first address.
    pub fn addr(self) -> IpAddr {
        self.0.ip()
    }

    /// The length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty")]
    pub fn len(self) -> u8 {
        self.0.prefix()
    }

    /// Whether it is the default route.
    pub fn is_default(self) -> bool {
        self.len() == 0
    }

    /// Whether it holds one address only.
    pub fn is_host(self) -> bool {
        self.len() == if self.is_ipv4() { 32 } else { 128 }
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }

    /// Whether the address lies in it. Never across families.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(addr)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other.addr()) || other.contains(self.addr())
    }

    /// The same as `ipnetwork` has it.
    pub fn network(self) -> IpNetwork {
        self.0
    }
}

impl From<IpNetwork> for Prefix {
    fn from(net: IpNetwork) -> Prefix {
        // The length is that of a valid network of the same family, so it fits.
        Prefix::new(net.ip(), net.prefix()).unwrap_or_else(|| Prefix::host(net.ip()))
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Prefix, ParsePrefixError> {
        let net: IpNetwork = text.parse().map_err(|_| ParsePrefixError(text.chars().take(64).collect()))?;
        Ok(Prefix::from(net))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

serde_as_text!(Prefix);

/// A prefix made unique by a route distinguisher (RFC 4364 §4.1, RFC 4659 §2). Prints as `RD:prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VpnPrefix {
    /// Which of the equal prefixes this is.
    pub rd: RouteDistinguisher,
    /// The customer's prefix.
    pub prefix: Prefix,
}

impl FromStr for VpnPrefix {
    type Err = ParsePrefixError;

    /// Reads `RD:prefix`, where the RD is `admin:number`: the prefix begins behind the second colon.
    fn from_str(text: &str) -> Result<VpnPrefix, ParsePrefixError> {
        let refuse = || ParsePrefixError(text.chars().take(64).collect());
        let (second, _) = text.match_indices(':').nth(1).ok_or_else(refuse)?;
        let (rd, prefix) = (&text[..second], &text[second + 1..]);
        Ok(VpnPrefix { rd: rd.parse().map_err(|_| refuse())?, prefix: prefix.parse().map_err(|_| refuse())? })
    }
}

impl fmt::Display for VpnPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.rd, self.prefix))
    }
}

serde_as_text!(VpnPrefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        let prefix: Prefix = "10.20.11.7/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.20.11.0/24");
        assert_eq!("fd00:20::1".parse::<Prefix>().unwrap().to_string(), "fd00:20::1/128");
    }

    #[test]
    fn length_must_fit_the_family() {
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!(Prefix::new("::".parse().unwrap(), 129).is_none());
    }

    #[test]
    fn overlap_is_symmetric_and_stays_in_its_family() {
        let (wide, narrow): (Prefix, Prefix) =
            ("10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap());
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!"0.0.0.0/0".parse::<Prefix>().unwrap().overlaps("::/0".parse().unwrap()));
    }

    #[test]
    fn vpn_prefix_reads_what_it_prints() {
        for text in ["65000:1:10.0.0.1/32", "192.0.2.11:1:fd00::1/128", "4200000000:7:0.0.0.0/0"] {
            assert_eq!(text.parse::<VpnPrefix>().unwrap().to_string(), text);
        }
        assert!("10.0.0.1/32".parse::<VpnPrefix>().is_err());
    }
}
