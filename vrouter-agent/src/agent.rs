//! The loop that acts: everything that happens becomes an event, every effect is performed here, in order.
//!
//! ```text
//!   calls ─────────┐
//!   bgp_events ────┤                                    ┌ state_file  on its own thread, awaited
//!   net_events ────┼─▶ Agent::handle ─▶ Overlay::apply ─┼ dataplane
//!   tick (1 s) ────┤        ▲              │            ├ speaker
//!   signals ───────┘        └─EffectFailed─┘            └ netlink
//! ```
//! One task, one owner, no lock. Forwarding comes back before the first session and before the first caller: the order
//! of [`run`] is the promise that a restart keeps.

mod ask;
mod capture;
mod kept_routes;
mod learn;
mod life;
mod monitor;
mod openstack;
mod perform;
mod reload;
mod routes;
mod start;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_api::{ApiError, ErrorKind, MonitorEvent, PortKey};
use bgp_peer::{SpeakerEvent, SpeakerHandle};
use dataplane::Dataplane;
use dataplane_core::Learned;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::Error;
use crate::config::Config;
use crate::event::{CallId, Effect, Event, LocalRoute, Millis, VrfPath, VrfRoute};
use crate::fib_build::FibBuilder;
use crate::netlink::{Netlink, NetlinkEvent};
use crate::overlay::Overlay;
use crate::rates::{Rates, Sample};
use crate::server::{Call, Reply, Request};
use crate::service::{Manager, Store};
use crate::state_file::{Spooled, StateDir};
use crate::vm::Vm;

/// The host's own way to workloads.
pub const HOST_INTERFACE: &str = "vrouter0";
/// How long route changes may wait for each other before they forward.
const PUBLISH_DELAY: Duration = Duration::from_millis(5);
/// Stops like SIGTERM, but neighbors that can (RFC 4724) keep our routes: we come back.
const RESTART: &str = "SIGUSR2";
/// What the API's listener is called while the service manager holds it.
const LISTENER: &str = "api";
const TICK: Duration = Duration::from_secs(1);

/// Runs the agent until it is told to stop. `file` is where the configuration came from and is read again on reload.
pub async fn run(config: Config, file: PathBuf, manager: Manager) -> Result<(), Error> {
    let (mut agent, mut inputs) = start::start(config, file, manager).await?;
    let reason = agent.run(&mut inputs).await;
    agent.end(inputs, reason).await;
    Ok(())
}

/// Everything that the loop listens to.
struct Inputs {
    calls: mpsc::Receiver<Call>,
    bgp_events: mpsc::Receiver<SpeakerEvent>,
    net_events: mpsc::Receiver<NetlinkEvent>,
    learned: mpsc::Receiver<Learned>,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    restart: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    server: tokio::task::JoinHandle<()>,
}

/// Who waits for an answer.
type Caller = oneshot::Sender<Result<Reply, ApiError>>;

/// All that acts.
struct Agent {
    /// As it is in force, which after a reload may differ from the file.
    config: Arc<Config>,
    file: PathBuf,
    overlay: Overlay,
    fib: FibBuilder,
    state: Arc<StateDir>,
    dataplane: Arc<Dataplane>,
    netlink: Netlink,
    vm: Vm,
    bgp: Bgp,
    callers: HashMap<CallId, Caller>,
    next_call: u64,
    publish_at: Option<Instant>,
    /// `None`: stopping.
    monitor: Option<broadcast::Sender<MonitorEvent>>,
    route_writer: routes::RouteWriter,
    metrics: Option<tokio::task::JoinHandle<()>>,
    /// For servers of ours that begin later.
    own_calls: mpsc::Sender<Call>,
    started: Instant,
    rates: Rates,
    store: Arc<Store>,
    watchdog: Option<Duration>,
    before: life::Before,
    kept_routes: kept_routes::KeptRoutes,
    /// What the service manager was told last.
    told: String,
    /// The APIs that OpenStack is served.
    openstack: Vec<tokio::task::JoinHandle<()>>,
    /// What the VPN API answers to /ping.
    ping: u32,
    /// What came of the effect before, for the overlay to go on with.
    follow_up: Option<Event>,
}

/// The speaker starts last, but what it will say is known before.
enum Bgp {
    Early(Vec<LocalRoute>),
    Running(SpeakerHandle),
}

impl Agent {
    /// Returns why it stops.
    async fn run(&mut self, inputs: &mut Inputs) -> &'static str {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = interval(self.beat_period());
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let publish_at = self.publish_at;
            let publish = async {
                match publish_at {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(call) = inputs.calls.recv() => self.call(call).await,
                Some(event) = inputs.bgp_events.recv() => self.bgp_event(event).await,
                Some(event) = inputs.net_events.recv() => self.net_event(event).await,
                Some(learned) = inputs.learned.recv() => self.learn(learned).await,
                () = publish => self.publish(),
                _ = ticks.tick() => self.tick().await,
                _ = beats.tick() => self.beat(),
                _ = inputs.hangup.recv() => self.hang_up().await,
                _ = inputs.terminate.recv() => return "SIGTERM",
                _ = inputs.interrupt.recv() => return "SIGINT",
                _ = inputs.restart.recv() => return RESTART,
            }
        }
    }

    async fn call(&mut self, call: Call) {
        let now = self.now();
        match call.request {
            Request::PutSecurityGroup(group) => {
                let call = self.remember(call.reply);
                self.handle(Event::PutGroup { call, group }).await;
            }
            Request::DeleteSecurityGroup(name) => {
                let call = self.remember(call.reply);
                self.handle(Event::DeleteGroup { call, name }).await;
            }
            Request::Attach(request) => {
                let call = self.remember(call.reply);
                self.handle(Event::Attach { call, request, now }).await;
            }
            Request::Detach(request) => {
                let call = self.remember(call.reply);
                self.handle(Event::Detach { call, request, now }).await;
            }
            Request::Check(request) => {
                if let Some(why) = crate::fib_check::fault(&self.overlay, &self.dataplane.fib(), &request.key)
                {
                    let _ = call.reply.send(Err(ApiError::new(ErrorKind::Unavailable, why)));
                    return;
                }
                let call = self.remember(call.reply);
                self.handle(Event::Check { call, request }).await;
            }
            Request::Reload => self.reload(call.reply).await,
            Request::PortApi(asked) => self.port_call(asked, call.reply).await,
            Request::VpnApi(asked) => self.vpn_call(asked, call.reply).await,
            Request::BgpClear(clear) => {
                let _ = call.reply.send(self.clear(clear).await);
            }
            request => {
                // What is shown as forwarding does forward: a burst of routes that is being gathered ends here.
                if self.publish_at.is_some() && request.is_about_forwarding() {
                    self.publish();
                }
                let reply = self.show(request).await;
                // The caller may be gone; that is its right.
                let _ = call.reply.send(reply);
            }
        }
    }

    async fn bgp_event(&mut self, event: SpeakerEvent) {
        match event {
            SpeakerEvent::Routes(routes) => {
                let routes: Vec<VrfRoute> = routes.into_iter().map(vrf_route).collect();
                self.route_writer.heard_at = Instant::now();
                self.tell_routes(&routes);
                self.handle(Event::Routes(routes)).await;
            }
            // The speaker has logged it.
            SpeakerEvent::NeighborUp(address) => self.tell_session(address, "Established", None),
            SpeakerEvent::NeighborDown(address, reason) => self.tell_session(address, "Down", Some(reason)),
        }
    }

    async fn net_event(&mut self, event: NetlinkEvent) {
        let event = match event {
            NetlinkEvent::Underlay(underlay) => {
                match &underlay {
                    Some(it) => {
                        info!(address = %it.address, interface = it.interface, mtu = it.mtu, "underlay")
                    }
                    None if self.config.underlay.source.is_some() => info!("no underlay"),
                    None => {}
                }
                Event::Underlay(underlay)
            }
            NetlinkEvent::HostAddresses(addresses) => Event::HostAddresses(addresses),
            NetlinkEvent::LinkAdded(name) => Event::LinkAdded(name),
            NetlinkEvent::LinkShaped(name) => return self.shaped(&name),
            NetlinkEvent::LinkRemoved(name) => Event::LinkRemoved(name),
        };
        let gone = if let Event::LinkRemoved(name) = &event { Some(name.clone()) } else { None };
        self.handle(event).await;
        if let Some(name) = gone {
            // Its port may have gone before it, unopened.
            self.dataplane.release(&name);
        }
    }

    /// Packets to the interface's ports pass its queue from now on. A port that opens later asks for itself.
    fn shaped(&self, interface: &str) {
        let ports = self.overlay.ports().filter(|port| port.saved.request.host_interface == interface);
        ports.for_each(|port| self.dataplane.honour_queue(port.saved.port));
    }

    async fn learn(&mut self, Learned { port, address, mac }: Learned) {
        let now = self.now();
        self.handle(Event::Learned { port, address, mac, now }).await;
    }

    async fn tick(&mut self) {
        if !self.state.is_writable() {
            let state = Arc::clone(&self.state);
            // What it finds is in the status.
            let _ = tokio::task::spawn_blocking(move || state.probe()).await;
        }
        self.work_off_spool().await;
        self.vm.advertise(&self.dataplane);
        let now = self.now();
        self.handle(Event::Tick { now }).await;
        if self.rates.is_due(now) {
            let ports = self.overlay.ports().map(|port| port.saved.port);
            let tunnels = self.overlay.tunnels().map(|tunnel| (tunnel.remote, tunnel.encap));
            let sample = Sample::read(&self.dataplane, ports, tunnels);
            self.rates.add(now, sample);
        }
        self.look_after_routes().await;
        self.keep_routes();
        self.tell_status().await;
    }

    /// DELs that vrouter-cni could not deliver. A file goes once its port has.
    async fn work_off_spool(&mut self) {
        for spooled in self.state.spooled() {
            let Some(key) = self.spooled_key(&spooled) else { continue };
            info!(port = %key, "delete that was left on disk");
            let now = self.now();
            self.handle(Event::Spooled { file: spooled.file, key, now }).await;
        }
    }

    /// A file that cannot be read still has its name, which is that of the interface to go.
    fn spooled_key(&self, spooled: &Spooled) -> Option<PortKey> {
        let why = match &spooled.key {
            Ok(key) => return Some(key.clone()),
            Err(why) => why,
        };
        let interface = spooled.file.split('.').next().unwrap_or_default();
        let key = self.overlay.key_of(interface).cloned();
        if key.is_none() {
            self.state.put_spooled_aside(&spooled.file, why);
        }
        key
    }

    /// Lets the overlay decide, and does what it wants.
    async fn handle(&mut self, event: Event) {
        debug!(?event, "event");
        let mut effects = VecDeque::from(self.overlay.apply(event));
        while let Some(effect) = effects.pop_front() {
            let Err(error) = self.perform(&effect).await else {
                if let Some(event) = self.follow_up.take() {
                    effects.extend(self.overlay.apply(event));
                }
                continue;
            };
            match error.kind {
                // A tap whose VM is not running: `show ports` says so, and it is no news.
                ErrorKind::NotFound => debug!(effect = name(&effect), %error, "not done"),
                _ => warn!(effect = name(&effect), %error, "not done"),
            }
            let event =
                Event::EffectFailed { failed: effect, error, undone: effects.into(), now: self.now() };
            effects = self.overlay.apply(event).into();
        }
    }

    fn remember(&mut self, caller: Caller) -> CallId {
        self.next_call += 1;
        let call = CallId(self.next_call);
        self.callers.insert(call, caller);
        call
    }

    fn publish(&mut self) {
        self.publish_at = None;
        self.vm.update(&self.overlay);
        self.dataplane.publish(self.fib.build(&self.overlay));
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

fn vrf_route(route: bgp_peer::VrfRoute) -> VrfRoute {
    let path = |path: bgp_peer::VrfPath| VrfPath {
        rd: path.rd,
        next_hop: path.next_hop,
        label: path.label,
        encaps: path.encaps,
        local: path.source == bgp_peer::PathSource::Local,
        local_pref: path.local_pref,
    };
    VrfRoute { vrf: route.vrf, prefix: route.prefix, paths: route.paths.into_iter().map(path).collect() }
}

/// For the log.
fn name(effect: &Effect) -> &'static str {
    match effect {
        Effect::SaveLabels { .. } => "save labels",
        Effect::SavePort(_) => "save port",
        Effect::ForgetPort { .. } => "forget port",
        Effect::SaveGroup { .. } => "save security group",
        Effect::ForgetGroup { .. } => "forget security group",
        Effect::OpenPort { .. } => "open port",
        Effect::OpenPorts(_) => "open ports",
        Effect::SaveAll(_) => "save",
        Effect::ClosePort(_) => "close port",
        Effect::PublishFib { .. } => "publish",
        Effect::SetUnderlay(_) => "set underlay",
        Effect::AddHostRoute(_) => "add host route",
        Effect::RemoveHostRoute(_) => "remove host route",
        Effect::Originate(_) => "originate",
        Effect::Withdraw(_) => "withdraw",
        Effect::SetImports(_) => "set imports",
        Effect::SetNeighbors { .. } => "set neighbors",
        Effect::EndSessionsFrom(_) => "end sessions",
        Effect::Answer { .. } => "answer",
        Effect::RemoveSpooled { .. } => "remove spooled delete",
    }
}
