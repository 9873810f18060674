//! What goes back: JSON, refusals, and replies that go on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use agent_api::{ApiError, ErrorKind};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::lines::{Payload, STREAMS};

/// A reply that goes on. `None`: there are too many of them.
pub(super) fn endless(
    payload: Option<Payload>,
    kind: &'static str,
    is_endless: &AtomicBool,
) -> Response<Payload> {
    let Some(payload) = payload else {
        let text = format!("{STREAMS} monitors and captures run already; end one of them");
        return refusal(&ApiError::new(ErrorKind::Exhausted, text));
    };
    is_endless.store(true, Relaxed);
    let mut response = Response::new(payload);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(super) fn refusal(error: &ApiError) -> Response<Payload> {
    respond(StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error)
}

pub(super) fn respond(status: StatusCode, body: &impl Serialize) -> Response<Payload> {
    let (status, mut body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            // Written by hand, since writing it by serde is what failed.
            format!("{{\"kind\":\"internal\",\"message\":{:?}}}", error.to_string()).into_bytes(),
        ),
    };
    // So that a terminal's prompt begins on its own line after curl.
    body.push(b'\n');
    let mut response = Response::new(Payload::Whole(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
