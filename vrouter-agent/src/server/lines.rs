//! Replies without an end: one JSON object per line, or a capture, as long as both sides want.
//!
//! ```text
//!   agent ──broadcast (bounded)──▶ forward task ──(16 lines)──▶ hyper ──▶ client
//! ```
//! A client that reads slowly loses the oldest lines and is told how many. It never holds up the agent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::capture::{self, CaptureStream};
use agent_api::MonitorEvent;
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};

/// Streams at a time. The others of the server's connections are for pods.
pub(super) const STREAMS: usize = 8;
const LINES: usize = 16;

/// Where the lines come from: what is said from now on, behind what is known at the beginning.
#[derive(Debug)]
pub struct Monitor {
    first: Vec<MonitorEvent>,
    events: broadcast::Receiver<MonitorEvent>,
}

impl Monitor {
    /// `first` comes before the rest.
    pub fn new(first: Vec<MonitorEvent>, events: broadcast::Receiver<MonitorEvent>) -> Monitor {
        Monitor { first, events }
    }
}

/// A body: all of it, or lines or chunks as they come.
pub(super) enum Payload {
    Whole(Full<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl Payload {
    /// `None`: there are too many of them.
    pub(super) fn lines(monitor: Monitor, streams: &Arc<Semaphore>) -> Option<Payload> {
        let permit = Arc::clone(streams).try_acquire_owned().ok()?;
        let (sender, receiver) = mpsc::channel(LINES);
        tokio::spawn(forward(monitor, sender, permit));
        Some(Payload::Lines(receiver))
    }

    /// `None`: there are too many of them.
    pub(super) fn capture(stream: CaptureStream, streams: &Arc<Semaphore>) -> Option<Payload> {
        let permit = Arc::clone(streams).try_acquire_owned().ok()?;
        let (sender, receiver) = mpsc::channel(LINES);
        tokio::spawn(async move {
            capture::forward(stream, sender).await;
            drop(permit);
        });
        Some(Payload::Lines(receiver))
    }
}

async fn forward(monitor: Monitor, lines: mpsc::Sender<Bytes>, _permit: OwnedSemaphorePermit) {
    let Monitor { first, mut events } = monitor;
    for event in first {
        if send(&lines, &event).await.is_none() {
            return;
        }
    }
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = lines.closed() => return,
        };
        let event = match event {
            Ok(event) => event,
            Err(RecvError::Lagged(lost)) => MonitorEvent::Lost { lines: lost },
            Err(RecvError::Closed) => return,
        };
        if send(&lines, &event).await.is_none() {
            return;
        }
    }
}

/// `None`: nobody reads any more.
async fn send(lines: &mpsc::Sender<Bytes>, event: &MonitorEvent) -> Option<()> {
    let mut line = serde_json::to_vec(event).ok()?;
    line.push(b'\n');
    lines.send(Bytes::from(line)).await.ok()
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Payload::Whole(body) => Pin::new(body).poll_frame(context),
            Payload::Lines(lines) => {
                lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole(body) => body.is_end_stream(),
            Payload::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(body) => body.size_hint(),
            Payload::Lines(_) => SizeHint::default(),
        }
    }
}
