//! How the agent comes up: state, dataplane, ports, deletes that waited, tunnels, then BGP, then callers.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_peer::{FamilySet, Speaker, SpeakerConfig, SpeakerError, VrfImport};
use dataplane::{Dataplane, Keeper, Kept};
use dataplane_core::{FlowLimits, Gateway};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tracing::{debug, info, warn};
use vrouter_types::{Asn, PortId};

use super::kept_routes::{self, KeptRoutes};
use super::life::Before;
use super::perform::local_route;
use super::routes::RouteWriter;
use super::{Agent, Bgp, HOST_INTERFACE, Inputs, LISTENER, learn, monitor};
use crate::Error;
use crate::config::{Config, FamilyName, FlowConfig, NeighborConfig, PeerAddress};
use crate::event::{Event, Restore, SavedPort};
use crate::fib_build::FibBuilder;
use crate::netlink::{Netlink, NetlinkEvent};
use crate::overlay::Overlay;
use crate::rates::Rates;
use crate::server::{self, Call};
use crate::service::{self, Manager, Store};
use crate::state_file::{SavedRoutes, StateDir, boot_id};
use crate::vm::Vm;

const CALLS: usize = 64;
const BGP_EVENTS: usize = 64;
/// Reading the kernel's tables takes milliseconds.
const FIRST_LOOK: Duration = Duration::from_secs(1);

pub(super) async fn start(
    config: Config,
    file: PathBuf,
    mut manager: Manager,
) -> Result<(Agent, Inputs), Error> {
    let config = Arc::new(config);
    info!(name = config.name, version = env!("CARGO_PKG_VERSION"), vrfs = config.vrfs.len(), "starting");
    let [terminate, interrupt, restart, hangup] = signals()?;
    let state = StateDir::open(&config.state_dir)?;
    // From here on callers can connect. They wait until they are served.
    let listener = listen(&config, &mut manager).await?;
    let routes = kept_routes::of_last_run(&mut manager);
    let (own_calls, calls) = mpsc::channel(CALLS);
    let made = Agent::new(Arc::clone(&config), file, state, manager, own_calls.clone()).await;
    let (mut agent, mut net_events) = made?;
    agent.restore(routes).await?;
    agent.work_off_spool().await;
    agent.start_watching(&mut net_events).await?;
    agent.serve()?;
    agent.release_others().await;
    let bgp_events = agent.start_bgp().await?;
    agent.settle_kernel().await;
    let server = tokio::spawn(server::serve(listener, own_calls));
    agent.start_metrics();
    agent.start_openstack();
    info!(socket = %config.socket.display(), ports = agent.overlay.ports().count(), "ready");
    service::ready(&agent.status_line().await);
    let learned = learn::listen(&agent.dataplane);
    Ok((
        agent,
        Inputs { calls, bgp_events, net_events, learned, terminate, interrupt, restart, hangup, server },
    ))
}

/// Those that end it, for good, by hand or for a restart, and the one that has it read its configuration again.
fn signals() -> Result<[Signal; 4], Error> {
    let kinds = [SignalKind::terminate, SignalKind::interrupt, SignalKind::user_defined2, SignalKind::hangup];
    let [terminate, interrupt, restart, hangup] = kinds.map(|kind| signal(kind()).map_err(Error::Runtime));
    Ok([terminate?, interrupt?, restart?, hangup?])
}

/// Where the last run listened, if the service manager has kept that, so that nobody is refused meanwhile.
async fn listen(config: &Config, manager: &mut Manager) -> Result<UnixListener, Error> {
    if let Some(fd) = manager.inherited.remove(LISTENER) {
        match service::adopt_listener(fd, &config.socket) {
            Some(listener) => return Ok(listener),
            None => manager.store.forget(LISTENER),
        }
    }
    let listener = server::bind(&config.socket).await.map_err(|error| Error::Socket(error.to_string()))?;
    manager.store.keep(LISTENER, listener.as_fd());
    Ok(listener)
}

impl Agent {
    /// Everything is made, with what the last run has left, and nothing forwards yet.
    async fn new(
        config: Arc<Config>,
        file: PathBuf,
        state: StateDir,
        manager: Manager,
        own_calls: mpsc::Sender<Call>,
    ) -> Result<(Agent, mpsc::Receiver<NetlinkEvent>), Error> {
        let (started, before) = (Instant::now(), Before::new(state.take_last_stop()));
        let (overlay, mut fib) = (Overlay::new(Arc::clone(&config)), FibBuilder::new());
        let store = Arc::clone(&manager.store);
        let kept = Kept::new(manager.inherited, Arc::<Store>::clone(&store));
        let dataplane = Dataplane::prepare(dataplane_config(&config), fib.build(&overlay), kept);
        let dataplane = dataplane.map_err(|error| Error::Dataplane(error.to_string()))?;
        let (mut netlink, net_events) = Netlink::new().map_err(|error| Error::Netlink(error.to_string()))?;
        let gateway = Gateway::default();
        if let Err(error) = netlink.set_up_host_interface(HOST_INTERFACE, gateway.v4, gateway.v6).await {
            warn!(%error, "the host cannot reach workloads");
        }
        let vm = Vm::start(&config.vm, gateway.v4, gateway.v6).await;
        fib.serve(vm.targets(), config.vm.lease);
        let agent = Agent {
            file,
            monitor: Some(monitor::channel()),
            route_writer: RouteWriter::new(),
            metrics: None,
            own_calls,
            overlay,
            fib,
            state: Arc::new(state),
            dataplane: Arc::new(dataplane),
            netlink,
            vm,
            bgp: Bgp::Early(Vec::new()),
            callers: HashMap::new(),
            next_call: 0,
            publish_at: None,
            started,
            rates: Rates::default(),
            store,
            watchdog: manager.watchdog,
            before,
            kept_routes: KeptRoutes::default(),
            told: String::new(),
            openstack: Vec::new(),
            ping: 0,
            follow_up: None,
            config,
        };
        Ok((agent, net_events))
    }

    /// All that packets need is there: they are forwarded from now on.
    fn serve(&mut self) -> Result<(), Error> {
        self.publish();
        self.dataplane.serve().map_err(|error| Error::Dataplane(error.to_string()))?;
        self.before.workers_run(self.dataplane.adopted());
        Ok(())
    }

    /// Interfaces that went, or stopped being ports, while no agent ran have left their guards.
    async fn release_others(&self) {
        let interface = |port: &crate::overlay::Port| port.saved.request.host_interface.clone();
        let (dataplane, ours) = (Arc::clone(&self.dataplane), self.overlay.ports().map(interface).collect());
        let released = tokio::task::spawn_blocking(move || dataplane.release_others(&ours)).await;
        if let Ok(Err(error)) = released {
            debug!(%error, "cannot look for nftables chains of interfaces that are no ports");
        }
    }

    /// What waits for the kernel is done for all ports at once, and what the last run has left is not done again.
    async fn prepare_kernel(&mut self, ports: Vec<(PortId, String)>) {
        if let Err(error) = self.netlink.read_host_routes(HOST_INTERFACE).await {
            debug!(%error, "host routes of the last run are not known");
        }
        let dataplane = Arc::clone(&self.dataplane);
        if let Err(error) = tokio::task::spawn_blocking(move || dataplane.prepare_ports(&ports)).await {
            warn!(%error, "ports are opened one by one");
        }
    }

    /// While packets flow again: what the last run has left in the kernel is as it should be, or made so.
    async fn settle_kernel(&mut self) {
        let wanted = self.overlay.host_addresses().map(|(address, _)| address).collect();
        match self.netlink.sweep_host_routes(HOST_INTERFACE, &wanted).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => info!(addresses = ?gone, "host routes of workloads that have gone are removed"),
            Err(error) => warn!(%error, "host routes of the last run may be left"),
        }
        let dataplane = Arc::clone(&self.dataplane);
        if let Err(error) = tokio::task::spawn_blocking(move || dataplane.check_guards()).await {
            warn!(%error, "the host's stack may see workloads' frames");
        }
    }

    async fn restore(&mut self, routes: Option<SavedRoutes>) -> Result<(), Error> {
        let mut loaded = self.state.load()?;
        // Those of a crash are younger than the disk's.
        loaded.routes = routes.unwrap_or(loaded.routes);
        let present = self.netlink.link_names().await.map_err(|error| Error::Netlink(error.to_string()))?;
        let interface = |port: &SavedPort| (port.port, port.request.host_interface.clone());
        let mut ports: Vec<(PortId, String)> = loaded.ports.iter().map(interface).collect();
        ports.retain(|(_, interface)| present.contains(interface));
        let links = ports.iter().map(|(_, interface)| interface.clone()).collect();
        self.prepare_kernel(ports).await;
        let total = u64::from(self.config.bgp.long_lived_stale_time) * 1000;
        let served = &self.config.openstack;
        let openstack = self.state.load_openstack(served.port_api.map(|_| served.ports_dir.as_path()));
        if served.vpn_api.is_some() {
            self.ping = self.state.ping();
        }
        let restore = Restore {
            ports: loaded.ports,
            label_cursor: loaded.label_cursor,
            links,
            boot_id: boot_id(),
            stale_for: total.saturating_sub(loaded.routes.stale_msec),
            openstack,
            rested: loaded.rested,
            routes: loaded.routes.vrfs,
            groups: self.state.load_groups(),
        };
        self.handle(Event::Restore(restore)).await;
        if self.overlay.stale_routes() > 0 {
            info!(
                routes = self.overlay.stale_routes(),
                "routes of the last run serve until neighbors say theirs"
            );
        }
        Ok(())
    }

    /// Tunnels are open, and their address is known, before anybody hears of it. Without an uplink that is at once too.
    async fn start_watching(&mut self, net_events: &mut mpsc::Receiver<NetlinkEvent>) -> Result<(), Error> {
        let watched = self.netlink.watch(self.config.underlay.source.clone(), HOST_INTERFACE);
        watched.map_err(|error| Error::Netlink(error.to_string()))?;
        let deadline = Instant::now() + FIRST_LOOK;
        loop {
            let Ok(Some(event)) = timeout_at(deadline.into(), net_events.recv()).await else {
                warn!("the kernel has not told its addresses yet");
                return Ok(());
            };
            // The underlay is told before.
            let is_last = matches!(event, NetlinkEvent::HostAddresses(_));
            self.net_event(event).await;
            if is_last {
                return Ok(());
            }
        }
    }

    /// What is known by now is in the RIB before the first session can be up.
    async fn start_bgp(&mut self) -> Result<mpsc::Receiver<bgp_peer::SpeakerEvent>, Error> {
        let (sender, receiver) = mpsc::channel(BGP_EVENTS);
        let mut config = speaker_config(&self.config);
        // Ports that came back have the labels that neighbors know, and forward before the first session is up.
        config.forwarding_kept = self.overlay.ports().any(crate::overlay::Port::is_up);
        config.await_local_routes = true;
        let mut speaker = Speaker::spawn(config.clone(), sender.clone());
        if let Err(SpeakerError::Listen { address, source }) = &speaker
            && source.kind() == ErrorKind::AddrNotAvailable
        {
            // The uplink is not there yet. Workloads must not wait for it, and we can still connect.
            warn!(%address, "not an address of this host yet: BGP connects, and listens after the next start");
            config.listen = None;
            speaker = Speaker::spawn(config, sender);
        }
        let speaker = speaker.map_err(|error| Error::Bgp(with_remedy(&error)))?;
        let vrfs = self.overlay.vrfs().iter();
        let imports = vrfs.map(|vrf| VrfImport { vrf: vrf.id, import: vrf.config.import.clone() }).collect();
        speaker.set_imports(imports).await;
        if let Bgp::Early(routes) = std::mem::replace(&mut self.bgp, Bgp::Running(speaker.clone())) {
            for route in &routes {
                speaker.originate(local_route(route)).await;
            }
        }
        speaker.local_routes_complete().await;
        Ok(receiver)
    }
}

fn with_remedy(error: &SpeakerError) -> String {
    match error {
        SpeakerError::Listen { address, source } if source.kind() == ErrorKind::PermissionDenied => format!(
            "{error} (give the agent CAP_NET_BIND_SERVICE, or set net.ipv4.ip_unprivileged_port_start={port}, or leave \
             `listen` out of [bgp]: then it connects only)",
            port = address.port()
        ),
        _ => error.to_string(),
    }
}

/// Without `[bgp]` there are no sessions, but the RIB still carries routes between VRFs of this node. Nobody hears of
/// the numbers that stand in.
pub(super) fn speaker_config(config: &Config) -> SpeakerConfig {
    const NOBODY_HEARS: Asn = Asn(64512);
    let bgp = &config.bgp;
    let router_id = if bgp.router_id.is_unspecified() { Ipv4Addr::LOCALHOST } else { bgp.router_id };
    SpeakerConfig {
        asn: bgp.asn.unwrap_or(NOBODY_HEARS),
        router_id,
        hold_time: bgp.hold_time,
        listen: bgp.listen,
        neighbors: bgp.neighbors.iter().map(neighbor_config).collect(),
        max_paths: usize::try_from(bgp.max_paths).unwrap_or(usize::MAX),
        cluster_id: Some(bgp.cluster_id),
        graceful_restart: bgp.graceful_restart,
        restart_time: bgp.restart_time,
        long_lived_stale_time: bgp.long_lived_stale_time,
        ..SpeakerConfig::default()
    }
}

fn neighbor_config(neighbor: &NeighborConfig) -> bgp_peer::NeighborConfig {
    let (address, prefix) = match neighbor.address {
        PeerAddress::One(address) => (address, None),
        PeerAddress::Any(prefix) => (prefix.addr(), Some(prefix)),
    };
    let family = |family: &FamilyName| match family {
        FamilyName::Vpnv4 => bgp_peer::Family::Vpnv4,
        FamilyName::Vpnv6 => bgp_peer::Family::Vpnv6,
        FamilyName::Rtc => bgp_peer::Family::Rtc,
    };
    bgp_peer::NeighborConfig {
        address,
        prefix,
        port: neighbor.port,
        asn: neighbor.asn,
        password: neighbor.password.as_ref().map(|password| password.0.clone()),
        hold_time: neighbor.hold_time,
        passive: neighbor.passive,
        local_address: neighbor.local_address,
        description: neighbor.description.clone(),
        default_encap: neighbor.default_encapsulation,
        families: neighbor.families.iter().map(family).collect::<FamilySet>(),
        ttl_security: neighbor.ttl_security,
        keepalive_time: neighbor.keepalive_time,
        connect_retry: neighbor.connect_retry,
        route_reflector_client: neighbor.route_reflector_client,
        max_prefixes: neighbor.max_prefixes,
        max_prefixes_restart: neighbor.max_prefixes_restart,
        graceful_restart: neighbor.graceful_restart,
        ..bgp_peer::NeighborConfig::default()
    }
}

fn flow_limits(config: &FlowConfig) -> FlowLimits {
    FlowLimits {
        flows: config.max_flows as usize,
        per_port: config.max_flows_per_port,
        node_ports: u32::try_from(config.node_ports().count()).unwrap_or(u32::MAX),
        node_ports_per_port: config.snat_ports_per_port,
    }
}

fn dataplane_config(config: &Config) -> dataplane::DataplaneConfig {
    dataplane::DataplaneConfig {
        workers: config.dataplane.workers,
        host_interface: Some(HOST_INTERFACE.to_owned()),
        entropy_ports: config.dataplane.entropy_ports,
        without: config.dataplane.without.iter().filter_map(|name| name.parse().ok()).collect(),
        flows: flow_limits(&config.dataplane.flows),
        node_ports: config.dataplane.flows.node_ports(),
        ..dataplane::DataplaneConfig::default()
    }
}
