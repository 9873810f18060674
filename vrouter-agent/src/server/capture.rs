//! A capture as a reply: a pcapng file that goes on until its limits are reached, or its reader or the agent ends it.
//!
//! ```text
//!   workers ──rings──▶ every few milliseconds ──▶ pcapng ──(16 chunks)──▶ hyper ──▶ client
//! ```
//! A client that reads slowly fills its chunks, then the rings; what does not fit these is counted and told with the
//! next packet. It holds up nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_api::pcapng::{self, Packet};
use dataplane::{Capture, Captured, Direction};
use dataplane_core::DropReason;
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often the rings are emptied.
const PERIOD: Duration = Duration::from_millis(20);
/// A chunk is sent once it is this long.
const CHUNK: usize = 64 << 10;

/// A running capture, and how it is to be told.
#[derive(Debug)]
pub struct CaptureStream {
    /// Where packets come from.
    pub capture: Capture,
    /// How the file begins.
    pub head: Vec<u8>,
    /// Ends after so many packets.
    pub count: Option<u64>,
    /// Ends after so long.
    pub time: Option<Duration>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    packets: u64,
    lost: u64,
}

pub(super) async fn forward(stream: CaptureStream, chunks: mpsc::Sender<Bytes>) {
    let CaptureStream { mut capture, head, count, time } = stream;
    let end = end(Instant::now(), time);
    let mut told = Told::default();
    if chunks.send(Bytes::from(head)).await.is_err() {
        return;
    }
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = sleep_until(end) => true,
            () = chunks.closed() => return,
        };
        let Ok(is_full) = told.pass_on(&capture.read(), count, &chunks).await else { return };
        if is_last || is_full {
            let mut out = Vec::new();
            // What was lost behind the last packet is known only here.
            let lost = if is_full { told.lost } else { capture.lost() };
            pcapng::statistics(&mut out, now_ns(), told.packets, lost);
            let _ = chunks.send(Bytes::from(out)).await;
            return;
        }
    }
}

/// When a capture is over; in some centuries if nobody says otherwise, or says more than a clock has.
fn end(now: Instant, time: Option<Duration>) -> Instant {
    const FOREVER: Duration = Duration::from_secs(1 << 33);
    now + time.map_or(FOREVER, |time| time.min(FOREVER))
}

impl Told {
    /// Whether there are as many packets as were wanted. An error: nobody reads any more.
    async fn pass_on(
        &mut self,
        packets: &[Captured],
        count: Option<u64>,
        chunks: &mpsc::Sender<Bytes>,
    ) -> Result<bool, mpsc::error::SendError<Bytes>> {
        let mut out = Vec::new();
        let left = count.map_or(u64::MAX, |count| count.saturating_sub(self.packets));
        for packet in packets.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            self.packets += 1;
            self.lost += packet.lost;
            encode(&mut out, packet);
            if out.len() >= CHUNK {
                chunks.send(Bytes::from(std::mem::take(&mut out))).await?;
            }
        }
        if !out.is_empty() {
            chunks.send(Bytes::from(out)).await?;
        }
        Ok(count.is_some_and(|count| self.packets >= count))
    }
}

fn encode(out: &mut Vec<u8>, captured: &Captured) {
    let comment = captured.dropped.map(comment);
    let packet = Packet {
        at_ns: captured.at_ns,
        inbound: captured.direction == Direction::In,
        original: captured.original,
        octets: &captured.octets,
        lost: captured.lost,
        comment: comment.as_deref(),
    };
    pcapng::packet(out, &packet);
}

fn comment(reason: DropReason) -> String {
    format!("dropped: {}: {}", reason.name(), reason.description())
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_every_clock_is_no_end() {
        let now = Instant::now();
        assert_eq!(end(now, Some(Duration::from_secs(7))), now + Duration::from_secs(7));
        assert_eq!(end(now, Some(Duration::from_secs(u64::MAX))), end(now, None));
    }
}
