//! Host routes over a restart: those that the last run left are read once, stay as they are where they are still
//! right, and go where nobody needs them. None is taken away and put back: the host's packets would find no way between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError, PROTOCOL, collect, kernel};

/// Routes of the last run that are not looked at yet, with their sources.
#[derive(Debug, Default)]
pub(super) struct Left(BTreeMap<IpAddr, Option<IpAddr>>);

impl Left {
    /// Whether the route to this address stands as it should.
    pub(super) fn is_so(&self, address: IpAddr, source: IpAddr) -> bool {
        self.0.get(&address) == Some(&Some(source))
    }
}

impl Netlink {
    /// Names of all interfaces.
    pub async fn link_names(&self) -> Result<BTreeSet<String>, NetlinkError> {
        let links = collect(self.handle.link().get().execute()).await;
        let links = links.map_err(|error| kernel("read the interfaces".to_owned(), error))?;
        let name = |attribute: netlink_packet_route::link::LinkAttribute| match attribute {
            netlink_packet_route::link::LinkAttribute::IfName(name) => Some(name),
            _ => None,
        };
        Ok(links.into_iter().filter_map(|link| link.attributes.into_iter().find_map(name)).collect())
    }

    /// Learns which of our routes by this interface are there already.
    pub async fn read_host_routes(&mut self, interface: &str) -> Result<(), NetlinkError> {
        let index = self.link_index(interface).await?;
        let failed = |error| kernel(format!("read the routes by {interface}"), error);
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = collect(self.handle.route().get(v4).execute()).await.map_err(failed)?;
        // A kernel without IPv6 has none.
        routes.extend(collect(self.handle.route().get(v6).execute()).await.unwrap_or_default());
        self.left = Left(routes.iter().filter_map(|route| ours(route, index)).collect());
        Ok(())
    }

    /// Ends what [`Netlink::read_host_routes`] began: routes that lead to nobody any more go. Says to whom they led.
    pub async fn sweep_host_routes(
        &mut self,
        interface: &str,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, NetlinkError> {
        let left = std::mem::take(&mut self.left);
        let unwanted: Vec<IpAddr> = left.0.into_keys().filter(|address| !wanted.contains(address)).collect();
        for address in &unwanted {
            self.remove_host_route(*address, interface).await?;
        }
        Ok(unwanted)
    }
}

/// The destination and the source of a host route of ours by this interface.
fn ours(route: &RouteMessage, index: u32) -> Option<(IpAddr, Option<IpAddr>)> {
    let header = &route.header;
    let has = |wanted: &RouteAttribute| route.attributes.contains(wanted);
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let find = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        route.attributes.iter().find_map(pick).and_then(address)
    };
    let destination = find(|attribute| match attribute {
        RouteAttribute::Destination(to) => Some(to),
        _ => None,
    })?;
    let source = find(|attribute| match attribute {
        RouteAttribute::PrefSource(from) => Some(from),
        _ => None,
    });
    let whole = if destination.is_ipv4() { 32 } else { 128 };
    let is_ours = header.protocol == PROTOCOL
        && header.destination_prefix_length == whole
        && has(&RouteAttribute::Oif(index));
    is_ours.then_some((destination, source))
}

#[cfg(test)]
mod tests {
    use super::super::host_route;
    use super::*;

    #[test]
    fn only_our_own_host_routes_by_this_interface_are_ours() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let gateway: IpAddr = "169.254.1.1".parse().unwrap();
        assert_eq!(ours(&host_route(v4, 7, Some(gateway)), 7), Some((v4, Some(gateway))));
        assert_eq!(ours(&host_route(v6, 7, None), 7), Some((v6, None)));
        assert_eq!(ours(&host_route(v4, 7, None), 8), None, "by another interface");
        let mut other = host_route(v4, 7, None);
        other.header.protocol = netlink_packet_route::route::RouteProtocol::Static;
        assert_eq!(ours(&other, 7), None, "somebody else's");
        let mut wide = host_route(v4, 7, None);
        wide.header.destination_prefix_length = 24;
        assert_eq!(ours(&wide, 7), None, "no host route");
    }

    #[test]
    fn a_route_with_another_source_is_made_anew() {
        let (address, source, other) =
            ("10.0.0.1".parse().unwrap(), "169.254.1.1".parse().unwrap(), "169.254.1.2".parse().unwrap());
        let left = Left([(address, Some(source))].into());
        assert!(left.is_so(address, source) && !left.is_so(address, other) && !left.is_so(source, source));
    }
}
