//! What `vrouterctl reload`, `show memory` and `monitor` read.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vrouter_types::{Label, Prefix};

/// How the agent's run goes, beside what it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
    /// The dataplane's threads.
    pub workers: Vec<WorkerStatus>,
    /// Sockets that the service manager holds for the next run; absent where there is no such manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_sockets: Option<usize>,
    /// How this run began.
    pub start: LastStart,
    /// Deletes of vrouter-cni that wait on disk.
    pub spooled_deletes: usize,
    /// State files that could not be read and were put aside, as `*.bad`.
    pub unreadable_files: usize,
}

/// A thread of the dataplane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: usize,
    /// Whether it moves packets.
    pub moves: bool,
    /// For how long it has not, in milliseconds.
    pub stuck_msec: u64,
}

/// How a run began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastStart {
    /// Sockets that the last run left and this one serves; none: it began with nothing.
    pub adopted_sockets: usize,
    /// The version of the last run, where that ended on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
    /// From its last packet to our first, in microseconds, where the last run ended on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_usec: Option<u64>,
}

/// What a reload did. A file with mistakes is an error instead, and changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// What is in force now and was not before, a line each; empty: nothing is different.
    pub changed: Vec<String>,
    /// Keys that have another value in the file, which counts after the next start only.
    pub needs_restart: Vec<String>,
}

/// `show memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Resident memory of the agent, dataplane included, as the kernel counts it.
    pub rss_bytes: u64,
    /// The most it ever was.
    pub rss_peak_bytes: u64,
    /// What it holds.
    pub parts: Vec<MemoryPart>,
}

/// One kind of thing that takes memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPart {
    /// What.
    pub name: String,
    /// How many.
    pub entries: u64,
    /// How many octets they take, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// One line of `monitor bgp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MonitorEvent {
    /// A session is in another state; at the beginning, in this one.
    Session {
        /// Milliseconds since 1970.
        at_epoch_msec: u64,
        /// The neighbor.
        peer: IpAddr,
        /// `Established`, or what FRR calls it else; `Down` for one that was lost.
        state: String,
        /// Why, where there is a reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A VRF's route is new, different or gone.
    Route {
        /// Milliseconds since 1970.
        at_epoch_msec: u64,
        /// The VRF.
        vrf: String,
        /// The prefix.
        prefix: Prefix,
        /// All equally good paths; none: the route is gone.
        paths: Vec<MonitorPath>,
    },
    /// The reader was too slow for this many lines.
    Lost {
        /// How many.
        lines: u64,
    },
}

/// One way of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitorPath {
    /// The other provider edge; our own end for a route of this node.
    pub nexthop: IpAddr,
    /// The label that it wants.
    pub label: Label,
    /// Whether it is a route of this node.
    pub local: bool,
}
