//! What BGP says, for whoever watches (`monitor bgp`). Nobody watching: nothing is made.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_api::{ApiError, ErrorKind, MonitorEvent, MonitorPath};
use tokio::sync::broadcast;

use super::{Agent, Bgp};
use crate::event::VrfRoute;
use crate::server::{Monitor, Reply};
use crate::show::state_name;

/// Lines that a slow reader may be behind.
const LINES: usize = 256;

pub(super) fn channel() -> broadcast::Sender<MonitorEvent> {
    broadcast::channel(LINES).0
}

impl Agent {
    /// How every session stands, then what happens.
    pub(super) async fn watch(&self) -> Result<Reply, ApiError> {
        let (Bgp::Running(speaker), Some(monitor)) = (&self.bgp, &self.monitor) else {
            return Err(ApiError::new(ErrorKind::Unavailable, "the agent is starting or stopping"));
        };
        let events = monitor.subscribe();
        let at_epoch_msec = now();
        let session = |view: bgp_peer::NeighborView| MonitorEvent::Session {
            at_epoch_msec,
            peer: view.address,
            state: state_name(view.state).to_owned(),
            reason: view.last_error.filter(|_| view.state != bgp_peer::State::Established),
        };
        let first = speaker.neighbors().await.into_iter().map(session).collect();
        Ok(Reply::Monitor(Monitor::new(first, events)))
    }

    pub(super) fn tell_session(&self, peer: IpAddr, state: &str, reason: Option<String>) {
        let Some(monitor) = self.watched() else { return };
        let state = state.to_owned();
        // Nobody may be left to read it.
        let _ = monitor.send(MonitorEvent::Session { at_epoch_msec: now(), peer, state, reason });
    }

    pub(super) fn tell_routes(&self, routes: &[VrfRoute]) {
        let Some(monitor) = self.watched() else { return };
        for route in routes {
            let Some(vrf) = self.overlay.vrf(route.vrf) else { continue };
            let path = |path: &crate::event::VrfPath| MonitorPath {
                nexthop: path.next_hop,
                label: path.label,
                local: path.local,
            };
            let _ = monitor.send(MonitorEvent::Route {
                at_epoch_msec: now(),
                vrf: vrf.config.name.clone(),
                prefix: route.prefix,
                paths: route.paths.iter().map(path).collect(),
            });
        }
    }

    fn watched(&self) -> Option<&broadcast::Sender<MonitorEvent>> {
        self.monitor.as_ref().filter(|monitor| monitor.receiver_count() > 0)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
