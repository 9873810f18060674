//! Agent configurations for the lab, as a person would write them (TOML).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

/// What a node's `agent.toml` says beyond what the lab itself knows (its name, socket, state and underlay address).
#[derive(Debug, Clone, Default)]
pub struct AgentConfig {
    asn: u32,
    underlay: Option<String>,
    listen: String,
    encapsulations: Vec<String>,
    accept_from: Vec<String>,
    sections: String,
}

impl AgentConfig {
    /// An agent of this AS number, with no neighbor and no VRF, that listens for BGP and prefers MPLS-over-UDP.
    pub fn new(asn: u32) -> AgentConfig {
        AgentConfig {
            asn,
            listen: "0.0.0.0:179".to_owned(),
            encapsulations: vec!["mpls-over-udp".to_owned(), "mpls-over-gre".to_owned()],
            ..AgentConfig::default()
        }
    }

    /// Replaces the operator's order of encapsulations.
    pub fn encapsulations(mut self, order: &[&str]) -> AgentConfig {
        self.encapsulations = order.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Tunnels from this address instead of the node's IPv4 address. The router ID stays the latter.
    pub fn underlay(mut self, address: IpAddr) -> AgentConfig {
        self.underlay = Some(format!("address = \"{address}\""));
        self
    }

    /// Tunnels from whatever address this interface has.
    pub fn underlay_interface(mut self, interface: &str) -> AgentConfig {
        self.underlay = Some(format!("interface = \"{interface}\""));
        self
    }

    /// Listens for BGP here instead of on port 179 of every IPv4 address.
    pub fn bgp_listen(mut self, address: &str) -> AgentConfig {
        address.clone_into(&mut self.listen);
        self
    }

    /// Accepts tunnel packets from these addresses, whatever BGP says.
    pub fn accept_from(mut self, prefix: &str) -> AgentConfig {
        self.accept_from.push(prefix.to_owned());
        self
    }

    /// Adds an iBGP neighbor.
    pub fn neighbor(self, address: IpAddr) -> AgentConfig {
        self.neighbor_with(address, "")
    }

    /// Adds a neighbor with further lines, as `asn = 65001`.
    pub fn neighbor_with(mut self, address: IpAddr, lines: &str) -> AgentConfig {
        let _ = writeln!(self.sections, "[[bgp.neighbor]]\naddress = \"{address}\"\n{lines}");
        self
    }

    /// Adds a VRF.
    pub fn vrf(mut self, vrf: &Vrf) -> AgentConfig {
        self.sections.push_str(&vrf.to_toml());
        self
    }

    /// Adds a section as it stands.
    pub fn section(mut self, toml: &str) -> AgentConfig {
        let _ = writeln!(self.sections, "{toml}");
        self
    }

    /// The whole file, for an agent that keeps its files in `directory`.
    pub fn to_toml(&self, name: &str, address: IpAddr, directory: &Path) -> String {
        let AgentConfig { asn, underlay, listen, encapsulations, accept_from, sections } = self;
        let directory = directory.display();
        let underlay = underlay.clone().unwrap_or_else(|| format!("address = \"{address}\""));
        format!(
            "[agent]\nname = \"{name}\"\nsocket = \"{directory}/agent.sock\"\nstate-dir = \"{directory}/state\"\n\n\
             [underlay]\n{underlay}\nencapsulations = {encapsulations:?}\naccept-from = {accept_from:?}\n\n\
             [bgp]\nasn = {asn}\nrouter-id = \"{address}\"\nlisten = \"{listen}\"\n\n{sections}"
        )
    }
}

/// A VRF of an agent's configuration.
#[derive(Debug, Clone)]
pub struct Vrf {
    name: String,
    targets: Vec<String>,
    imports: Vec<String>,
    pods: Vec<String>,
    lines: Vec<String>,
}

impl Vrf {
    /// A VRF that imports and exports one route target.
    pub fn new(name: &str, target: &str) -> Vrf {
        Vrf {
            name: name.to_owned(),
            targets: vec![target.to_owned()],
            imports: Vec::new(),
            pods: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Imports another route target, too.
    pub fn import(mut self, target: &str) -> Vrf {
        self.imports.push(target.to_owned());
        self
    }

    /// Adds a range of pod addresses.
    pub fn pods(mut self, range: &str) -> Vrf {
        self.pods.push(range.to_owned());
        self
    }

    /// Makes it the VRF of pods that name none.
    pub fn default(self) -> Vrf {
        self.line("default = true")
    }

    /// Adds a line as it stands, as `host = "closed"`.
    pub fn line(mut self, line: &str) -> Vrf {
        self.lines.push(line.to_owned());
        self
    }

    fn to_toml(&self) -> String {
        let Vrf { name, targets, imports, pods, lines } = self;
        let imports: Vec<&String> = targets.iter().chain(imports).collect();
        let lines = lines.join("\n");
        format!(
            "[[vrf]]\nname = \"{name}\"\nimport = {imports:?}\nexport = {targets:?}\npods = {pods:?}\n{lines}\n\n"
        )
    }
}
