//! Questions: gathered from the overlay, the speaker and the dataplane, put into words by [`crate::show`].

use std::time::Instant;

use agent_api::{ApiError, ErrorKind};

use super::{Agent, Bgp};
use crate::server::{Reply, Request};
use crate::show;

impl Agent {
    /// Changes nothing.
    pub(super) async fn show(&self, request: Request) -> Result<Reply, ApiError> {
        let overlay = &self.overlay;
        Ok(match request {
            Request::Attach(_) | Request::Detach(_) | Request::Check(_) => {
                return Err(ApiError::new(ErrorKind::Internal, "that is no question"));
            }
            Request::Status => {
                let summary = self.running()?.summary().await;
                let uptime = self.started.elapsed();
                Reply::Status(show::status(overlay, Some(&summary), uptime, true, overlay.problems()))
            }
            Request::BgpSummary => {
                let summary = self.running()?.summary().await;
                Reply::BgpSummary(show::bgp_summary(&self.config, Some(&summary)))
            }
            Request::BgpNeighbors(address) => {
                let neighbors = self.running()?.neighbors().await;
                Reply::BgpNeighbors(show::bgp_neighbors(&neighbors, address)?)
            }
            Request::BgpRoutes(filter) => {
                let query = show::route_query(&self.config, &filter)?;
                let routes = self.running()?.routes(query).await;
                Reply::BgpRoutes(show::bgp_routes(overlay, &routes, Instant::now()))
            }
            Request::Vrfs => Reply::Vrfs(show::vrfs(overlay)),
            Request::Routes { vrf, prefix } => Reply::Routes(show::routes(overlay, vrf.as_deref(), prefix)?),
            Request::Ports => Reply::Ports(show::ports(overlay, |port| self.dataplane.port_counters(port))),
            Request::Labels => Reply::Labels(show::labels(overlay)),
            Request::Tunnels => {
                let counters = |remote, encap| self.dataplane.tunnel_counters(remote, encap);
                Reply::Tunnels(show::tunnels(overlay, self.dataplane.offloads(), counters))
            }
            Request::Drops => {
                let of_port = |port| self.dataplane.port_drops(port);
                Reply::Drops(show::drops(overlay, &self.dataplane.drops(), of_port))
            }
            Request::Trace(request) => Reply::Trace(show::trace(overlay, &self.dataplane.fib(), &request)?),
        })
    }

    /// Callers are served only once it runs.
    fn running(&self) -> Result<&bgp_peer::SpeakerHandle, ApiError> {
        match &self.bgp {
            Bgp::Running(speaker) => Ok(speaker),
            Bgp::Early(_) => Err(ApiError::new(ErrorKind::Unavailable, "the agent is starting; ask again")),
        }
    }
}
