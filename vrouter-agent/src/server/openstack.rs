//! The two APIs of OpenStack over TCP, for this host alone: HTTP/1.1, JSON. It translates and decides nothing.
//!
//! What it refuses: whoever is not on the loopback address (the configuration names no other), bodies over 2 MiB, more
//! connections than [`CONNECTIONS`] (they wait in the kernel), more requests than [`RATE`] a second (they wait here), and
//! requests that a web browser made for somebody else's page.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_api::{ApiError, ErrorKind};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Call, Limits, MAX_HEAD, MAX_HEADERS, Reply, Request, ask, collect};
use crate::openstack::port_api::{self, PortReply};
use crate::openstack::vpn_api::{self, VpnReply};

const CONNECTIONS: usize = 16;
/// Requests a second, over all connections; as many may come at once.
const RATE: u32 = 2_000;
const BODY: usize = 2 << 20;
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// The port may still be that of the agent that this one replaces.
const RETRY: Duration = Duration::from_secs(2);
const FORMAT: &str = "application/json; charset=UTF-8";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The incumbent's port API.
    Port,
    /// Bagpipe's VPN API.
    Vpn,
}

/// Serves until it is dropped. An address that cannot be had is tried again and again, and said once.
pub async fn serve_openstack(api: Api, address: SocketAddr, calls: mpsc::Sender<Call>) {
    let mut is_told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !is_told => {
                warn!(?api, %address, %error, "cannot serve OpenStack there yet");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    info!(?api, %address, "serving OpenStack");
    serve_on(api, listener, calls).await;
}

/// [`serve_openstack`] on a socket that listens.
pub async fn serve_on(api: Api, listener: TcpListener, calls: mpsc::Sender<Call>) {
    let rate = Arc::new(Rate::new(Instant::now()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let served = serve_connection(api, stream, calls.clone(), Arc::clone(&rate));
                    connections.spawn(timeout(CONNECTION_TIME, served));
                }
                Err(error) => {
                    warn!(?api, %error, "cannot accept a connection of OpenStack");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(api: Api, stream: TcpStream, calls: mpsc::Sender<Call>, rate: Arc<Rate>) {
    let service = service_fn(|request| answer(api, request, &calls, &rate));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Limits::default().head_time)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that breaks off or speaks no HTTP is its own trouble.
    drop(served);
}

async fn answer(
    api: Api,
    request: hyper::Request<Incoming>,
    calls: &mpsc::Sender<Call>,
    rate: &Rate,
) -> Result<Response<Full<Bytes>>, Infallible> {
    sleep(rate.wait(Instant::now())).await;
    let (head, body) = request.into_parts();
    let limits = Limits { body: BODY, ..Limits::default() };
    // A browser says where its page is from; no client of these APIs is one.
    let asked = if head.headers.contains_key(ORIGIN) {
        Err(ApiError::new(ErrorKind::NotAdmitted, "this is no place for web pages"))
    } else {
        collect(body, limits).await
    };
    let (method, path) = (head.method.as_str(), head.uri.path());
    let (status, body) = match api {
        Api::Port => {
            let reply = match asked {
                Ok(body) => port_reply(port_api::read(method, path, &body), calls, limits).await,
                Err(error) => PortReply::from(&error),
            };
            (reply.status, reply.body)
        }
        Api::Vpn => {
            let reply = match asked {
                Ok(body) => vpn_reply(vpn_api::read(method, path, &body), calls, limits).await,
                Err(error) => VpnReply::from(&error),
            };
            (reply.status, reply.body)
        }
    };
    Ok(respond(api, status, &body))
}

async fn port_reply(
    call: Result<port_api::PortCall, PortReply>,
    calls: &mpsc::Sender<Call>,
    limits: Limits,
) -> PortReply {
    let call = match call {
        Ok(call) => call,
        Err(refusal) => return refusal,
    };
    match ask(Request::PortApi(call), calls, limits).await {
        Ok(Reply::PortApi(reply)) => reply,
        Ok(_) => PortReply::done(),
        Err(error) => PortReply::from(&error),
    }
}

async fn vpn_reply(
    call: Result<vpn_api::VpnCall, VpnReply>,
    calls: &mpsc::Sender<Call>,
    limits: Limits,
) -> VpnReply {
    let call = match call {
        Ok(call) => call,
        Err(refusal) => return refusal,
    };
    match ask(Request::VpnApi(call), calls, limits).await {
        Ok(Reply::VpnApi(reply)) => reply,
        // Bagpipe's word for "done".
        Ok(_) => VpnReply::ok(Value::Null),
        Err(error) => VpnReply::from(&error),
    }
}

fn respond(api: Api, status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
    if api == Api::Port {
        // The incumbent says so whatever the code.
        response.extensions_mut().insert(ReasonPhrase::from_static(b"OK"));
    }
    response
}

/// So many a second, and who comes too soon waits its turn.
struct Rate {
    /// When the next may go, if nobody had been given leave in advance.
    next: Mutex<Instant>,
}

impl Rate {
    fn new(now: Instant) -> Rate {
        Rate { next: Mutex::new(now) }
    }

    fn wait(&self, now: Instant) -> Duration {
        let (each, burst) = (Duration::from_secs(1) / RATE, Duration::from_secs(1));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(now.checked_sub(burst).unwrap_or(now)) + each;
        next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_requests_and_those_beyond_wait() {
        let start = Instant::now();
        let rate = Rate::new(start);
        let now = start + Duration::from_secs(10);
        let free = (0..3 * RATE).filter(|_| rate.wait(now).is_zero()).count();
        assert_eq!(free, RATE as usize, "a burst");
        assert!(rate.wait(now) > Duration::from_secs(1), "the others wait");
        assert!(rate.wait(now + Duration::from_secs(60)).is_zero(), "not for ever");
    }
}
