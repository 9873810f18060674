//! Router advertisements that nobody asked for (RFC 4861 §6.2.4), from the agent's own tick: each port once in some
//! minutes, not all at the same time.

use dataplane::Dataplane;
use dataplane_core::{Fib, unsolicited_advertisement};
use tracing::debug;

/// Seconds between two advertisements of a port; what they say holds nine times as long.
const INTERVAL: u32 = 200;

/// Remembers whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Advertiser {
    second: u32,
}

impl Advertiser {
    /// Nobody's turn yet.
    pub(super) fn new() -> Advertiser {
        Advertiser::default()
    }

    /// To be called once a second.
    pub(super) fn tick(&mut self, fib: &Fib, dataplane: &Dataplane) {
        self.second = (self.second + 1) % INTERVAL;
        for port in fib.ports.iter().flatten().filter(|port| port.id.0 % INTERVAL == self.second) {
            let Some(frame) = unsolicited_advertisement(&fib.gateway, port) else { continue };
            let sent = dataplane.advertise_router(port.id, &frame);
            debug!(port = %port.id, ?sent, "router advertisement");
        }
    }
}
