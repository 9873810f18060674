//! What OpenStack says of virtual machines' taps: by the incumbent's port API, by bagpipe's VPN API, or by both.
//!
//! ```text
//!  9091  POST /port …            ─▶ port_api ─▶ Plug ───────┐
//!  8082  POST /attach_localport  ─▶ vpn_api  ─▶ Attachment ─┴▶ Ledger ─▶ per tap: the port it asks for, or why it waits
//!                                                                       per instance: its VRF
//! ```
//! The two meet at the tap: an attachment that names the tap of a plug, or else the MAC address of one, is about that
//! plug's port. Whichever comes first, the port is the same in the end: the plug gives the interface, the MAC address
//! and the fixed addresses, the attachment gives the VRF and what is advertised there. Everything here is pure: it
//! reads, checks and remembers; [`crate::overlay`] makes ports and VRFs of it.
//!
//! What it refuses: identifiers with paths in them, addresses and UUIDs that are none (the incumbent made zeros of
//! them), more of anything than [`Limits`] says.

pub mod attachment;
pub mod ledger;
pub mod looking_glass;
pub mod plug;
pub mod port_api;
pub mod uuid;
pub mod view;
pub mod vpn_api;
pub mod wanted;

pub use attachment::{Attachment, Detachment, Direction, Readvertise};
pub use ledger::{Instance, Ledger, Records};
pub use plug::{Plug, PlugKind};
pub use uuid::Uuid;
pub use wanted::{Advert, Leak, RouteExtras, Wanted};

use serde::{Deserialize, Serialize};

/// How many there may be. A hypervisor has a tenth of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Plugs, and attachments of taps.
    pub ports: usize,
    /// VPN instances.
    pub instances: usize,
    /// Elements of one array.
    pub batch: usize,
}

/// As many as there are ports.
pub const LIMITS: Limits = Limits { ports: 4096, instances: 4096, batch: 4096 };

/// The container of every port that OpenStack asked for; its interface is the tap.
pub const CONTAINER: &str = "openstack";

/// One call's worth of change: all of it, or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// `POST /port`, one or many.
    Plug(Vec<Plug>),
    /// `DELETE /port/<uuid>`.
    Unplug(Uuid),
    /// `DELETE /vm/<uuid>`: every port of that machine.
    UnplugInstance(Uuid),
    /// `PUT /enable-port`, `/disable-port`.
    Link {
        /// The port.
        id: Uuid,
        /// Whether it is enabled.
        up: bool,
    },
    /// `POST /syncports`: what is not plugged again in time goes.
    Sync,
    /// `POST /attach_localport`, one or many.
    Attach(Vec<Attachment>),
    /// `POST /detach_localport`, one or many.
    Detach(Vec<Detachment>),
}

/// One thing to write to disk, or to delete there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// A port's state file.
    Port(Box<crate::event::SavedPort>),
    /// A port's state file goes.
    ForgetPort(vrouter_types::PortId, agent_api::PortKey),
    /// A file in the incumbent's directory.
    Plug(Box<Plug>),
    /// It goes.
    ForgetPlug(Uuid),
    /// An attachment, under its number.
    Attachment(u32, Box<Attachment>),
    /// It goes.
    ForgetAttachment(u32),
    /// An instance, under the number of its route distinguisher.
    Instance(Box<Instance>),
    /// It goes.
    ForgetInstance(u16),
    /// `/syncports` awaits this port, whose file had this time.
    Awaited(Uuid, String),
    /// No longer.
    ForgetAwaited(Uuid),
}

impl Write {
    /// Which file it is about: its kind, and its number there.
    pub(crate) fn file(&self) -> (u8, u128) {
        match self {
            Write::Port(saved) => (0, saved.port.0.into()),
            Write::ForgetPort(port, _) => (0, port.0.into()),
            Write::Plug(plug) => (1, plug.id.0),
            Write::ForgetPlug(id) => (1, id.0),
            Write::Attachment(number, _) | Write::ForgetAttachment(number) => (2, (*number).into()),
            Write::Instance(instance) => (3, instance.number.into()),
            Write::ForgetInstance(number) => (3, (*number).into()),
            Write::Awaited(id, _) | Write::ForgetAwaited(id) => (4, id.0),
        }
    }
}
