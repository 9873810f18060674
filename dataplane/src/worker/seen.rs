//! Letting captures see what comes in. Where none runs, all of this is one comparison per packet.

use std::ops::Range;

use dataplane_core::{DropReason, Outer, Verdict};
use vrouter_types::PortId;

use super::Worker;
use crate::capture::{self, Begun, CapturePoint, Ends};
use crate::snapshot::Snapshot;

impl Worker {
    /// A frame from a port, before the pipeline changes it.
    pub(super) fn see_frame(&self, snapshot: &Snapshot, port: PortId, range: Range<usize>) -> Option<Begun> {
        if snapshot.taps.is_empty() {
            return None;
        }
        let frame = self.memory.get(range).unwrap_or_default();
        Some(capture::incoming_frame(snapshot, self.index, CapturePoint::Port(port), frame))
    }

    /// A tunnel's packet from its label on.
    pub(super) fn see_tunnel(
        &self,
        snapshot: &Snapshot,
        outer: Outer,
        ports: (u16, u16),
        range: Range<usize>,
    ) -> Option<Begun> {
        if snapshot.taps.is_empty() {
            return None;
        }
        let dst = snapshot.underlay.as_ref()?.address();
        let ends = Ends { src: outer.src, dst, ports, tos: outer.tos, encap: outer.encap };
        let octets = self.memory.get(range).unwrap_or_default();
        Some(capture::incoming_tunnel(snapshot, self.index, &ends, octets))
    }

    /// What became of it.
    pub(super) fn seen(&self, snapshot: &Snapshot, seen: Option<Begun>, dropped: Option<DropReason>) {
        if let Some(begun) = seen {
            begun.end(snapshot, self.index, dropped);
        }
    }

    pub(super) fn dropped_by(&self, verdict: Verdict) -> Option<DropReason> {
        match verdict {
            Verdict::Drop(reason) => Some(reason),
            Verdict::Reply(_) => self.state.reply.reason(),
            Verdict::ToPort(_) | Verdict::ToHost | Verdict::ToUnderlay(_) => None,
        }
    }
}
