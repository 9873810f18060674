//! What most tests begin with: gateways that serve one tenant, the city, and peer with each other or with a reflector.
//!
//! ```text
//!  node gw-<host> at 192.0.2.<host>
//!    VRF city   RD 192.0.2.<host>:100   target:4200000000:100   pods 10.20.<host>.0/24, fd00:20:<host>::/64
//! ```

use std::net::IpAddr;

use crate::config::{AgentConfig, Vrf};
use crate::lab::{Lab, underlay_v4};
use crate::node::Node;

/// The AS of every lab: one that does not fit two octets.
pub const ASN: u32 = 4_200_000_000;

/// The city's route target: one whose AS number takes four octets (RFC 5668).
pub const CITY_TARGET: &str = "target:4200000000:100";

/// The city's VRF on the node of this host number, the default for pods.
pub fn city(host: u8) -> Vrf {
    vrf("city", CITY_TARGET, 20, host).line(&format!("rd = \"{}\"", city_rd(host))).default()
}

/// The city's route distinguisher on the node of this host number.
pub fn city_rd(host: u8) -> String {
    format!("{}:100", underlay_v4(host))
}

/// A VRF with pods in `10.<net>.<host>.0/24` and `fd00:<net>:<host>::/64`.
pub fn vrf(name: &str, target: &str, net: u8, host: u8) -> Vrf {
    Vrf::new(name, target).pods(&format!("10.{net}.{host}.0/24")).pods(&format!("fd00:{net}:{host}::/64"))
}

/// A gateway that serves the city and peers with the speakers of these host numbers.
pub fn gateway(host: u8, peers: &[u8]) -> AgentConfig {
    let config = AgentConfig::new(ASN).vrf(&city(host));
    peers.iter().fold(config, |config, peer| config.neighbor(underlay_v4(*peer).into()))
}

/// Two gateways, 11 and 12, that peer directly; their session is established.
pub fn pair(lab: &Lab) -> (Node, Node) {
    pair_with(lab, &gateway(11, &[12]), &gateway(12, &[11]))
}

/// Two gateways, 11 and 12, of these configurations, that peer directly; their session is established.
pub fn pair_with(lab: &Lab, one: &AgentConfig, two: &AgentConfig) -> (Node, Node) {
    let one = Node::start(lab, "gw-11", 11, one);
    let two = Node::start(lab, "gw-12", 12, two);
    one.wait_established(two.address());
    two.wait_established(one.address());
    (one, two)
}

/// The prefix of one address, as routes print it.
pub fn host_prefix(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}

/// Waits until a node's city has a route for every address.
pub fn wait_routes(node: &Node, addresses: &[IpAddr]) {
    for address in addresses {
        node.wait_route("city", &host_prefix(*address));
    }
}
