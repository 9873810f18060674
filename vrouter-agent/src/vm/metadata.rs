//! The metadata proxy: a machine's plain HTTP request goes to nova's metadata service with who asks, signed.
//!
//! ```text
//!  GET /latest/meta-data/   ──▶  GET /latest/meta-data/
//!  Host: 169.254.169.254         Host: 192.0.2.5:8775
//!                                X-Instance-ID, X-Tenant-ID, X-Forwarded-For, X-Instance-ID-Signature
//! ```
//! The signature is HMAC-SHA256 of the instance's identifier under the secret that nova knows (`[neutron]
//! metadata_proxy_shared_secret`). Whatever a machine itself says of these headers is taken out, also where it writes
//! `_` for `-`: the service's gateway interface cannot tell the two.
//!
//! What it refuses: machines that no instance was named for (404), bodies beyond 64 KiB (413), more connections than
//! one machine may have (closed at once), anything slow. A service that does not answer is a 503 that says so.

mod headers;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::directory::{Directory, Machine};
use super::shares::{Share, Shares};
use crate::config::MetadataConfig;

pub use headers::signature;

const CONNECTIONS: usize = 256;
const CONNECTIONS_EACH: usize = 16;
/// From one exchange to the head of the next.
const IDLE: Duration = Duration::from_secs(15);
const CONNECTION_TIME: Duration = Duration::from_secs(120);
const BODY_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
const MAX_BODY: usize = 64 << 10;

type Body = Either<Full<Bytes>, Incoming>;

/// What the proxy knows.
#[derive(Debug)]
pub struct Proxy {
    service: MetadataConfig,
    directory: Directory,
    shares: Shares,
}

impl Proxy {
    /// Asks this service for the machines of this directory.
    pub fn new(service: MetadataConfig, directory: Directory) -> Proxy {
        Proxy { service, directory, shares: Shares::new(CONNECTIONS, CONNECTIONS_EACH) }
    }

    fn admit(&self, peer: SocketAddr) -> Option<Share> {
        self.shares.take(dataplane_core::nat::service_port(peer.ip())?)
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, proxy: Arc<Proxy>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => match proxy.admit(peer) {
                    Some(share) => {
                        let served = serve_connection(stream, peer, Arc::clone(&proxy), share);
                        connections.spawn(timeout(CONNECTION_TIME, served));
                    }
                    None => debug!(%peer, "a metadata connection too many"),
                },
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metadata");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, proxy: Arc<Proxy>, _share: Share) {
    let service = service_fn(|request| answer(request, peer, &proxy));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        // Simple clients say that they have said all, and wait.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A machine that breaks off or speaks no HTTP is its own trouble.
    drop(served);
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    proxy: &Proxy,
) -> Result<Response<Body>, Infallible> {
    let Some((port, machine)) = proxy.directory.find(peer.ip()) else {
        return Ok(refuse(StatusCode::NOT_FOUND, "no port has the address that this request came from"));
    };
    match relay(request, &machine, &proxy.service).await {
        Ok(response) => Ok(response),
        Err((status, why)) => {
            debug!(%port, %status, why, "metadata");
            Ok(refuse(status, &why))
        }
    }
}

async fn relay(
    request: Request<Incoming>,
    machine: &Machine,
    service: &MetadataConfig,
) -> Result<Response<Body>, (StatusCode, String)> {
    let Some(instance) = &machine.instance else {
        let why = "this port was attached without an instance, so nobody knows its metadata";
        return Err((StatusCode::NOT_FOUND, why.to_owned()));
    };
    let (head, body) = request.into_parts();
    let body = read(body).await?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder().method(head.method).uri(path).body(Full::new(body));
    let mut request = request.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    headers::set(request.headers_mut(), &head.headers, machine, instance, service)
        .ok_or((StatusCode::NOT_FOUND, "the port's instance has no usable name".to_owned()))?;
    let mut response = ask(request, service).await?;
    headers::strip_hop_by_hop(response.headers_mut());
    Ok(response.map(Either::Right))
}

async fn read(body: Incoming) -> Result<Bytes, (StatusCode, String)> {
    match timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await {
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body came too slowly".to_owned())),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {MAX_BODY} octets")))
        }
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, error.to_string())),
    }
}

async fn ask(
    request: Request<Full<Bytes>>,
    service: &MetadataConfig,
) -> Result<Response<Incoming>, (StatusCode, String)> {
    let connecting = TcpStream::connect((service.host.as_str(), service.port));
    let stream = in_time("connect to", CONNECT_TIME, service, connecting).await?;
    let shaking = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = in_time("speak to", CONNECT_TIME, service, shaking).await?;
    // It ends with the exchange, and at the latest with the time of the machine's own connection.
    tokio::spawn(timeout(CONNECTION_TIME, connection));
    in_time("hear from", ANSWER_TIME, service, sender.send_request(request)).await
}

async fn in_time<T, E: std::fmt::Display>(
    what: &str,
    time: Duration,
    service: &MetadataConfig,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, (StatusCode, String)> {
    let MetadataConfig { host, port, .. } = service;
    let failed = |why: String| {
        let why = format!("cannot {what} the metadata service at {host}:{port}: {why}");
        (StatusCode::SERVICE_UNAVAILABLE, why)
    };
    match timeout(time, work).await {
        Ok(done) => done.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer in {} seconds", time.as_secs()))),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(format!("{why}\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
