//! What a worker keeps between packets: the time it was told, the reply in hand, how many replies are still due.

use std::sync::Arc;

use vrouter_types::PortId;

use crate::flow_cache::FlowCache;
use crate::flow_table::{FlowLimits, FlowTable};
use crate::host_flows::HostFlows;
use crate::learned::Announcements;
use crate::limiter::Limiter;
use crate::verdict::DropReason;

/// Flows of a worker that shares none, as of a trace.
const OWN_FLOWS: usize = 64;

/// An Ethernet header and the largest IP packet. The pages are touched only as far as replies reach.
const REPLY_LEN: usize = 14 + 65_535;

/// One worker's state. Nothing of it is shared but flows.
#[derive(Debug)]
pub struct State {
    /// The time, as milliseconds of a clock that does not go back. Told once per batch.
    pub now_ms: u64,
    /// Flows that the host began, the same for all workers.
    pub host_flows: Arc<HostFlows>,
    /// The packet to send after [`Verdict::Reply`](crate::Verdict::Reply).
    pub reply: ReplyBuffer,
    /// What workloads have shown of their addresses, to be told to control.
    pub learned: Announcements,
    /// The port whose rules refused the last packet, where that is not the one that it came from. Whoever counts the
    /// drop takes it.
    pub refused_by: Option<PortId>,
    /// Flows of ports with a policy and of translated addresses, the same for all workers.
    pub flow_table: Arc<FlowTable>,
    pub(crate) limiter: Limiter,
    pub(crate) flows: FlowCache,
}

impl State {
    /// The state of a worker that has seen no packet.
    pub fn new(host_flows: Arc<HostFlows>) -> State {
        let limits = FlowLimits { flows: OWN_FLOWS, ..FlowLimits::default() };
        let flow_table = FlowTable::new(limits, host_flows.key().words());
        flow_table.prepare();
        State::sharing(host_flows, Arc::new(flow_table))
    }

    /// The same with flows that other workers share.
    pub fn sharing(host_flows: Arc<HostFlows>, flow_table: Arc<FlowTable>) -> State {
        let (reply, limiter, flows) = (ReplyBuffer::new(), Limiter::new(), FlowCache::new());
        State {
            now_ms: 0,
            refused_by: None,
            host_flows,
            reply,
            learned: Announcements::new(),
            flow_table,
            limiter,
            flows,
        }
    }
}

/// A packet of our own making.
#[derive(Debug)]
pub struct ReplyBuffer {
    buffer: Box<[u8]>,
    len: usize,
    reason: Option<DropReason>,
    service: Option<Service>,
}

/// What a workload was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// An answer to DHCP.
    Dhcp,
    /// An answer to DHCPv6.
    Dhcp6,
    /// A router advertisement.
    RouterAdvertisement,
}

impl ReplyBuffer {
    pub(crate) fn new() -> ReplyBuffer {
        ReplyBuffer { buffer: vec![0; REPLY_LEN].into(), len: 0, reason: None, service: None }
    }

    /// What to send; its checksums are complete.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or(&[])
    }

    /// Why the packet that this answers did not arrive, if it should have: an ICMP error is also a drop to be
    /// counted. ARP, neighbour discovery and echo replies are none.
    pub fn reason(&self) -> Option<DropReason> {
        self.reason
    }

    /// What was served with it, if it is more than an address's MAC, an echo or an error.
    pub fn service(&self) -> Option<Service> {
        self.service
    }

    /// Says what is served with the reply in hand.
    pub(crate) fn serve(&mut self, service: Service) {
        self.service = Some(service);
    }

    /// The octets, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.len).unwrap_or(&mut [])
    }

    /// Cuts a reply that turned out shorter.
    pub(crate) fn shorten(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Room for a reply of this length, zeroed; `None` where it is longer than any packet.
    pub(crate) fn start(&mut self, len: usize, reason: Option<DropReason>) -> Option<&mut [u8]> {
        let bytes = self.buffer.get_mut(..len)?;
        bytes.fill(0);
        (self.len, self.reason, self.service) = (len, reason, None);
        Some(bytes)
    }
}
