//! Desired state: events in, effects out.
//!
//! [`Overlay::apply`] is the only place where something is decided, and it is a function of the events so far: no
//! clock, no file, no socket. What it wants done it returns, in the order in which it must be done.

mod state;

pub use state::{Port, PortState, Protocol, RouteEntry, Target, Tunnel, Vrf};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_api::{PoolUse, PortKey};
use vrouter_types::{Encap, Label, PortId, Prefix, VrfId};

use crate::config::Config;
use crate::event::{Effect, Event, Underlay};
use crate::labels::LabelUse;

/// All of it.
#[derive(Debug)]
pub struct Overlay {
    config: Arc<Config>,
    vrfs: Vec<Vrf>,
    ports: BTreeMap<PortId, Port>,
    keys: BTreeMap<PortKey, PortId>,
    underlay: Option<Underlay>,
}

impl Overlay {
    /// Nothing but what the configuration says.
    pub fn new(config: Arc<Config>) -> Overlay {
        let vrfs = Vec::new();
        Overlay { config, vrfs, ports: BTreeMap::new(), keys: BTreeMap::new(), underlay: None }
    }

    /// Decides what an event means.
    pub fn apply(&mut self, _event: Event) -> Vec<Effect> {
        Vec::new()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The VRFs in order of their numbers.
    pub fn vrfs(&self) -> &[Vrf] {
        &self.vrfs
    }

    /// The VRF of this number.
    pub fn vrf(&self, id: VrfId) -> Option<&Vrf> {
        self.vrfs.get(usize::try_from(id.0).ok()?)
    }

    /// The VRF of this name.
    pub fn vrf_by_name(&self, name: &str) -> Option<&Vrf> {
        self.vrfs.iter().find(|vrf| vrf.config.name == name)
    }

    /// What is used of the VRF's pod ranges.
    pub fn pool_use(&self, _vrf: VrfId) -> Vec<PoolUse> {
        Vec::new()
    }

    /// The VRF's routes as they forward, by prefix.
    pub fn routes(&self, _vrf: VrfId) -> Vec<RouteEntry> {
        Vec::new()
    }

    /// The ports in order of their numbers.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values()
    }

    /// The port of this number.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(&id)
    }

    /// The port that its maker calls this.
    pub fn port_by_key(&self, key: &PortKey) -> Option<&Port> {
        self.ports.get(self.keys.get(key)?)
    }

    /// The port whose address this is for the host.
    pub fn host_owner(&self, _address: IpAddr) -> Option<PortId> {
        None
    }

    /// Labels in use or resting, in order of their values.
    pub fn labels(&self) -> Vec<(Label, LabelUse)> {
        Vec::new()
    }

    /// Tunnels that a route leads through, in order of their numbers.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        Vec::new()
    }

    /// The way to the other provider edges, when there is one.
    pub fn underlay(&self) -> Option<&Underlay> {
        self.underlay.as_ref()
    }

    /// What is wrong and a person should know, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// The largest inner packet to this provider edge, which is what the underlay leaves.
    pub fn tunnel_mtu(&self, _remote: IpAddr, _encap: Encap) -> u16 {
        0
    }

    /// Prefixes of provider edges that no route taught us.
    pub fn accept_from(&self) -> &[Prefix] {
        &self.config.underlay.accept_from
    }
}
