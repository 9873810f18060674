//! The agent's end of a speaker.

use std::net::Ipv4Addr;
use std::time::Instant;

use bgp_core::{LocalRoute, RouteQuery, RouteView, VrfImport};
use tokio::sync::{mpsc, oneshot};
use vrouter_types::{Asn, VpnPrefix};

use crate::config::{SpeakerConfig, SpeakerError};
use crate::conn;
use crate::speaker::{SpeakerEvent, Task};
use crate::view::{NeighborView, SpeakerSummary};

/// A BGP speaker. It lives in its task; this is only how it begins.
pub struct Speaker;

/// Tells a speaker what to do, and asks it what it sees. Once the speaker has ended, orders do nothing and questions
/// have empty answers.
#[derive(Debug, Clone)]
pub struct SpeakerHandle {
    commands: mpsc::Sender<Command>,
    router_id: Ipv4Addr,
    asn: Asn,
}

/// What a handle asks for. Each is answered when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    SetImports(Vec<VrfImport>, oneshot::Sender<()>),
    Originate(Box<LocalRoute>, oneshot::Sender<()>),
    Withdraw(VpnPrefix, oneshot::Sender<()>),
    Summary(oneshot::Sender<SpeakerSummary>),
    Neighbors(oneshot::Sender<Vec<NeighborView>>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteView>>),
    Shutdown(oneshot::Sender<()>),
}

impl Speaker {
    /// Starts a speaker as a task of the present tokio runtime. When this returns, it listens.
    ///
    /// # Errors
    /// A configuration that no session could work with, or a listen address that cannot be had.
    pub fn spawn(
        config: SpeakerConfig,
        events: mpsc::Sender<SpeakerEvent>,
    ) -> Result<SpeakerHandle, SpeakerError> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| SpeakerError::NoRuntime)?;
        let listener = config.listen.map(|address| conn::listen(&config, address)).transpose()?;
        let (commands, orders) = mpsc::channel(COMMANDS);
        let handle = SpeakerHandle { commands, router_id: config.router_id, asn: config.asn };
        runtime.spawn(Task::new(config, events, Instant::now()).run(listener, orders));
        Ok(handle)
    }
}

impl SpeakerHandle {
    /// Replaces what the VRFs import.
    pub async fn set_imports(&self, imports: Vec<VrfImport>) {
        self.ask(|reply| Command::SetImports(imports, reply)).await.unwrap_or_default();
    }

    /// Advertises a route of ours, instead of what was advertised for its prefix. Resolves once the RIB holds it.
    pub async fn originate(&self, route: LocalRoute) {
        self.ask(|reply| Command::Originate(Box::new(route), reply)).await.unwrap_or_default();
    }

    /// Advertises it no more. Resolves once the RIB holds it no more.
    pub async fn withdraw(&self, prefix: VpnPrefix) {
        self.ask(|reply| Command::Withdraw(prefix, reply)).await.unwrap_or_default();
    }

    /// The speaker in one screen.
    pub async fn summary(&self) -> SpeakerSummary {
        let empty =
            || SpeakerSummary { router_id: self.router_id, asn: self.asn, neighbors: Vec::new(), routes: 0 };
        self.ask(Command::Summary).await.unwrap_or_else(empty)
    }

    /// All neighbors, in the order of the configuration.
    pub async fn neighbors(&self) -> Vec<NeighborView> {
        self.ask(Command::Neighbors).await.unwrap_or_default()
    }

    /// The routes that the query names. A neighbor's [`PeerId`](bgp_core::PeerId) is its place in the configuration.
    pub async fn routes(&self, query: RouteQuery) -> Vec<RouteView> {
        self.ask(|reply| Command::Routes(query, reply)).await.unwrap_or_default()
    }

    /// Tells every neighbor that we go (Cease, Administrative Shutdown) and ends the speaker. Resolves when that is
    /// written, or after two seconds.
    pub async fn shutdown(&self) {
        self.ask(Command::Shutdown).await.unwrap_or_default();
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

const COMMANDS: usize = 64;
