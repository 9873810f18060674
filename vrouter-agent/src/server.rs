//! The local API's server: HTTP/1.1 on a root-only Unix socket. It translates and decides nothing.
//!
//! ```text
//!  accept (bounded) ──▶ hyper ──▶ body (≤ 64 KiB) ──▶ route ──▶ Call ──▶ the agent's loop
//!                         ▲                                               │
//!                         └──────────────── Reply or ApiError ◀──oneshot──┘
//! ```
//! What it refuses: more connections than [`Limits::connections`] (they wait in the kernel), heads and bodies that are
//! large or slow, paths and methods that do not exist. A loop that is busy or gone is a 503, never silence.

mod capture;
mod lines;
mod metrics;
mod openstack;
mod respond;
mod route;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind as IoErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use agent_api::{
    ApiError, AttachPort, AttachedPort, BgpClear, BgpNeighbors, BgpRoutes, BgpRtc, BgpSummary,
    CaptureRequest, DetachPort, DetachedPort, Drops, ErrorKind, Explanation, Flows, Labels, Memory,
    OpenStack, Ports, Reloaded, RouteFilter, Routes, SecurityGroup, SecurityGroupChanged, SecurityGroupView,
    SecurityGroups, Status, TraceReply, TraceRequest, Tunnels, Vrfs,
};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;
use vrouter_types::Prefix;

use crate::openstack::port_api::{PortCall, PortReply};
use crate::openstack::vpn_api::{VpnCall, VpnReply};

use lines::{Payload, STREAMS};
use respond::{endless, refusal, respond};

pub use capture::CaptureStream;
pub use lines::Monitor;
pub use metrics::serve_metrics;
pub use openstack::{Api, serve_on as serve_openstack_on, serve_openstack};

/// Connections that the kernel holds for us while all of ours are in use.
const BACKLOG: u32 = 128;
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. Nobody may be listening any more.
    pub reply: oneshot::Sender<Result<Reply, ApiError>>,
}

/// What a caller asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Joins an interface to a VRF.
    Attach(AttachPort),
    /// Takes a port away.
    Detach(DetachPort),
    /// Whether a port stands as it was attached.
    Check(AttachPort),
    /// The agent in one screen.
    Status,
    /// All neighbors, a line each.
    BgpSummary,
    /// All about one neighbor, or all of them.
    BgpNeighbors(Option<IpAddr>),
    /// VPN routes and route target memberships.
    BgpRoutes(RouteFilter),
    /// VRFs as configured and used.
    Vrfs,
    /// Routes as they forward.
    Routes {
        /// Of this VRF; `None`: of all.
        vrf: Option<String>,
        /// This prefix and those inside it.
        prefix: Option<Prefix>,
    },
    /// Ports with their counters.
    Ports,
    /// Our labels.
    Labels,
    /// Tunnels with their counters.
    Tunnels,
    /// Drops by reason.
    Drops,
    /// What would happen to a packet.
    Trace(TraceRequest),
    /// Who wants routes with which route target.
    BgpRtc,
    /// Begins a session anew, or its routes.
    BgpClear(BgpClear),
    /// Why a prefix goes where it goes.
    Explain {
        /// In this VRF.
        vrf: String,
        /// Which.
        prefix: Prefix,
    },
    /// What takes memory.
    Memory,
    /// Flows that need memory.
    Flows {
        /// Of ports of this VRF.
        vrf: Option<String>,
        /// Of this port: its number, or what its maker calls it.
        port: Option<String>,
        /// At most so many.
        limit: Option<usize>,
    },
    /// All security groups.
    SecurityGroups,
    /// One of them.
    SecurityGroup(String),
    /// Makes one, or another of it.
    PutSecurityGroup(SecurityGroup),
    /// Takes one away.
    DeleteSecurityGroup(String),
    /// Reads the configuration again.
    Reload,
    /// Session and route changes from now on.
    Monitor,
    /// Copies of packets from now on.
    Capture(CaptureRequest),
    /// All that is counted, for Prometheus.
    Metrics,
    /// What OpenStack has said.
    OpenStack,
    /// A call of the incumbent's port API.
    PortApi(PortCall),
    /// A call of bagpipe's VPN API.
    VpnApi(VpnCall),
}

impl Request {
    /// Whether the answer says where packets go.
    pub(crate) fn is_about_forwarding(&self) -> bool {
        matches!(
            self,
            Request::Vrfs
                | Request::Routes { .. }
                | Request::Tunnels
                | Request::Trace(_)
                | Request::Explain { .. }
        )
    }
}

/// What a caller is told: one variant per type of reply. On the wire the type shows by the path alone.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "each is the reply type of its name")]
pub enum Reply {
    Attached(AttachedPort),
    Detached(DetachedPort),
    Status(Status),
    BgpSummary(BgpSummary),
    BgpNeighbors(BgpNeighbors),
    BgpRoutes(BgpRoutes),
    Vrfs(Vrfs),
    Routes(Routes),
    Ports(Ports),
    Labels(Labels),
    Tunnels(Tunnels),
    Drops(Drops),
    Trace(TraceReply),
    BgpRtc(BgpRtc),
    BgpClear(BgpClear),
    Explanation(Explanation),
    Memory(Memory),
    Reloaded(Reloaded),
    Flows(Flows),
    SecurityGroups(SecurityGroups),
    SecurityGroup(Box<SecurityGroupView>),
    SecurityGroupChanged(SecurityGroupChanged),
    OpenStack(OpenStack),
    /// To a change that OpenStack asked for.
    Changed {},
    #[serde(skip)]
    PortApi(PortReply),
    #[serde(skip)]
    VpnApi(VpnReply),
    #[serde(skip)]
    Monitor(Monitor),
    #[serde(skip)]
    Capture(CaptureStream),
    #[serde(skip)]
    Metrics(String),
}

/// How much and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at a time.
    pub connections: usize,
    /// Octets of a body.
    pub body: usize,
    /// From the end of one exchange to the complete head of the next.
    pub head_time: Duration,
    /// From the head to the end of the body.
    pub body_time: Duration,
    /// Waiting for a place in the loop's queue.
    pub queue_time: Duration,
    /// Waiting for the loop's answer.
    pub answer_time: Duration,
    /// After so long a connection is closed behind its present exchange; after twice that, in the middle of it.
    pub connection_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 64,
            body: 64 << 10,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(10),
            queue_time: Duration::from_secs(5),
            answer_time: Duration::from_secs(60),
            connection_time: Duration::from_secs(120),
        }
    }
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers on it.
    #[error("{} is served by another agent: stop it first, or set another `socket` in the configuration", .0.display())]
    Served(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is no socket: remove it, or set another `socket` in the configuration", .0.display())]
    NotASocket(PathBuf),
    /// The kernel said no.
    #[error("cannot listen on {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on this path, for root alone. The file of an agent that is gone is replaced; one that is served is not.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn bind(path: &Path) -> Result<UnixListener, BindError> {
    clear(path).await?;
    listen(path).map_err(|source| BindError::Io { path: path.to_path_buf(), source })
}

/// Removes the socket that nobody serves.
async fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_path_buf(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.to_path_buf())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == IoErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        // Also when its queue is full.
        _ => Err(BindError::Served(path.to_path_buf())),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let socket = UnixSocket::new_stream()?;
    // bind(2) gives the file the mode of the socket's own inode, so there is no moment at which others may connect.
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Serves until it is dropped; all connections end with it.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    serve_within(listener, calls, Limits::default()).await;
}

/// [`serve`] with other limits.
pub async fn serve_within(listener: UnixListener, calls: mpsc::Sender<Call>, limits: Limits) {
    let mut connections = JoinSet::new();
    let streams = Arc::new(Semaphore::new(STREAMS));
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, calls.clone(), limits, Arc::clone(&streams)));
                }
                Err(error) => {
                    // Mostly EMFILE: it stays until something closes, so do not spin on it.
                    warn!(%error, "cannot accept on the API socket");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(
    stream: UnixStream,
    calls: mpsc::Sender<Call>,
    limits: Limits,
    streams: Arc<Semaphore>,
) {
    // Set once a reply without an end has begun: such a connection ends when its client or the agent does.
    let is_endless = AtomicBool::new(false);
    let service = service_fn(|request| answer(request, &calls, limits, &streams, &is_endless));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A client that breaks off or speaks no HTTP is its own trouble: hyper has told it what can be told.
    if timeout(limits.connection_time, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        if is_endless.load(Relaxed) {
            let _ = connection.await;
        } else {
            let _ = timeout(limits.connection_time, connection).await;
        }
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    calls: &mpsc::Sender<Call>,
    limits: Limits,
    streams: &Arc<Semaphore>,
    is_endless: &AtomicBool,
) -> Result<Response<Payload>, Infallible> {
    let (head, body) = request.into_parts();
    let endpoint = match route::find(&head.method, head.uri.path()) {
        Ok(endpoint) => endpoint,
        Err(route::Unroutable::Path) => {
            let text =
                format!("there is no {}; the paths begin with /v1/, as in /v1/status", head.uri.path());
            return Ok(refusal(&ApiError::new(ErrorKind::NotFound, text)));
        }
        Err(route::Unroutable::Method(allowed)) => {
            let text = format!("{} takes {allowed}, not {}", head.uri.path(), head.method);
            let mut response = refusal(&ApiError::new(ErrorKind::BadRequest, text));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return Ok(response);
        }
    };
    let result = async {
        let body = collect(body, limits).await?;
        let request = route::request(endpoint, head.uri.path(), head.uri.query().unwrap_or_default(), &body)?;
        ask(request, calls, limits).await
    };
    Ok(match result.await {
        Ok(Reply::Monitor(monitor)) => {
            endless(Payload::lines(monitor, streams), "application/x-ndjson", is_endless)
        }
        Ok(Reply::Capture(capture)) => {
            endless(Payload::capture(capture, streams), "application/x-pcapng", is_endless)
        }
        Ok(reply) => respond(StatusCode::OK, &reply),
        Err(error) => refusal(&error),
    })
}

async fn collect(body: Incoming, limits: Limits) -> Result<Bytes, ApiError> {
    match timeout(limits.body_time, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::new(ErrorKind::TooLarge, format!("the body is longer than {} octets", limits.body)))
        }
        Ok(Err(error)) => Err(ApiError::new(ErrorKind::BadRequest, format!("the body broke off: {error}"))),
        Err(_) => Err(ApiError::new(ErrorKind::BadRequest, "the body did not come in time")),
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>, limits: Limits) -> Result<Reply, ApiError> {
    let unavailable = |text: &str| ApiError::new(ErrorKind::Unavailable, text);
    let (reply, answer) = oneshot::channel();
    match calls.send_timeout(Call { request, reply }, limits.queue_time).await {
        Ok(()) => {}
        Err(SendTimeoutError::Timeout(_)) => return Err(unavailable("the agent is busy; try again")),
        Err(SendTimeoutError::Closed(_)) => return Err(unavailable("the agent is stopping")),
    }
    match timeout(limits.answer_time, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(unavailable("the agent stopped before it answered; ask again once it is back")),
        Err(_) => Err(unavailable("the agent did not answer in time; it may still do what it was asked")),
    }
}
