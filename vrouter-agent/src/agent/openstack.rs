//! OpenStack's calls: changes become events, questions are answered from what there is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_api::{ApiError, ErrorKind};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{Agent, Bgp, Caller};
use crate::event::{Event, Opening, Underway};
use crate::openstack::looking_glass::{self, Sources};
use crate::openstack::port_api::PortCall;
use crate::openstack::vpn_api::{VpnCall, VpnReply};
use crate::openstack::{Change, Write, view};
use crate::server::{Api, Reply, serve_openstack};
use crate::show;

impl Agent {
    /// A call of the port API.
    pub(super) async fn port_call(&mut self, call: PortCall, reply: Caller) {
        match call {
            PortCall::Change(change) => self.change(change, reply).await,
            question => {
                let _ = reply.send(Ok(Reply::PortApi(view::port_reply(&self.overlay, &question))));
            }
        }
    }

    /// A call of the VPN API.
    pub(super) async fn vpn_call(&mut self, call: VpnCall, reply: Caller) {
        let answer = match call {
            VpnCall::Change(change) => return self.change(change, reply).await,
            VpnCall::Ping => VpnReply::ok(json!(self.ping)),
            VpnCall::List => VpnReply::ok(view::attachments(&self.overlay)),
            VpnCall::Nothing => VpnReply::ok(json!({})),
            VpnCall::Glass(path) => match self.look(&path).await {
                Ok(answer) => answer,
                Err(error) => VpnReply::from(&error),
            },
        };
        let _ = reply.send(Ok(Reply::VpnApi(answer)));
    }

    async fn change(&mut self, change: Change, reply: Caller) {
        let (call, now) = (self.remember(reply), self.now());
        self.handle(Event::OpenStack { call, change, now }).await;
    }

    async fn look(&self, path: &[String]) -> Result<VpnReply, ApiError> {
        let Bgp::Running(speaker) = &self.bgp else {
            return Err(ApiError::new(ErrorKind::Unavailable, "the agent is starting; ask again"));
        };
        let views = speaker.neighbors().await;
        let neighbors = show::bgp_neighbors(&views, None)?;
        let routes = if looking_glass::needs_routes(path) {
            let query = show::route_query(&views, &agent_api::RouteFilter::default())?;
            show::bgp_routes(&self.overlay, &views, &speaker.routes(query).await, Instant::now())
        } else {
            show::bgp_routes(&self.overlay, &views, &[], Instant::now())
        };
        let uptime = self.started.elapsed();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(uptime);
        let sources = Sources {
            overlay: &self.overlay,
            neighbors: &neighbors,
            routes: &routes,
            started: started.as_secs(),
        };
        let found = looking_glass::look(path, &sources);
        Ok(found
            .map_or_else(|| VpnReply::not_found(&format!("/looking-glass/{}", path.join("/"))), VpnReply::ok))
    }

    /// What the configuration says is served.
    pub(super) fn start_openstack(&mut self) {
        let config = &self.config.openstack;
        let apis = [(Api::Port, config.port_api), (Api::Vpn, config.vpn_api)];
        let served = apis.into_iter().filter_map(|(api, address)| Some((api, address?)));
        let serve = |(api, address)| tokio::spawn(serve_openstack(api, address, self.own_calls.clone()));
        self.openstack = served.map(serve).collect();
    }

    pub(super) async fn save_all(&self, writes: &[Write]) -> Result<(), ApiError> {
        let (writes, dir) = (writes.to_vec(), self.config.openstack.ports_dir.clone());
        self.on_disk("save it", move |state| state.save_all(&dir, &writes)).await
    }

    /// Opens one after the other. What could not be opened comes back as an event.
    pub(super) async fn open_ports(&mut self, underway: &Underway) {
        let dataplane = std::sync::Arc::clone(&self.dataplane);
        let open = underway.open.clone();
        let opened = spawn_blocking(move || {
            let open_one = |it: &Opening| match it.vlan {
                Some(vlan) => dataplane.open_sub_port(it.port, &it.interface, vlan),
                None => dataplane.open_port(it.port, &it.interface),
            };
            let open = open.iter().map(|it| (it.port, open_one(it)));
            let failed = open.filter_map(|(port, opened)| Some((port, opened.err()?)));
            failed.map(|(port, error)| (port, super::perform::port_error(&error))).collect::<Vec<_>>()
        });
        let failed = opened.await.unwrap_or_else(|error| {
            let error = ApiError::new(ErrorKind::Internal, error.to_string());
            underway.open.iter().map(|it| (it.port, error.clone())).collect()
        });
        for it in underway.open.iter().filter(|it| !failed.iter().any(|(port, _)| *port == it.port)) {
            self.honour_queue(it.port, &it.interface).await;
        }
        self.follow_up = Some(Event::Opened { underway: underway.clone(), failed, now: self.now() });
    }
}
