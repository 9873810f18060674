//! `GET /metrics` over TCP, for Prometheus. It translates and decides nothing, and keeps nobody waiting for long:
//! one exchange per connection, few connections at a time, ten seconds for each.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Call, Limits, MAX_HEAD, MAX_HEADERS, Reply, Request, ask};

const CONNECTIONS: usize = 8;
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The address may be that of an uplink that is not there yet.
const RETRY: Duration = Duration::from_secs(5);
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped. An address that cannot be had is tried again and again, and said once.
pub async fn serve_metrics(address: SocketAddr, calls: mpsc::Sender<Call>) {
    let mut is_told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !is_told => {
                warn!(%address, %error, "cannot serve metrics there yet");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    info!(%address, "metrics");
    serve_on(listener, calls).await;
}

pub(super) async fn serve_on(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(timeout(CONNECTION_TIME, serve_connection(stream, calls.clone())));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, calls: mpsc::Sender<Call>) {
    let service = service_fn(|request| answer(request, &calls));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that breaks off or speaks no HTTP is its own trouble.
    drop(served);
}

async fn answer(
    request: hyper::Request<Incoming>,
    calls: &mpsc::Sender<Call>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(text(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()));
    }
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "/metrics takes GET\n".to_owned()));
    }
    Ok(match ask(Request::Metrics, calls, Limits::default()).await {
        Ok(Reply::Metrics(page)) => text(StatusCode::OK, page),
        Ok(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n".to_owned()),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
    response
}
