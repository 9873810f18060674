//! The agent's end of a speaker.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bgp_core::{LocalRoute, Rib, RouteQuery, RouteView, VrfImport};
use tokio::sync::{broadcast, mpsc, oneshot};
use vrouter_types::{Asn, VpnPrefix};

use crate::config::{SpeakerConfig, SpeakerError};
use crate::conn;
use crate::monitor::MonitorEvent;
use crate::speaker::{Change, ClearError, ClearKind, SpeakerEvent, Task};
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

/// Something to do with the RIB, answered by itself.
type RibWork = Box<dyn FnOnce(&mut Rib, Instant) + Send>;

/// What a handle asks for. Each is answered when it is done.
pub(crate) enum Command {
    SetImports(Vec<VrfImport>, oneshot::Sender<()>),
    Originate(Box<LocalRoute>, oneshot::Sender<()>),
    Withdraw(VpnPrefix, oneshot::Sender<()>),
    Summary(oneshot::Sender<SpeakerSummary>),
    Neighbors(oneshot::Sender<Vec<NeighborView>>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteView>>),
    Clear(IpAddr, ClearKind, oneshot::Sender<Result<(), ClearError>>),
    Reconfigure(Box<SpeakerConfig>, oneshot::Sender<Result<Vec<Change>, SpeakerError>>),
    Subscribe(oneshot::Sender<broadcast::Receiver<MonitorEvent>>),
    AddressesGone(Vec<IpAddr>, oneshot::Sender<()>),
    LocalRoutesComplete(oneshot::Sender<()>),
    WithRib(RibWork),
    Shutdown { keep_routes: bool, reply: oneshot::Sender<()> },
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
        runtime.spawn(Task::new(config, events, listener, Instant::now()).run(orders));
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

    /// Ends a neighbor's session and begins a new one, or asks for its routes once more, or tells it ours once more.
    ///
    /// # Errors
    /// No such neighbor, or one that cannot be asked.
    pub async fn clear(&self, neighbor: IpAddr, kind: ClearKind) -> Result<(), ClearError> {
        self.ask(|reply| Command::Clear(neighbor, kind, reply)).await.unwrap_or(Err(ClearError::Ended))
    }

    /// Goes on with another configuration, and says what that changed. Sessions that it does not concern go on.
    ///
    /// # Errors
    /// A configuration that no session could work with, or that needs another speaker; nothing has changed then.
    pub async fn reconfigure(&self, config: SpeakerConfig) -> Result<Vec<Change>, SpeakerError> {
        let answer = self.ask(|reply| Command::Reconfigure(Box::new(config), reply)).await;
        answer.unwrap_or(Err(SpeakerError::Ended))
    }

    /// These addresses have gone from the host. Sessions from there can hear nothing any more: they end now and not at
    /// their hold timer, and begin anew from where the host is.
    pub async fn addresses_gone(&self, addresses: Vec<IpAddr>) {
        self.ask(|reply| Command::AddressesGone(addresses, reply)).await.unwrap_or_default();
    }

    /// What happens from now on. A reader that is too slow loses the oldest and is told how many.
    pub async fn subscribe(&self) -> broadcast::Receiver<MonitorEvent> {
        // Of a speaker that has ended there is nothing to see: the channel is closed.
        self.ask(Command::Subscribe).await.unwrap_or_else(|| broadcast::channel(1).1)
    }

    /// All routes of ours that were there before a restart are there again: from now on neighbors are told that they
    /// know all of them, and forget what they kept of the others (RFC 4724 §4.1).
    pub async fn local_routes_complete(&self) {
        self.ask(Command::LocalRoutesComplete).await.unwrap_or_default();
    }

    /// Looks at the RIB, or has it do something, in the speaker's task. `None`: the speaker has ended.
    pub async fn with_rib<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Rib, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask(|reply| {
            Command::WithRib(Box::new(move |rib, now| {
                let _ = reply.send(work(rib, now));
            }))
        })
        .await
    }

    /// Ends the speaker. Neighbors that keep our routes while we are away (RFC 4724) are left without a word if
    /// `keep_routes`; every other is told that we go (Cease, Administrative Shutdown), and forgets them. Resolves when
    /// that is written, or after two seconds.
    pub async fn shutdown(&self, keep_routes: bool) {
        self.ask(|reply| Command::Shutdown { keep_routes, reply }).await.unwrap_or_default();
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

const COMMANDS: usize = 64;
