//! What happens to the overlay, and what it wants done.
//!
//! Both derive serde: a list of events and the effects that followed is the recording of a run. Nothing in here has
//! behaviour beyond small accessors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Config, ExportPolicy};
use crate::openstack::{Change, Records, Write};
use agent_api::{
    ApiError, AttachPort, AttachedPort, DetachPort, DetachedPort, PortKey, Reloaded, SecurityGroup,
    SecurityGroupChanged,
};
use serde::{Deserialize, Serialize};
use vrouter_types::{
    EncapSet, Label, MacAddr, PortId, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix, VrfId,
};

/// A caller that waits for an answer: the agent's own number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u64);

/// Milliseconds since the agent started. Only differences count, so a wall clock that jumps does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// Something happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The state directory has been read. The first event, and only once.
    Restore(Restore),
    /// A workload wants to join.
    Attach {
        /// Who waits for the answer.
        call: CallId,
        /// What it asks.
        request: AttachPort,
        /// When.
        now: Millis,
    },
    /// A workload leaves.
    Detach {
        /// Who waits for the answer.
        call: CallId,
        /// What it asks.
        request: DetachPort,
        /// When.
        now: Millis,
    },
    /// A DEL that was left on disk while the agent was away.
    Spooled {
        /// The file to delete once it is done.
        file: String,
        /// Which port.
        key: PortKey,
        /// When.
        now: Millis,
    },
    /// Somebody asks whether a port stands as it was attached.
    Check {
        /// Who waits for the answer.
        call: CallId,
        /// What the port was attached with.
        request: AttachPort,
    },
    /// Somebody makes a security group, or another of it.
    PutGroup {
        /// Who waits for the answer.
        call: CallId,
        /// What it is to be.
        group: SecurityGroup,
    },
    /// Somebody takes a security group away.
    DeleteGroup {
        /// Who waits for the answer.
        call: CallId,
        /// Its name.
        name: String,
    },
    /// The best paths of some prefixes changed.
    Routes(Vec<VrfRoute>),
    /// Every neighbor that could has told all its routes: what the last run knew beside them is gone.
    RoutesComplete,
    /// The operator has changed the configuration, and it is valid.
    Reload {
        /// Who waits for the answer.
        call: CallId,
        /// What it says now.
        config: Box<Config>,
    },
    /// The underlay came, changed or went.
    Underlay(Option<Underlay>),
    /// These are the host's own addresses now.
    HostAddresses(Vec<IpAddr>),
    /// An interface of the host appeared.
    LinkAdded(String),
    /// An interface of the host went.
    LinkRemoved(String),
    /// A workload has shown that it has this address, one that its port may use: by ARP or neighbour discovery, on its
    /// own account or asked.
    Learned {
        /// Its port.
        port: PortId,
        /// The address.
        address: IpAddr,
        /// Where it is.
        mac: MacAddr,
        /// When.
        now: Millis,
    },
    /// OpenStack has said something.
    OpenStack {
        /// Who waits for the answer.
        call: CallId,
        /// What it said.
        change: Change,
        /// When.
        now: Millis,
    },
    /// [`Effect::OpenPorts`] has been performed.
    Opened {
        /// What it was.
        underway: Underway,
        /// Ports whose interface could not be opened, and why.
        failed: Vec<(PortId, ApiError)>,
        /// When.
        now: Millis,
    },
    /// An effect failed; those after it were not performed.
    EffectFailed {
        /// Which.
        failed: Effect,
        /// Why, for people.
        error: ApiError,
        /// The effects of the same event that were not performed.
        undone: Vec<Effect>,
        /// When.
        now: Millis,
    },
    /// Time passed.
    Tick {
        /// When.
        now: Millis,
    },
}

/// What the state directory held.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Restore {
    /// The ports, in any order.
    pub ports: Vec<SavedPort>,
    /// Where the label pool goes on.
    pub label_cursor: Option<Label>,
    /// Names of the host's interfaces that the saved ports need and that exist.
    pub links: Vec<String>,
    /// The kernel's boot identifier now.
    pub boot_id: String,
    /// What the last run imported.
    pub routes: Vec<SavedVrf>,
    /// The security groups.
    #[serde(default)]
    pub groups: Vec<SecurityGroup>,
    /// How long that may serve, in milliseconds.
    pub stale_for: u64,
    /// Addresses that pods gave back lately, with the name of the VRF.
    #[serde(default)]
    pub rested: Vec<(String, IpAddr)>,
    /// What OpenStack had said.
    #[serde(default)]
    pub openstack: Records,
}

/// What a VRF had imported, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedVrf {
    /// Its name.
    pub name: String,
    /// What it imported then: a VRF that imports something else now has no use for the routes.
    pub import: Vec<RouteTarget>,
    /// The routes with the paths of other provider edges.
    pub routes: Vec<(Prefix, Vec<VrfPath>)>,
}

/// A port as it is on disk: what was asked for and what it got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedPort {
    /// Its number.
    pub port: PortId,
    /// Its label.
    pub label: Label,
    /// The name of its VRF.
    pub vrf: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The MTU that the workload was told.
    pub mtu: u16,
    /// Rises with each attach; restores the order of allocation.
    pub sequence: u64,
    /// The kernel's boot identifier when it was attached.
    pub boot_id: String,
    /// Addresses that the machine has shown to be here, and what their routes say more than an active one's do anyway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub active: BTreeMap<IpAddr, u32>,
    /// What was asked for.
    pub request: AttachPort,
}

/// Ports that are about to go into service together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Underway {
    /// Who waits for the answer; `None`: nobody.
    pub call: Option<CallId>,
    /// The interfaces to open.
    pub open: Vec<Opening>,
    /// What is to be done with them, but after they are open: changes to the host's routes.
    pub host: Vec<Effect>,
    /// What the caller is told instead of success.
    pub refused: Option<ApiError>,
}

/// One interface to open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The port.
    pub port: PortId,
    /// The host's interface.
    pub interface: String,
    /// The 802.1Q tag, for a sub-port.
    pub vlan: Option<u16>,
}

/// The way to the other provider edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Our end of the tunnels.
    pub address: IpAddr,
    /// The interface that holds it.
    pub interface: String,
    /// The largest packet that interface sends.
    pub mtu: u16,
}

/// All equal-cost best paths of one prefix in one VRF; none: the route is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfRoute {
    /// The VRF that imports it.
    pub vrf: VrfId,
    /// The prefix.
    pub prefix: Prefix,
    /// The paths.
    pub paths: Vec<VrfPath>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfPath {
    /// Which of the equal prefixes it was.
    pub rd: RouteDistinguisher,
    /// The provider edge.
    pub next_hop: IpAddr,
    /// The label that it wants.
    pub label: Label,
    /// What it named, or its neighbor's default; empty: nothing known.
    pub encaps: EncapSet,
    /// Whether it is a route of our own that another VRF of ours imports.
    pub local: bool,
    /// LOCAL_PREF.
    #[serde(default = "ordinary")]
    pub local_pref: u32,
}

/// What routes of an earlier version of the file had.
fn ordinary() -> u32 {
    100
}

/// A route of ours for the other provider edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRoute {
    /// The prefix with the VRF's route distinguisher.
    pub prefix: VpnPrefix,
    /// The label of the port behind it.
    pub label: Label,
    /// The underlay address.
    pub next_hop: IpAddr,
    /// What the VRF exports.
    pub route_targets: Vec<RouteTarget>,
    /// What the operator allows.
    pub encaps: EncapSet,
    /// What it carries beside.
    pub policy: ExportPolicy,
    /// Its place among equal ones for consistent hashing; absent: not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_order: Option<u32>,
}

/// Something to do. The effects of one event are performed in order; the first that fails ends the list and comes
/// back as [`Event::EffectFailed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Labels below this one (cyclically) may have been used: durable before any of them is.
    SaveLabels {
        /// Where the pool goes on after a restart.
        cursor: Label,
    },
    /// Write the port to disk, durably.
    SavePort(Box<SavedPort>),
    /// Write and delete all of this, durably: when it is performed, all of it is.
    SaveAll(Vec<Write>),
    /// Serve these interfaces. [`Event::Opened`] says which could not be.
    OpenPorts(Underway),
    /// Delete the port's file, durably.
    ForgetPort {
        /// The port.
        port: PortId,
        /// What its maker calls it.
        key: PortKey,
    },
    /// Write the security group to disk, durably.
    SaveGroup {
        /// What it is now.
        group: Box<SecurityGroup>,
        /// What it was.
        before: Option<Box<SecurityGroup>>,
    },
    /// Delete the security group's file, durably.
    ForgetGroup {
        /// What it was.
        group: Box<SecurityGroup>,
    },
    /// Serve the interface.
    OpenPort {
        /// The port.
        port: PortId,
        /// The host's interface.
        interface: String,
        /// Only its frames with this VLAN tag.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
    },
    /// Stop serving the interface. Cannot fail.
    ClosePort(PortId),
    /// Build the forwarding state and hand it to the dataplane. Cannot fail.
    PublishFib {
        /// Whether it may wait some milliseconds for others to come.
        soon: bool,
    },
    /// Use this tunnel source.
    SetUnderlay(Option<IpAddr>),
    /// Let the host reach this workload through `vrouter0`.
    AddHostRoute(IpAddr),
    /// No longer.
    RemoveHostRoute(IpAddr),
    /// Advertise the route, or replace it.
    Originate(LocalRoute),
    /// Withdraw it.
    Withdraw(VpnPrefix),
    /// Import these, and nothing else.
    SetImports(Vec<(VrfId, Vec<RouteTarget>)>),
    /// Speak to the neighbors as they are configured now. Cannot be undone.
    SetNeighbors {
        /// Those that are new, gone or changed, or all whose common settings are. The others must not notice.
        concerned: Vec<String>,
    },
    /// The host no longer has these addresses: sessions from there begin anew from where it is. Cannot fail.
    EndSessionsFrom(Vec<IpAddr>),
    /// Answer the caller.
    Answer {
        /// Who waits.
        call: CallId,
        /// What it is told.
        answer: Result<Answer, ApiError>,
    },
    /// A spooled DEL is done: delete its file.
    RemoveSpooled {
        /// The file's name in the spool.
        file: String,
    },
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To attach and check.
    Attached(AttachedPort),
    /// To detach.
    Detached(DetachedPort),
    /// To a change of a security group.
    GroupChanged(SecurityGroupChanged),
    /// To a reload.
    Reloaded(Reloaded),
    /// To OpenStack.
    Changed,
}
