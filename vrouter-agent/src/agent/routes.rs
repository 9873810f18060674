//! Imported routes on their way to the disk, and what the last run left there.
//!
//! Flash wears out: a change is written when it has settled, at most once a minute, never twice the same, and by another
//! thread. While routes of the last run serve, how long they have is written now and then, so that a gateway that
//! reboots again and again does not keep them for ever. The time is counted, not read off a clock: a gateway without an
//! uplink may have no idea what day it is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_peer::{Family, FamilySet, PeerId, Rib, SpeakerHandle, State};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Agent, Bgp};
use crate::event::Event;
use crate::state_file::{MAX_ROUTES, SavedRoutes};

/// From the first change to the write.
const SETTLE: Duration = Duration::from_secs(10);
/// From one write to the next.
const BETWEEN: Duration = Duration::from_secs(60);
/// How often the age of stale routes is written.
const MARK: Duration = Duration::from_secs(900);
/// Where all neighbors are up and not all say when they are done: for how long, and for how long nothing has come.
const ESTABLISHED: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(10);

/// What is on disk and what should be.
pub(super) struct RouteWriter {
    revision: u64,
    due: Option<Instant>,
    written_at: Option<Instant>,
    written: Option<u64>,
    writing: Option<JoinHandle<()>>,
    is_cut: bool,
    /// When BGP last said something.
    pub(super) heard_at: Instant,
}

impl RouteWriter {
    pub(super) fn new() -> RouteWriter {
        RouteWriter {
            revision: 0,
            due: None,
            written_at: None,
            written: None,
            writing: None,
            is_cut: false,
            heard_at: Instant::now(),
        }
    }
}

impl Agent {
    /// Once a second.
    pub(super) async fn look_after_routes(&mut self) {
        if self.overlay.stale_routes() > 0
            && let Bgp::Running(speaker) = &self.bgp
            && self.is_all_said(speaker).await
        {
            info!(
                routes = self.overlay.stale_routes(),
                "no neighbor has confirmed these routes of the last run"
            );
            self.handle(Event::RoutesComplete).await;
        }
        let now = Instant::now();
        let writer = &mut self.route_writer;
        if writer.revision != self.overlay.imports_revision() {
            writer.revision = self.overlay.imports_revision();
            let earliest = writer.written_at.map_or(now, |at| at + BETWEEN);
            writer.due.get_or_insert(earliest.max(now + SETTLE));
        }
        if self.overlay.stale_routes() > 0 && writer.written_at.is_none_or(|at| at + MARK <= now) {
            writer.due.get_or_insert(now);
        }
        let is_busy = writer.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if writer.due.is_some_and(|due| due <= now) && !is_busy {
            self.write_routes();
        }
    }

    /// The last write, which somebody waits for.
    pub(super) async fn write_routes_now(&mut self) {
        if let Some(writing) = self.route_writer.writing.take() {
            let _ = writing.await;
        }
        self.write_routes();
        if let Some(writing) = self.route_writer.writing.take() {
            let _ = writing.await;
        }
    }

    /// What the next run should know.
    pub(super) fn routes_to_save(&self) -> SavedRoutes {
        let stale_time = u64::from(self.overlay.config().bgp.long_lived_stale_time) * 1000;
        let is_stale = self.overlay.stale_routes() > 0;
        let vrfs = if stale_time == 0 { Vec::new() } else { self.overlay.saved_routes(MAX_ROUTES) };
        let stale_msec = if is_stale { stale_time.saturating_sub(self.overlay.stale_left()) } else { 0 };
        SavedRoutes { stale_msec, vrfs }
    }

    fn write_routes(&mut self) {
        let saved = self.routes_to_save();
        let writer = &mut self.route_writer;
        writer.due = None;
        writer.written_at = Some(Instant::now());
        let is_cut = saved.vrfs.iter().map(|vrf| vrf.routes.len()).sum::<usize>() >= MAX_ROUTES;
        if is_cut && !writer.is_cut {
            warn!(most = MAX_ROUTES, "more routes than are kept on disk for a start without uplink");
        }
        writer.is_cut = is_cut;
        let hash = hash(&saved);
        if writer.written == Some(hash) {
            return;
        }
        writer.written = Some(hash);
        let state = Arc::clone(&self.state);
        writer.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = state.save_routes(&saved) {
                warn!(%error, "cannot save the imported routes");
            }
        }));
    }

    /// Whether what no neighbor has said by now, no neighbor has to say: each has sent its End-of-RIB, or one has been up
    /// for as long as a restart may take (RFC 4724 §4.1), or all are up and quiet, as some send it to nobody.
    async fn is_all_said(&self, speaker: &SpeakerHandle) -> bool {
        let neighbors = speaker.neighbors().await;
        let up: Vec<_> = neighbors.iter().filter(|view| view.state == State::Established).collect();
        let restart = Duration::from_secs(self.overlay.config().bgp.restart_time.into());
        let Some(longest) = up.iter().map(|view| view.uptime).max() else { return false };
        if longest >= restart || up.len() < neighbors.len() {
            return longest >= restart;
        }
        let families: Vec<(PeerId, FamilySet)> = up.iter().map(|view| (view.id, view.families)).collect();
        let has_ended = move |rib: &mut Rib, _| {
            let vpn = |families: FamilySet| {
                [Family::Vpnv4, Family::Vpnv6].into_iter().filter(move |family| families.contains(*family))
            };
            families.iter().all(|(id, agreed)| {
                let heard = rib.end_of_rib_heard(*id);
                vpn(*agreed).all(|family| heard.contains(family))
            })
        };
        speaker.with_rib(has_ended).await.unwrap_or(false)
            || (up.iter().all(|view| view.uptime >= ESTABLISHED)
                && self.route_writer.heard_at.elapsed() >= QUIET)
    }
}

fn hash(saved: &SavedRoutes) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(saved).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
