//! One function per kind of effect, and nothing but doing it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use agent_api::{ApiError, ErrorKind};
use dataplane::{Dataplane, DataplaneError};
use dataplane_core::Gateway;
use tracing::{debug, info};

use super::start::speaker_config;
use super::{Agent, Bgp, HOST_INTERFACE, PUBLISH_DELAY};
use crate::event::{Answer, CallId, Effect, LocalRoute};
use crate::netlink::{HOST_SOURCE_V6, NetlinkError};
use crate::server::Reply;
use crate::state_file::StateDir;
use bgp_peer::VrfImport;
use bgp_peer::bgp_core::wire::community;
use vrouter_types::{PortId, RouteTarget, VpnPrefix, VrfId};

impl Agent {
    pub(super) async fn perform(&mut self, effect: &Effect) -> Result<(), ApiError> {
        debug!(?effect, "effect");
        match effect {
            Effect::SaveLabels { cursor } => {
                let cursor = *cursor;
                self.on_disk("save the labels", move |state| state.save_labels(cursor)).await?;
            }
            Effect::SavePort(port) => {
                let port = port.clone();
                self.on_disk("save the port", move |state| state.save_port(&port)).await?;
            }
            Effect::ForgetPort { port, .. } => {
                let port = *port;
                self.on_disk("delete the port's file", move |state| state.forget_port(port)).await?;
            }
            Effect::SaveGroup { group, .. } => {
                let group = group.clone();
                self.on_disk("save the security group", move |state| state.save_group(&group)).await?;
            }
            Effect::ForgetGroup { group } => {
                let name = group.name.clone();
                self.on_disk("delete the security group's file", move |state| state.forget_group(&name))
                    .await?;
            }
            Effect::RemoveSpooled { file } => {
                let file = file.clone();
                self.on_disk("delete the spooled file", move |state| state.remove_spooled(&file)).await?;
            }
            Effect::SaveAll(writes) => self.save_all(writes).await?,
            Effect::OpenPorts(underway) => self.open_ports(underway).await,
            Effect::OpenPort { port, interface, vlan } => self.open_port(*port, interface, *vlan).await?,
            Effect::ClosePort(port) => self.close_port(*port).await?,
            Effect::PublishFib { soon: false } => self.publish(),
            Effect::PublishFib { soon: true } => {
                self.publish_at.get_or_insert_with(|| Instant::now() + PUBLISH_DELAY);
            }
            Effect::SetUnderlay(address) => {
                let address = *address;
                self.in_kernel(move |dataplane| dataplane.set_underlay(address)).await?;
            }
            Effect::AddHostRoute(address) => {
                let added = self.netlink.add_host_route(*address, HOST_INTERFACE, gateway(*address)).await;
                added.map_err(refused)?;
            }
            Effect::RemoveHostRoute(address) => {
                self.netlink.remove_host_route(*address, HOST_INTERFACE).await.map_err(refused)?;
            }
            Effect::Originate(route) => self.originate(route).await,
            Effect::Withdraw(prefix) => self.withdraw(*prefix).await,
            Effect::SetImports(imports) => self.set_imports(imports).await,
            Effect::SetNeighbors { concerned } => self.set_neighbors(concerned).await?,
            Effect::EndSessionsFrom(addresses) => {
                if let Bgp::Running(speaker) = &self.bgp {
                    speaker.addresses_gone(addresses.clone()).await;
                }
            }
            Effect::Answer { call, answer } => self.answer(*call, answer),
        }
        Ok(())
    }

    async fn open_port(&self, port: PortId, interface: &str, vlan: Option<u16>) -> Result<(), ApiError> {
        let name = interface.to_owned();
        self.in_kernel(move |dataplane| match vlan {
            Some(vlan) => dataplane.open_sub_port(port, &name, vlan),
            None => dataplane.open_port(port, &name),
        })
        .await?;
        self.honour_queue(port, interface).await;
        Ok(())
    }

    /// Packets to the port pass the queue of its interface if that shapes.
    pub(super) async fn honour_queue(&self, port: PortId, interface: &str) {
        if self.netlink.is_shaped(interface).await {
            self.dataplane.honour_queue(port);
        }
    }

    async fn close_port(&self, port: PortId) -> Result<(), ApiError> {
        self.in_kernel(move |dataplane| {
            dataplane.close_port(port);
            Ok(())
        })
        .await
    }

    async fn set_neighbors(&self, concerned: &[String]) -> Result<(), ApiError> {
        info!(?concerned, "neighbors changed");
        let Bgp::Running(speaker) = &self.bgp else { return Ok(()) };
        let done = speaker.reconfigure(speaker_config(self.overlay.config())).await;
        let changes = done.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
        debug!(?changes, "sessions");
        Ok(())
    }

    async fn set_imports(&self, imports: &[(VrfId, Vec<RouteTarget>)]) {
        let Bgp::Running(speaker) = &self.bgp else { return };
        let import =
            |(vrf, import): &(VrfId, Vec<RouteTarget>)| VrfImport { vrf: *vrf, import: import.clone() };
        speaker.set_imports(imports.iter().map(import).collect()).await;
    }

    /// Disks are slow and SD cards slower: sessions and other callers go on meanwhile, this one waits.
    pub(super) async fn on_disk(
        &self,
        action: &'static str,
        act: impl FnOnce(&StateDir) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), ApiError> {
        let state = Arc::clone(&self.state);
        let done = tokio::task::spawn_blocking(move || act(&state)).await;
        let failed = |kind, why: String| ApiError::new(kind, format!("cannot {action}: {why}"));
        done.map_err(|error| failed(ErrorKind::Internal, error.to_string()))?
            .map_err(|error| failed(disk_error(&error), error.to_string()))
    }

    /// Opening and closing packet sockets waits for the kernel's grace periods, tens of milliseconds. Same here.
    async fn in_kernel(
        &self,
        act: impl FnOnce(&Dataplane) -> Result<(), DataplaneError> + Send + 'static,
    ) -> Result<(), ApiError> {
        // Before BGP begins nobody else waits, and what takes time has been done for all ports at once.
        if matches!(self.bgp, Bgp::Early(_)) {
            return act(&self.dataplane).map_err(|error| port_error(&error));
        }
        let dataplane = Arc::clone(&self.dataplane);
        match tokio::task::spawn_blocking(move || act(&dataplane)).await {
            Ok(done) => done.map_err(|error| port_error(&error)),
            Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        }
    }

    async fn originate(&mut self, route: &LocalRoute) {
        match &mut self.bgp {
            Bgp::Early(routes) => routes.push(route.clone()),
            Bgp::Running(speaker) => speaker.originate(local_route(route)).await,
        }
    }

    async fn withdraw(&mut self, prefix: VpnPrefix) {
        match &mut self.bgp {
            Bgp::Early(routes) => routes.retain(|route| route.prefix != prefix),
            Bgp::Running(speaker) => speaker.withdraw(prefix).await,
        }
    }

    fn answer(&mut self, call: CallId, answer: &Result<Answer, ApiError>) {
        match answer {
            Ok(Answer::Attached(port)) => {
                info!(port = %port.port, vrf = port.vrf, label = %port.label, addresses = ?port.addresses, "attached");
            }
            Ok(Answer::Detached(port)) if port.existed => {
                info!(interface = port.host_interface.as_deref().unwrap_or_default(), "detached");
            }
            Ok(Answer::Detached(_)) => debug!("detached what was not there"),
            Ok(Answer::GroupChanged(changed)) => info!(group = changed.name, "security group changed"),
            Ok(Answer::Changed) => debug!("changed what OpenStack asked"),
            Ok(Answer::Reloaded(reloaded)) => {
                info!(changed = ?reloaded.changed, needs_restart = ?reloaded.needs_restart, "reloaded");
            }
            Err(error) => info!(kind = ?error.kind, %error, "refused"),
        }
        let reply = answer.clone().map(|answer| match answer {
            Answer::Attached(port) => Reply::Attached(port),
            Answer::Detached(port) => Reply::Detached(port),
            Answer::GroupChanged(changed) => Reply::SecurityGroupChanged(changed),
            Answer::Reloaded(reloaded) => Reply::Reloaded(reloaded),
            Answer::Changed => Reply::Changed {},
        });
        // Whoever asked may have given up; what was done stays done.
        if let Some(caller) = self.callers.remove(&call) {
            let _ = caller.send(reply);
        }
    }
}

pub(super) fn local_route(route: &LocalRoute) -> bgp_peer::LocalRoute {
    let policy = &route.policy;
    bgp_peer::LocalRoute {
        prefix: route.prefix,
        label: route.label,
        next_hop: route.next_hop,
        route_targets: route.route_targets.clone(),
        encaps: route.encaps,
        local_pref: policy.local_pref,
        med: policy.med,
        as_path_prepend: policy.as_path_prepend.clone(),
        communities: policy.communities.iter().map(|community| community::Community(community.0)).collect(),
        large_communities: policy
            .large_communities
            .iter()
            .map(|it| community::LargeCommunity(it.0))
            .collect(),
        hash_order: route.hash_order,
    }
}

/// Where the host's packets to a workload come from.
fn gateway(address: IpAddr) -> IpAddr {
    let gateway = Gateway::default();
    if address.is_ipv4() { gateway.v4.into() } else { HOST_SOURCE_V6.into() }
}

/// Why a port could not be opened.
pub(super) fn port_error(error: &DataplaneError) -> ApiError {
    ApiError::new(kind(error), error.to_string())
}

/// A disk that is full or read-only may not be so for ever: the caller tries again.
fn disk_error(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | ReadOnlyFilesystem => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn kind(error: &DataplaneError) -> ErrorKind {
    match error {
        DataplaneError::NoInterface { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    }
}

fn refused(error: NetlinkError) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}
