//! Questions: gathered from the overlay, the speaker and the dataplane, put into words by [`crate::show`].

use std::time::Instant;

use agent_api::{
    ApiError, BgpClear, BgpClearKind, BgpRtc, ErrorKind, Explanation, Memory, MemoryPart, Status,
};
use bgp_peer::{ClearError, ClearKind};
use vrouter_types::Prefix;

use super::{Agent, Bgp};
use crate::server::{Reply, Request};
use crate::{memory, metrics, show};

impl Agent {
    /// Changes nothing.
    pub(super) async fn show(&self, request: Request) -> Result<Reply, ApiError> {
        let overlay = &self.overlay;
        Ok(match request {
            Request::Attach(_)
            | Request::Detach(_)
            | Request::Check(_)
            | Request::Reload
            | Request::PutSecurityGroup(_)
            | Request::DeleteSecurityGroup(_)
            | Request::PortApi(_)
            | Request::VpnApi(_)
            | Request::BgpClear(_) => {
                return Err(ApiError::new(ErrorKind::Internal, "that is no question"));
            }
            Request::Status => Reply::Status(self.status().await?),
            Request::BgpSummary => {
                let summary = self.running()?.summary().await;
                Reply::BgpSummary(show::bgp_summary(&self.config, Some(&summary)))
            }
            Request::BgpNeighbors(address) => {
                let neighbors = self.running()?.neighbors().await;
                Reply::BgpNeighbors(show::bgp_neighbors(&neighbors, address)?)
            }
            Request::BgpRoutes(filter) => {
                let speaker = self.running()?;
                let neighbors = speaker.neighbors().await;
                let query = show::route_query(&neighbors, &filter)?;
                let routes = speaker.routes(query).await;
                Reply::BgpRoutes(show::bgp_routes(overlay, &neighbors, &routes, Instant::now()))
            }
            Request::Vrfs => Reply::Vrfs(show::vrfs(overlay)),
            Request::Routes { vrf, prefix } => Reply::Routes(show::routes(overlay, vrf.as_deref(), prefix)?),
            Request::Ports => {
                let read = |port| {
                    let counters = self.dataplane.port_counters(port);
                    (counters, self.rates.of_port(port, self.now(), &counters))
                };
                Reply::Ports(show::ports(overlay, read))
            }
            Request::Labels => Reply::Labels(show::labels(overlay)),
            Request::Tunnels => {
                let counters = |remote, encap| {
                    let counters = self.dataplane.tunnel_counters(remote, encap);
                    (counters, self.rates.of_tunnel((remote, encap), self.now(), &counters))
                };
                Reply::Tunnels(show::tunnels(overlay, self.dataplane.offloads(), counters))
            }
            Request::Drops => {
                let now = self.now();
                Reply::Drops(show::drops(
                    overlay,
                    &self.dataplane.drops(),
                    |reason, packets| self.rates.of_drops(reason, now, packets),
                    |port| self.dataplane.port_drops(port),
                    |port, reason, packets| self.rates.of_port_drops((port, reason), now, packets),
                ))
            }
            request @ (Request::Flows { .. } | Request::SecurityGroups | Request::SecurityGroup(_)) => {
                return self.show_policy(request);
            }
            Request::BgpRtc => Reply::BgpRtc(self.rtc().await?),
            Request::Explain { vrf, prefix } => Reply::Explanation(self.explain(&vrf, prefix).await?),
            Request::Memory => Reply::Memory(self.memory().await?),
            Request::OpenStack => Reply::OpenStack(crate::openstack::view::openstack(overlay)),
            Request::Monitor => self.watch().await?,
            Request::Capture(request) => self.capture(&request)?,
            Request::Metrics => Reply::Metrics(self.metrics_page().await?),
            Request::Trace(request) => Reply::Trace(show::trace(overlay, &self.dataplane.fib(), &request)?),
        })
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let summary = self.running()?.summary().await;
        let uptime = self.started.elapsed();
        let mut problems = self.overlay.problems();
        problems.extend(self.state.problems());
        problems.extend(self.dataplane.masquerade_failure().map(|why| {
            format!("workloads of VRFs with snat = true cannot leave with the node's address: {why}")
        }));
        problems.extend(self.worker_problems());
        problems.extend(show::bgp_problems(&summary.neighbors));
        let mut status =
            show::status(&self.overlay, Some(&summary), uptime, self.state.is_writable(), problems);
        status.run = Some(self.run_status());
        Ok(status)
    }

    /// Flows, and the rules that they follow.
    fn show_policy(&self, request: Request) -> Result<Reply, ApiError> {
        let overlay = &self.overlay;
        Ok(match request {
            Request::Flows { vrf, port, limit } => {
                let filter = show::FlowFilter { vrf, port, limit };
                let table = show::flow_table_use(&self.config, self.dataplane.flow_use());
                Reply::Flows(show::flows(overlay, self.dataplane.flows(), table, &filter)?)
            }
            Request::SecurityGroups => Reply::SecurityGroups(overlay.security_groups()),
            Request::SecurityGroup(name) => {
                let view = overlay.security_group_view(&name);
                let missing =
                    || ApiError::new(ErrorKind::NotFound, format!("there is no security group {name:?}"));
                Reply::SecurityGroup(Box::new(view.ok_or_else(missing)?))
            }
            _ => return Err(ApiError::new(ErrorKind::Internal, "that is no question")),
        })
    }

    async fn rtc(&self) -> Result<BgpRtc, ApiError> {
        let speaker = self.running()?;
        let views = speaker.with_rib(|rib, _| rib.rtc()).await.unwrap_or_default();
        Ok(show::bgp_rtc(&speaker.neighbors().await, &views))
    }

    async fn explain(&self, vrf: &str, prefix: Prefix) -> Result<Explanation, ApiError> {
        let speaker = self.running()?;
        let vrf = show::explained_vrf(&self.overlay, vrf)?;
        let reasons = speaker.with_rib(move |rib, _| rib.explain(vrf, prefix)).await;
        let reasons = reasons.ok_or_else(|| ApiError::new(ErrorKind::Unavailable, "BGP has stopped"))?;
        Ok(show::explanation(&self.overlay, &speaker.neighbors().await, &reasons, Instant::now()))
    }

    /// Changes nothing here: what follows comes back as events.
    pub(super) async fn clear(&self, clear: BgpClear) -> Result<Reply, ApiError> {
        let kind = match clear.kind {
            BgpClearKind::Hard => ClearKind::Hard,
            BgpClearKind::SoftIn => ClearKind::SoftIn,
            BgpClearKind::SoftOut => ClearKind::SoftOut,
        };
        let error_kind = |error: &ClearError| match error {
            ClearError::NoNeighbor(_) => ErrorKind::NotFound,
            ClearError::NoSession(_) | ClearError::NoRefresh(_) => ErrorKind::Conflict,
            ClearError::Ended => ErrorKind::Unavailable,
        };
        let done = self.running()?.clear(clear.address, kind).await;
        done.map_err(|error| ApiError::new(error_kind(&error), error.to_string()))?;
        tracing::info!(neighbor = %clear.address, kind = ?clear.kind, "cleared");
        Ok(Reply::BgpClear(clear))
    }

    async fn memory(&self) -> Result<Memory, ApiError> {
        let report = self.running()?.with_rib(|rib, _| rib.memory()).await.unwrap_or_default();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let part = |part: &bgp_peer::bgp_core::MemoryPart| MemoryPart {
            name: format!("RIB {}", part.name),
            entries: count(part.entries),
            bytes: Some(count(part.octets)),
        };
        Ok(show::memory(
            &self.overlay,
            memory::usage(),
            report.parts.iter().map(part).collect(),
            &self.dataplane.flow_use(),
        ))
    }

    async fn metrics_page(&self) -> Result<String, ApiError> {
        let handle = self.running()?;
        let speaker = handle.summary().await;
        let rib_bytes = handle.with_rib(|rib, _| rib.memory().octets()).await.unwrap_or_default();
        Ok(metrics::render(&metrics::Sources {
            overlay: &self.overlay,
            speaker: &speaker,
            rib_bytes,
            uptime: self.started.elapsed(),
            usage: memory::usage(),
            port: &|port| self.dataplane.port_counters(port),
            tunnel: &|remote, encap| self.dataplane.tunnel_counters(remote, encap),
            drops: self.dataplane.drops(),
            workings: metrics::Workings {
                health: self.dataplane.health(),
                port_drops: &|port| self.dataplane.port_drops(port),
                captures: self.dataplane.captures(),
                unlearned: self.dataplane.unlearned(),
                flows: self.dataplane.flow_use(),
                node_ports: self.config.dataplane.flows.node_ports().count(),
            },
        }))
    }

    /// Callers are served only once it runs.
    fn running(&self) -> Result<&bgp_peer::SpeakerHandle, ApiError> {
        match &self.bgp {
            Bgp::Running(speaker) => Ok(speaker),
            Bgp::Early(_) => Err(ApiError::new(ErrorKind::Unavailable, "the agent is starting; ask again")),
        }
    }
}
