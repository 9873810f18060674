//! One node with hand-written forwarding state: no agent, no BGP. For measuring, and for seeing what the crate takes.
//!
//! ```text
//! static_node underlay 192.0.2.1 encap mpls-over-udp mtu 1468 \
//!     port veth0 02:00:00:00:00:01 16 10.1.0.1,fd01::1 \
//!     remote 192.0.2.2 17 10.1.0.2/32,fd01::2/128
//! ```
//! Ports are interface, MAC, our label, addresses; remotes are tunnel end, its label, prefixes. It forwards until
//! standard input ends, answers each line with its counters, and needs root.

use std::error::Error;
use std::io::BufRead;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::{Dataplane, DataplaneConfig};
use dataplane_core::{Fib, Hop, Port, Route, RouteTable, Tunnel, TunnelId, Vrf};
use vrouter_types::{Encap, Label, PortId, Prefix, VrfId};

type Failure = Box<dyn Error>;

#[derive(Debug)]
struct Node {
    underlay: Option<IpAddr>,
    encap: Encap,
    mtu: u16,
    fib: Fib,
    routes: RouteTable,
    interfaces: Vec<String>,
    config: DataplaneConfig,
}

fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut node = Node {
        underlay: None,
        encap: Encap::MplsOverUdp,
        mtu: 1468,
        fib: Fib::new(),
        routes: RouteTable::new(),
        interfaces: Vec::new(),
        config: DataplaneConfig { host_interface: None, ..DataplaneConfig::default() },
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        node.read(&word, &mut words)?;
    }
    node.run()
}

impl Node {
    fn read(&mut self, word: &str, words: &mut impl Iterator<Item = String>) -> Result<(), Failure> {
        let mut next = || words.next().ok_or_else(|| format!("{word}: something is missing"));
        match word {
            "underlay" => self.underlay = Some(next()?.parse()?),
            "encap" => self.encap = next()?.parse()?,
            "mtu" => self.mtu = next()?.parse()?,
            "buffer" => self.config.socket_buffer = next()?.parse()?,
            "workers" => self.config.workers = Some(next()?.parse()?),
            "pool" => self.config.entropy_ports = next()?.parse()?,
            "host" => self.config.host_interface = Some(next()?),
            "port" => {
                let (interface, mac, label, addresses) = (next()?, next()?, next()?, next()?);
                self.port(interface, &mac, &label, &addresses)?;
            }
            "remote" => {
                let (address, label, prefixes) = (next()?, next()?, next()?);
                self.remote(address.parse()?, &label, &prefixes)?;
            }
            other => return Err(format!("{other}: not known").into()),
        }
        Ok(())
    }

    fn port(&mut self, interface: String, mac: &str, label: &str, addresses: &str) -> Result<(), Failure> {
        let id = PortId(u32::try_from(self.interfaces.len())?);
        let addresses = addresses.split(',').map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
        for address in &addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            self.routes.insert(format!("{address}/{length}").parse()?, Route::Port(id));
            self.fib.host.insert(*address, id);
        }
        let mac = mac.parse()?;
        let mtu = self.mtu;
        self.fib.insert_port(Arc::new(Port { addresses, mtu, ..Port::new(id, VrfId(0), mac) }));
        self.fib.ilm.insert(Label::new(label.parse()?)?, id);
        self.interfaces.push(interface);
        Ok(())
    }

    fn remote(&mut self, remote: IpAddr, label: &str, prefixes: &str) -> Result<(), Failure> {
        let tunnel = TunnelId(u32::try_from(self.fib.tunnels.len())?);
        self.fib.insert_tunnel(tunnel, Tunnel { remote, encap: self.encap, mtu: self.mtu });
        self.fib.sources.insert(remote);
        let hop = Hop { tunnel, label: Label::new(label.parse()?)? };
        for prefix in prefixes.split(',') {
            self.routes.insert(prefix.parse::<Prefix>()?, Route::Tunnel(vec![hop].into()));
        }
        Ok(())
    }

    fn run(mut self) -> Result<(), Failure> {
        let vrf = Vrf { routes: self.routes, host_open: true, ..Vrf::new(VrfId(0), "static") };
        self.fib.insert_vrf(Arc::new(vrf));
        let remotes: Vec<IpAddr> = self.fib.tunnels.iter().flatten().map(|tunnel| tunnel.remote).collect();
        let dataplane = Dataplane::start(self.config, Arc::new(self.fib))?;
        dataplane.set_underlay(self.underlay)?;
        for (port, interface) in (0..).zip(&self.interfaces) {
            dataplane.open_port(PortId(port), interface)?;
        }
        println!("ready: {}", dataplane.offloads().join(", "));
        for line in std::io::stdin().lock().lines() {
            line?;
            for (port, interface) in (0..).zip(&self.interfaces) {
                println!("{interface}: {:?}", dataplane.port_counters(PortId(port)));
            }
            for remote in &remotes {
                println!("{remote}: {:?}", dataplane.tunnel_counters(*remote, self.encap));
            }
            for (reason, count) in dataplane.drops() {
                println!("drop {}: {count}", reason.name());
            }
        }
        Ok(())
    }
}
