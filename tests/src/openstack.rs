//! OpenStack's side of a hypervisor: calls as nova's plug driver and bagpipe's clients make them, and machines on taps.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use vrouter_types::{MacAddr, Prefix};

use crate::config::AgentConfig;
use crate::netns::Namespace;
use crate::packets;
use crate::probe::{Answer, Probe};
use crate::wait::{PATIENCE, wait_for};

/// The port of the incumbent's port API.
pub const PORT_API: u16 = 9091;
/// The port of bagpipe's VPN API.
pub const VPN_API: u16 = 8082;
/// A network that lab configurations give to a VRF.
pub const NETWORK: &str = "56297dc0-0000-4000-8000-000000000002";

/// What an API answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The words behind it.
    pub reason: String,
    /// The body.
    pub body: Value,
}

impl Reply {
    /// The reply, which is a success.
    ///
    /// # Panics
    /// When it is none.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }
}

/// The configuration with both APIs; ports are kept in `ports_dir`.
pub fn with_openstack(config: AgentConfig, ports_dir: &std::path::Path) -> AgentConfig {
    config.section(&format!(
        "[openstack]\nport-api = \"127.0.0.1:{PORT_API}\"\nvpn-api = \"127.0.0.1:{VPN_API}\"\nports-dir = \"{}\"\n",
        ports_dir.display()
    ))
}

/// One HTTP/1.1 exchange in a namespace.
///
/// # Panics
/// When nobody answers within half a minute, or it is no HTTP.
pub fn call(namespace: &Namespace, port: u16, method: &str, path: &str, body: Option<&Value>) -> Reply {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = || -> io::Result<String> {
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = namespace.run(exchange).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ').skip(1);
    let status = words.next().and_then(|status| status.parse().ok());
    Reply {
        status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
        reason: words.next().unwrap_or_default().to_owned(),
        body: serde_json::from_str(body).unwrap_or_else(|error| panic!("{method} {path}: {error}: {body:?}")),
    }
}

/// A call of the port API.
pub fn port_api(namespace: &Namespace, method: &str, path: &str, body: Option<&Value>) -> Reply {
    call(namespace, PORT_API, method, path, body)
}

/// A call of the VPN API.
pub fn vpn_api(namespace: &Namespace, method: &str, path: &str, body: Option<&Value>) -> Reply {
    call(namespace, VPN_API, method, path, body)
}

/// Waits until an address answers: a route is shown a moment before it forwards.
///
/// # Panics
/// When it does not.
pub fn reaches(from: &Namespace, to: IpAddr) {
    wait_for(&format!("an answer from {to}"), PATIENCE, || match Probe::default().send(from, to) {
        Answer::Reply => Ok(()),
        other => Err(other),
    });
}

/// What nova knows of a machine's port. `n` makes everything that is its own.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its UUID.
    pub id: String,
    /// Its tap.
    pub tap: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub ipv4: Ipv4Addr,
}

impl Port {
    /// The n-th.
    pub fn new(n: u16) -> Port {
        let [high, low] = n.to_be_bytes();
        let id = format!("93c2{n:04x}-6e79-485e-bfa4-b9daa713{n:04x}");
        Port {
            tap: format!("tap{}", &id[..11]),
            mac: MacAddr([0x02, 0x93, 0xc2, 0, high, low]),
            ipv4: Ipv4Addr::new(10, 50, high, low),
            id,
        }
    }

    /// As `vrouter-port-control` sends it.
    pub fn plug(&self, network: &str) -> Value {
        json!({
            "id": self.id, "instance-id": self.id.replace("93c2", "69ce"), "vn-id": network,
            "vm-project-id": "9970147c-0000-4000-8000-000000000003", "display-name": format!("vm-{}", self.ipv4),
            "ip-address": self.ipv4.to_string(), "ip6-address": "None", "mac-address": self.mac.to_string(),
            "system-name": self.tap, "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1, "vhostuser-mode": 0,
            "author": "/usr/bin/vrouter-port-control", "time": "2026-11-20 10:00:00.000000"
        })
    }

    /// As `bagpipe-rest-attach` sends it.
    pub fn attach(&self, instance: &str, target: &str) -> Value {
        json!({
            "vpn_instance_id": instance, "vpn_type": "ipvpn", "import_rt": [target], "export_rt": [target],
            "mac_address": self.mac.to_string(), "ip_address": self.ipv4.to_string(), "gateway_ip": "10.50.255.254",
            "local_port": { "linuxif": self.tap }, "advertise_subnet": false, "readvertise": null,
            "attract_traffic": {}, "lb_consistent_hash_order": 0, "vni": null
        })
    }

    /// As `bagpipe-rest-attach --detach` sends it.
    pub fn detach(&self, instance: &str) -> Value {
        self.attach(instance, "64512:1")
    }
}

/// A machine: a namespace behind a tap, or behind a veth that has a tap's name, which is the same to the agent.
pub struct Machine {
    /// Where it is.
    pub namespace: Namespace,
    mac: MacAddr,
    addresses: Vec<IpAddr>,
}

impl Machine {
    /// Boots it on a hypervisor. The tap is there when this returns; it says nothing of its own accord.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn boot(
        name: &str,
        hypervisor: &Namespace,
        tap: &str,
        mac: MacAddr,
        addresses: &[IpAddr],
    ) -> Machine {
        let namespace = Namespace::new(name);
        namespace.set_sysctl("net/ipv4/conf/default/arp_notify", "0");
        namespace.add_veth("eth0", hypervisor, tap);
        namespace.netlink(|netlink| {
            netlink.set_mac("eth0", mac)?;
            addresses
                .iter()
                .try_for_each(|it| netlink.add_address("eth0", *it, if it.is_ipv4() { 32 } else { 128 }))
        });
        let machine = Machine { namespace, mac, addresses: addresses.to_vec() };
        machine.route();
        machine
    }

    /// Everything is behind the gateway.
    fn route(&self) {
        let gateways: [(IpAddr, &str); 2] = [
            (Ipv4Addr::new(169, 254, 1, 1).into(), "0.0.0.0/0"),
            (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(), "::/0"),
        ];
        for (gateway, all) in gateways {
            if !self.addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
                continue;
            }
            let all: Prefix = all.parse().unwrap_or_else(|error| panic!("{error}"));
            self.namespace.netlink(|netlink| {
                if gateway.is_ipv4() {
                    netlink.add_route(Prefix::host(gateway), None, "eth0")?;
                }
                netlink.add_route(all, Some(gateway), "eth0")?;
                netlink.add_neighbour("eth0", gateway, MacAddr::GATEWAY)
            });
        }
    }

    /// Says where it is, as QEMU and Linux do after a migration: gratuitous ARP for each IPv4 address.
    ///
    /// # Panics
    /// When a frame cannot be sent.
    pub fn announce(&self) {
        for address in self.addresses.iter().copied() {
            if let IpAddr::V4(address) = address {
                self.announce_as(address);
            }
        }
    }

    /// The same for one address, which may be one that it holds beside its own.
    ///
    /// # Panics
    /// When the frame cannot be sent.
    pub fn announce_as(&self, address: Ipv4Addr) {
        let arp = packets::arp_request(self.mac, address, address);
        let frame = packets::ethernet(MacAddr::BROADCAST, self.mac, 0x0806, &arp);
        let sent = packets::send_frame(&self.namespace, "eth0", &frame);
        sent.unwrap_or_else(|error| panic!("announce {address}: {error}"));
    }

    /// Unplugs it from the world, or plugs it in again: what it is sent is lost.
    pub fn set_up(&self, up: bool) {
        self.namespace.netlink(|netlink| netlink.set_up("eth0", up));
        if up {
            // The kernel has forgotten them.
            self.route();
        }
    }
}
