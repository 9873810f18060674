//! Addresses that stand for others: one to one ([`StaticNat`]), and what workloads are to the host's own stack.
//!
//! ```text
//!   pod 10.20.11.2:4000 ─▶ flow table ─▶ 169.254.64.7:4000 ─▶ vrouter0 ─▶ the host's kernel ─▶ 192.0.2.11:41007
//!                           (port 6)      a service address                routes, masquerades
//! ```
//! [`Snat`] lets a workload reach, with the node's address, what its VRF has no route for. We translate its address to
//! one that only this node knows and that is different for every port, so that tenants with equal addresses do not mix;
//! the kernel routes the packet and puts the node's address in front (nftables `masquerade`). The kernel alone knows
//! which ports its own sockets use, follows address changes of an LTE uplink, and translates ICMP errors and fragments
//! of the outside. What we add is the bound: each such flow is in the flow table first, and takes at most one of the
//! node's ports.
//!
//! The same addresses carry what the agent serves itself (metadata, DNS): its proxies know the port by them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_types::{PortId, VrfId};

/// The first of the addresses that stand for ports towards the host: 169.254.64.0/19. Not all of 169.254.0.0/16: clouds
/// have their own metadata service at 169.254.169.254, and Kubernetes its DNS cache at 169.254.20.10.
pub const SERVICE_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 64, 0), 19);
/// Of IPv6: fd76:7274::/64.
pub const SERVICE_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd76, 0x7274, 0, 0, 0, 0, 0, 0), 64);
/// Where cloud images look for metadata.
pub const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same over IPv6.
pub const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

/// Addresses in the range, but the first and the last.
const SERVICE_PORTS: u32 = (1 << 13) - 2;

/// The address that stands for a port towards the host.
pub fn service_address(port: PortId, v4: bool) -> Option<IpAddr> {
    let host = (port.0 < SERVICE_PORTS).then_some(port.0 + 1)?;
    Some(match v4 {
        true => Ipv4Addr::from_bits(SERVICE_V4.0.to_bits() | host).into(),
        false => Ipv6Addr::from_bits(SERVICE_V6.0.to_bits() | u128::from(host)).into(),
    })
}

/// Whether the address is one of those that stand for ports, whether there is such a port or not.
pub fn is_service_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.to_bits() >> (32 - SERVICE_V4.1) == SERVICE_V4.0.to_bits() >> (32 - SERVICE_V4.1)
        }
        IpAddr::V6(v6) => {
            v6.to_bits() >> (128 - SERVICE_V6.1) == SERVICE_V6.0.to_bits() >> (128 - SERVICE_V6.1)
        }
    }
}

/// The port that the address stands for.
pub fn service_port(address: IpAddr) -> Option<PortId> {
    let host = match address {
        _ if !is_service_address(address) => return None,
        IpAddr::V4(v4) => v4.to_bits() & ((1 << 13) - 1),
        IpAddr::V6(v6) => u32::try_from(v6.to_bits() & u128::from(u64::MAX)).ok()?,
    };
    host.checked_sub(1).filter(|port| *port < SERVICE_PORTS).map(PortId)
}

/// A floating address: what it stands for, and where others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticNat {
    /// The workload's own address.
    pub fixed: IpAddr,
    /// What others see, of the same family.
    pub floating: IpAddr,
    /// The VRF in which they see it.
    pub vrf: VrfId,
}

/// Which packets may leave with the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snat {
    /// Those of IPv4.
    pub v4: bool,
    /// Those of IPv6.
    pub v6: bool,
}

impl Snat {
    /// Both families.
    pub const BOTH: Snat = Snat { v4: true, v6: true };

    pub(crate) fn covers(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_an_address_of_its_own_in_both_families() {
        for port in [0, 1, 254, 255, 4095, SERVICE_PORTS - 1] {
            for v4 in [true, false] {
                let address = service_address(PortId(port), v4).unwrap();
                assert_eq!(service_port(address), Some(PortId(port)), "{address}");
                assert!(is_service_address(address));
            }
        }
        assert_eq!(service_address(PortId(6), true), Some("169.254.64.7".parse().unwrap()));
        assert_eq!(service_address(PortId(SERVICE_PORTS), true), None);
    }

    #[test]
    fn what_others_need_of_the_link_local_range_is_not_ours() {
        for other in
            ["169.254.169.254", "169.254.20.10", "169.254.1.1", "169.254.170.2", "fe80::1", "fd76:7275::1"]
        {
            let other: IpAddr = other.parse().unwrap();
            assert!(!is_service_address(other), "{other}");
            assert_eq!(service_port(other), None);
        }
        for nobody in ["169.254.64.0", "169.254.95.255", "fd76:7274::", "fd76:7274::1:0:0:1"] {
            assert_eq!(service_port(nobody.parse().unwrap()), None, "{nobody}");
        }
    }
}
