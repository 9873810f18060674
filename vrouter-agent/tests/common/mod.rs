//! A node to try events on: a configuration, an overlay, and the loop's part played by the test.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use agent_api::{
    ApiError, AttachPort, AttachedPort, DetachPort, DetachedPort, ErrorKind, PortKey, PortKind, Reloaded,
    SecurityGroup,
};
use vrouter_agent::config::Config;
use vrouter_agent::event::{
    Answer, CallId, Effect, Event, LocalRoute, Millis, Restore, SavedPort, SavedVrf, Underlay, Underway,
};
use vrouter_agent::openstack::{Attachment, Change, Instance, Plug, Records, Uuid, Write};
use vrouter_agent::overlay::Overlay;
use vrouter_types::{Label, PortId, Prefix, RouteTarget, VpnPrefix, VrfId};

pub const CONFIG: &str = r#"
[underlay]
address = "192.0.2.11"
accept-from = ["198.51.100.0/24"]
[bgp]
asn = 64512
[[vrf]]
name = "city"
import = ["target:64512:100"]
export = ["target:64512:100"]
pods = ["10.20.11.0/24", "fd00:20:11::/64"]
namespaces = ["city-*"]
[[vrf]]
name = "tenant-b"
import = ["target:64512:200"]
export = ["target:64512:200"]
pods = ["10.20.11.0/24"]
namespaces = ["b"]
[[vrf]]
name = "main"
import = ["target:64512:300"]
export = ["target:64512:300"]
pods = ["10.9.0.0/29"]
default = true
"#;

/// An overlay, and the world as the effects performed on it made it.
pub struct Node {
    pub overlay: Overlay,
    pub now: u64,
    pub links: BTreeSet<String>,
    pub disk: BTreeMap<PortId, SavedPort>,
    pub groups: BTreeMap<String, SecurityGroup>,
    pub cursor: Option<Label>,
    pub spool: BTreeSet<String>,
    /// What the last run left of its imported routes, and how long that may serve.
    pub saved_routes: Vec<SavedVrf>,
    pub stale_for: u64,
    pub imports: BTreeMap<VrfId, Vec<RouteTarget>>,
    /// The neighbors that had to notice, reload by reload.
    pub concerned: Vec<Vec<String>>,
    pub open: BTreeMap<PortId, String>,
    pub host_routes: BTreeSet<IpAddr>,
    pub advertised: BTreeMap<VpnPrefix, LocalRoute>,
    pub answers: BTreeMap<CallId, Result<Answer, ApiError>>,
    /// Every effect that was tried, in order.
    pub log: Vec<Effect>,
    /// Effects that are to fail.
    pub fail: Option<fn(&Effect) -> bool>,
    calls: u64,
    /// What OpenStack said, as it is on disk.
    pub plugs: BTreeMap<Uuid, Plug>,
    pub attachments: BTreeMap<u32, Attachment>,
    pub instances: BTreeMap<u16, Instance>,
    pub awaited: BTreeMap<Uuid, String>,
    follow_up: Option<Event>,
}

impl Node {
    pub fn new() -> Node {
        Node::with(CONFIG)
    }

    pub fn with(text: &str) -> Node {
        let config = Config::parse(text, Path::new("agent.toml")).unwrap_or_else(|errors| panic!("{errors}"));
        let mut node = Node {
            overlay: Overlay::new(Arc::new(config)),
            now: 0,
            links: BTreeSet::new(),
            disk: BTreeMap::new(),
            groups: BTreeMap::new(),
            cursor: None,
            spool: BTreeSet::new(),
            saved_routes: Vec::new(),
            stale_for: 0,
            imports: BTreeMap::new(),
            concerned: Vec::new(),
            open: BTreeMap::new(),
            host_routes: BTreeSet::new(),
            advertised: BTreeMap::new(),
            answers: BTreeMap::new(),
            log: Vec::new(),
            fail: None,
            calls: 0,
            plugs: BTreeMap::new(),
            attachments: BTreeMap::new(),
            instances: BTreeMap::new(),
            awaited: BTreeMap::new(),
            follow_up: None,
        };
        node.restore("boot-1");
        node.log.clear();
        node
    }

    /// A new process on the same disk and the same host, after a crash.
    pub fn restart(self, text: &str, boot_id: &str) -> Node {
        let fresh = Node::with(text);
        let mut node = Node {
            overlay: fresh.overlay,
            now: 0,
            links: self.links,
            disk: self.disk,
            groups: self.groups,
            cursor: self.cursor,
            spool: self.spool,
            saved_routes: self.saved_routes,
            stale_for: self.stale_for,
            plugs: self.plugs,
            attachments: self.attachments,
            instances: self.instances,
            awaited: self.awaited,
            ..fresh
        };
        let config = Config::parse(text, Path::new("agent.toml")).unwrap();
        node.overlay = Overlay::new(Arc::new(config));
        node.log.clear();
        node.restore(boot_id);
        node
    }

    fn restore(&mut self, boot_id: &str) {
        let restore = Restore {
            ports: self.disk.values().cloned().collect(),
            label_cursor: self.cursor,
            links: self.links.iter().cloned().collect(),
            boot_id: boot_id.to_owned(),
            routes: self.saved_routes.clone(),
            groups: self.groups.values().cloned().collect(),
            stale_for: self.stale_for,
            rested: Vec::new(),
            openstack: Records {
                plugs: self.plugs.values().cloned().collect(),
                attachments: self.attachments.iter().map(|(number, it)| (*number, it.clone())).collect(),
                instances: self.instances.values().cloned().collect(),
                skipped: Vec::new(),
                awaited: self.awaited.iter().map(|(id, time)| (*id, time.clone())).collect(),
            },
        };
        self.handle(Event::Restore(restore));
    }

    /// What the agent's loop does.
    pub fn handle(&mut self, event: Event) {
        round_trip(&event);
        let mut effects = VecDeque::from(self.overlay.apply(event));
        let mut failures = 0;
        while let Some(effect) = effects.pop_front() {
            round_trip(&effect);
            self.log.push(effect.clone());
            if let Err(error) = self.perform(&effect) {
                failures += 1;
                assert!(failures < 1_000, "failures must end");
                let now = Millis(self.now);
                let event = Event::EffectFailed { failed: effect, error, undone: effects.into(), now };
                round_trip(&event);
                effects = self.overlay.apply(event).into();
            } else if let Some(event) = self.follow_up.take() {
                round_trip(&event);
                effects.extend(self.overlay.apply(event));
            }
        }
    }

    fn perform(&mut self, effect: &Effect) -> Result<(), ApiError> {
        if self.fail.is_some_and(|fail| fail(effect)) {
            return Err(ApiError::new(ErrorKind::Internal, "it was made to fail"));
        }
        match effect.clone() {
            Effect::SaveLabels { cursor } => self.cursor = Some(cursor),
            Effect::SaveAll(writes) => writes.into_iter().for_each(|write| self.write(write)),
            Effect::OpenPorts(underway) => self.open_ports(underway),
            Effect::SaveGroup { group, .. } => drop(self.groups.insert(group.name.clone(), *group)),
            Effect::ForgetGroup { group } => drop(self.groups.remove(&group.name)),
            Effect::SavePort(saved) => drop(self.disk.insert(saved.port, *saved)),
            Effect::ForgetPort { port, .. } => drop(self.disk.remove(&port)),
            Effect::OpenPort { port, interface, .. } => {
                if !self.links.contains(&interface) {
                    return Err(ApiError::new(
                        ErrorKind::NotFound,
                        format!("there is no interface {interface}"),
                    ));
                }
                self.open.insert(port, interface);
            }
            Effect::ClosePort(port) => drop(self.open.remove(&port)),
            Effect::PublishFib { .. } | Effect::SetUnderlay(_) | Effect::EndSessionsFrom(_) => {}
            Effect::AddHostRoute(address) => drop(self.host_routes.insert(address)),
            Effect::RemoveHostRoute(address) => drop(self.host_routes.remove(&address)),
            Effect::Originate(route) => drop(self.advertised.insert(route.prefix, route)),
            Effect::Withdraw(prefix) => drop(self.advertised.remove(&prefix)),
            Effect::Answer { call, answer } => {
                assert!(self.answers.insert(call, answer).is_none(), "{call:?} is answered twice");
            }
            Effect::SetImports(imports) => self.imports = imports.into_iter().collect(),
            Effect::SetNeighbors { concerned } => self.concerned.push(concerned),
            Effect::RemoveSpooled { file } => drop(self.spool.remove(&file)),
        }
        Ok(())
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Port(saved) => drop(self.disk.insert(saved.port, *saved)),
            Write::ForgetPort(port, _) => drop(self.disk.remove(&port)),
            Write::Plug(plug) => drop(self.plugs.insert(plug.id, *plug)),
            Write::ForgetPlug(id) => drop(self.plugs.remove(&id)),
            Write::Attachment(number, it) => drop(self.attachments.insert(number, *it)),
            Write::ForgetAttachment(number) => drop(self.attachments.remove(&number)),
            Write::Instance(it) => drop(self.instances.insert(it.number, *it)),
            Write::ForgetInstance(number) => drop(self.instances.remove(&number)),
            Write::Awaited(id, time) => drop(self.awaited.insert(id, time)),
            Write::ForgetAwaited(id) => drop(self.awaited.remove(&id)),
        }
    }

    fn open_ports(&mut self, underway: Underway) {
        let mut failed = Vec::new();
        for it in &underway.open {
            if self.links.contains(&it.interface) {
                self.open.insert(it.port, it.interface.clone());
            } else {
                let why = format!("there is no interface {}", it.interface);
                failed.push((it.port, ApiError::new(ErrorKind::NotFound, why)));
            }
        }
        self.follow_up = Some(Event::Opened { underway, failed, now: Millis(self.now) });
    }

    /// What OpenStack says, and whether it was taken.
    pub fn openstack(&mut self, change: Change) -> Result<(), ApiError> {
        let call = self.call();
        self.handle(Event::OpenStack { call, change, now: Millis(self.now) });
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::Changed) => Ok(()),
            Ok(other) => panic!("OpenStack is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn attach(&mut self, request: AttachPort) -> Result<AttachedPort, ApiError> {
        let call = self.call();
        self.handle(Event::Attach { call, request, now: Millis(self.now) });
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::Attached(port)) => Ok(port),
            Ok(other) => panic!("attach is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn check(&mut self, request: AttachPort) -> Result<AttachedPort, ApiError> {
        let call = self.call();
        self.handle(Event::Check { call, request });
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::Attached(port)) => Ok(port),
            Ok(other) => panic!("check is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    /// What the agent does on `vrouterctl reload`.
    pub fn reload(&mut self, text: &str) -> Result<Reloaded, ApiError> {
        let config = Config::parse(text, Path::new("agent.toml")).unwrap_or_else(|errors| panic!("{errors}"));
        let call = self.call();
        self.log.clear();
        self.handle(Event::Reload { call, config: Box::new(config) });
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::Reloaded(reloaded)) => Ok(reloaded),
            Ok(other) => panic!("reload is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn change_group(&mut self, event: impl FnOnce(CallId) -> Event) -> Result<bool, ApiError> {
        let call = self.call();
        self.handle(event(call));
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::GroupChanged(changed)) => Ok(changed.existed),
            Ok(other) => panic!("a group's change is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn detach(&mut self, container: &str) -> Result<DetachedPort, ApiError> {
        let call = self.call();
        let request = DetachPort { key: key(container) };
        self.handle(Event::Detach { call, request, now: Millis(self.now) });
        match self.answers.remove(&call).expect("every call is answered") {
            Ok(Answer::Detached(port)) => Ok(port),
            Ok(other) => panic!("detach is answered with {other:?}"),
            Err(error) => Err(error),
        }
    }

    pub fn underlay(&mut self, address: Option<&str>, mtu: u16) {
        let underlay = |address: &str| Underlay { address: ip(address), interface: "eth0".to_owned(), mtu };
        self.handle(Event::Underlay(address.map(underlay)));
    }

    /// The advertised routes as `RD:prefix label next-hop`.
    pub fn routes(&self) -> Vec<String> {
        let route = |route: &LocalRoute| format!("{} {} {}", route.prefix, route.label, route.next_hop);
        self.advertised.values().map(route).collect()
    }

    /// Everything that a port leaves behind somewhere, apart from labels that rest.
    pub fn assert_nothing_left(&self) {
        assert!(self.disk.is_empty() && self.open.is_empty(), "{:?} {:?}", self.disk, self.open);
        assert!(
            self.host_routes.is_empty() && self.advertised.is_empty(),
            "{:?} {:?}",
            self.host_routes,
            self.routes()
        );
        assert_eq!(self.overlay.ports().count(), 0);
        for vrf in self.overlay.vrfs() {
            assert_eq!(self.overlay.routes(vrf.id).count(), 0);
            assert!(self.overlay.pool_use(vrf.id).iter().all(|pool| pool.used == 0));
        }
    }

    fn call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }
}

/// Events and effects are the recording format: what is written is what is read.
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
}

pub fn key(container: &str) -> PortKey {
    PortKey { container: container.to_owned(), interface: "eth0".to_owned() }
}

/// A pod of this namespace, whose veth exists.
pub fn pod(node: &mut Node, container: &str, namespace: &str) -> AttachPort {
    let host_interface = format!("vr{container}");
    node.links.insert(host_interface.clone());
    AttachPort {
        netns: Some(format!("/run/netns/{container}")),
        namespace: Some(namespace.to_owned()),
        ..AttachPort::new(key(container), PortKind::Pod, host_interface, "02:00:00:00:00:01".parse().unwrap())
    }
}

/// A VM's tap that exists.
pub fn tap(node: &mut Node, name: &str, vrf: &str, addresses: &[&str]) -> AttachPort {
    let mut request = pod(node, name, "");
    request.kind = PortKind::Tap;
    (request.netns, request.namespace) = (None, None);
    request.vrf = Some(vrf.to_owned());
    request.addresses = addresses.iter().map(|address| ip(address)).collect();
    request
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn label(value: u32) -> Label {
    Label::new(value).unwrap()
}
