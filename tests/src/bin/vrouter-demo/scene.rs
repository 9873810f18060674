//! The sites of the demonstration: two gateways and a datacenter hypervisor, peering iBGP in a full mesh.
//!
//! ```text
//!   gw-1 192.0.2.11              gw-2 192.0.2.12             dc 192.0.2.1
//!   smart-city 10.20.11.0/24     smart-city 10.20.12.0/24    smart-city: Graphite VM 10.20.0.10
//!   parking    10.20.11.0/24                                 parking:    Graphite VM 10.20.0.10
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::{Lab, underlay_v4};
use vrouter_tests::netns::Namespace;
use vrouter_tests::node::Node;
use vrouter_types::{MacAddr, Prefix};

use crate::narrator::Narrator;

/// The AS of all three: four octets.
const ASN: u32 = 4_200_000_001;
/// Host numbers on the wide area network.
const HOSTS: [u8; 3] = [11, 12, 1];
/// Where each tenant's Graphite listens: the same addresses for both tenants.
pub(crate) const GRAPHITE4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
/// The same in IPv6.
pub(crate) const GRAPHITE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0x10);

/// A tenant: its VRF, and what its readings are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenant {
    /// Lamps that measure the air.
    SmartCity,
    /// Parking lots that count cars. Its addresses are those of the other.
    Parking,
}

impl Tenant {
    /// The name of the VRF.
    pub(crate) fn vrf(self) -> &'static str {
        match self {
            Tenant::SmartCity => "smart-city",
            Tenant::Parking => "parking",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Tenant::SmartCity => "target:4200000001:100",
            Tenant::Parking => "target:4200000001:200",
        }
    }

    /// The first word of each of its readings.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Tenant::SmartCity => "city",
            Tenant::Parking => "parking",
        }
    }

    fn tap(self) -> &'static str {
        match self {
            Tenant::SmartCity => "tap-city",
            Tenant::Parking => "tap-parking",
        }
    }
}

/// The three nodes.
pub(crate) struct Sites {
    /// A gateway with both tenants.
    pub(crate) gw1: Node,
    /// A gateway with one.
    pub(crate) gw2: Node,
    /// The hypervisor.
    pub(crate) dc: Node,
}

impl Sites {
    /// Starts the three agents.
    pub(crate) fn start(lab: &Lab) -> Sites {
        let city = |pods: &[&str]| vrf(Tenant::SmartCity, pods).default();
        let parking = |pods: &[&str]| vrf(Tenant::Parking, pods);
        let gw1 = config(11)
            .vrf(&city(&["10.20.11.0/24", "fd00:20:11::/64"]))
            .vrf(&parking(&["10.20.11.0/24", "fd00:20:11::/64"]));
        let gw2 = config(12).vrf(&city(&["10.20.12.0/24", "fd00:20:12::/64"]));
        let dc = config(1).vrf(&city(&[])).vrf(&parking(&[]));
        Sites {
            gw1: Node::start(lab, "gw-1", 11, &gw1),
            gw2: Node::start(lab, "gw-2", 12, &gw2),
            dc: Node::start(lab, "dc", 1, &dc),
        }
    }

    /// All three, with what they are.
    pub(crate) fn all(&self) -> [(&Node, &'static str); 3] {
        [
            (&self.gw1, "gateway on a street lamp"),
            (&self.gw2, "gateway in a car park"),
            (&self.dc, "hypervisor in the datacenter"),
        ]
    }

    /// Waits until every session is established.
    pub(crate) fn wait_established(&self) {
        for (node, _) in self.all() {
            let others = HOSTS.map(|host| IpAddr::from(underlay_v4(host)));
            others
                .iter()
                .filter(|address| **address != node.address())
                .for_each(|a| node.wait_established(*a));
        }
    }
}

fn config(host: u8) -> AgentConfig {
    let others = HOSTS.iter().filter(|other| **other != host);
    others.fold(AgentConfig::new(ASN), |config, other| config.neighbor(underlay_v4(*other).into()))
}

fn vrf(tenant: Tenant, pods: &[&str]) -> Vrf {
    pods.iter().fold(Vrf::new(tenant.vrf(), tenant.target()), |vrf, range| vrf.pods(range))
}

/// A stand-in for a virtual machine: a namespace of its own behind a link of the hypervisor's, set up as a guest would
/// be, attached with `vrouterctl port add` as nova's taps are.
pub(crate) fn add_graphite_vm(lab: &Lab, dc: &Node, tenant: Tenant, narrator: &Narrator) -> Namespace {
    let vm = lab.namespace(&format!("vm-{}", tenant.metric()));
    dc.namespace().add_veth(tenant.tap(), &vm, "eth0");
    let mac = MacAddr([0x02, 0x00, 0x5e, 0x10, 0x00, if tenant == Tenant::SmartCity { 1 } else { 2 }]);
    vm.netlink(|netlink| {
        netlink.set_mac("eth0", mac)?;
        netlink.set_mtu("eth0", 1450)
    });
    vm.add_address("eth0", GRAPHITE4.into(), 24);
    vm.add_address("eth0", GRAPHITE6.into(), 64);
    let gateways: [(&str, IpAddr); 2] = [
        ("0.0.0.0/0", Ipv4Addr::new(10, 20, 0, 1).into()),
        ("::/0", Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()),
    ];
    for (everything, gateway) in gateways {
        let everything: Prefix = everything.parse().expect("a default route is a prefix");
        vm.netlink(|netlink| netlink.add_route(everything, Some(gateway), "eth0"));
    }
    let (mac, v4, v6) = (mac.to_string(), GRAPHITE4.to_string(), GRAPHITE6.to_string());
    let words = ["port", "add", "--vrf", tenant.vrf(), "--interface", tenant.tap(), "--mac", &mac];
    let words: Vec<&str> = words.into_iter().chain(["--address", &v4, "--address", &v6]).collect();
    narrator.command(dc, &words);
    vm
}
