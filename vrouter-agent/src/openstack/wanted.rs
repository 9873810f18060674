//! What OpenStack wants of one tap, as the overlay can do it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_api::AttachPort;
use serde::{Deserialize, Serialize};
use vrouter_types::{Prefix, RouteTarget};

/// What is wanted of a tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This port.
    Port(Box<AttachPort>, RouteExtras),
    /// Nothing yet: why, for people.
    Waits(String),
}

/// What a port's routes say beside what every port's do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteExtras {
    /// Addresses of its own that nobody is told of, and that nothing is sent to.
    pub silent: BTreeSet<IpAddr>,
    /// What is different about the routes of its own addresses.
    pub own: BTreeMap<IpAddr, Merits>,
    /// Further routes to it.
    pub adverts: Vec<Advert>,
    /// Routes of others that are announced again, through it.
    pub leaks: Vec<Leak>,
}

/// What decides among equal routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merits {
    /// LOCAL_PREF; absent: the VRF's.
    pub local_pref: Option<u32>,
    /// The order for consistent hashing; absent: not sent.
    pub hash_order: Option<u32>,
}

/// A route to the port in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// The instance, which is the name of a VRF.
    pub vrf: String,
    /// What is announced.
    pub prefix: Prefix,
    /// Under a route distinguisher of the port's own, so that others may announce the same in this VRF.
    pub own_rd: bool,
    /// What it carries.
    pub merits: Merits,
}

/// Routes that leak through the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The instance that imports them.
    pub vrf: String,
    /// Which of the port's leaks from this instance it is: those that take the same have one number.
    pub part: usize,
    /// Those with one of these.
    pub from: Vec<RouteTarget>,
    /// What they carry then.
    pub to: Vec<RouteTarget>,
    /// And beside.
    pub merits: Merits,
}

impl RouteExtras {
    /// What others send to the port beside its own addresses and prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.adverts.iter().map(|advert| advert.prefix)
    }

    /// Whether there is nothing special.
    pub fn is_empty(&self) -> bool {
        *self == RouteExtras::default()
    }
}
