//! Beginning, being watched and ending: what the service manager hears of the agent, and how one run hands over to the
//! next.
//!
//! ```text
//!  run ──▶ SIGUSR2 ─▶ neighbors keep our routes, callers' connections end unanswered (they ask again, and the kept
//!          listener takes it) ─▶ workers end ─▶ note when ─▶ exit        sockets stay with the manager, packets queue
//!  next ─▶ state from disk ─▶ adopt ─▶ forwarding state, tunnels ─▶ workers ─▶ BGP (R=1, F=1) ─▶ callers
//! ```

use std::time::Duration;

use agent_api::{LastStart, RunStatus, WorkerStatus};
use tracing::{info, warn};

use super::{Agent, Bgp, Inputs, RESTART};
use crate::service;
use crate::state_file::{LastStop, boot_id};

/// Where nobody watches.
const RARELY: Duration = Duration::from_secs(3600);

/// What this run knows of the one before.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    stop: Option<LastStop>,
    start: LastStart,
}

impl Before {
    pub(super) fn new(stop: Option<LastStop>) -> Before {
        Before { stop: stop.filter(|stop| stop.boot_id == boot_id()), start: LastStart::default() }
    }

    /// The workers run now.
    pub(super) fn workers_run(&mut self, adopted: usize) {
        let ended = self.stop.as_ref().map(|stop| stop.at_usec);
        let pause = ended.zip(service::monotonic_usec()).map(|(then, now)| now.saturating_sub(then));
        self.start = LastStart {
            adopted_sockets: adopted,
            previous_version: self.stop.as_ref().map(|stop| stop.agent.clone()),
            pause_usec: pause.filter(|_| adopted > 0),
        };
        match (adopted, self.start.pause_usec) {
            (0, _) => {}
            (_, Some(pause_us)) => info!(sockets = adopted, pause_us, "packets of the restart were kept"),
            (_, None) => {
                info!(sockets = adopted, "packets were kept; the last run did not say when it ended")
            }
        }
    }
}

impl Agent {
    /// How often the manager wants to hear that all is well: twice as often as it must.
    pub(super) fn beat_period(&self) -> Duration {
        self.watchdog.map_or(RARELY, |limit| (limit / 2).max(Duration::from_millis(10)))
    }

    /// This loop turns, or we would not be here; whether the workers do is another question.
    pub(super) fn beat(&mut self) {
        let stuck: Vec<usize> =
            self.dataplane.health().iter().filter(|it| !it.moves).map(|it| it.worker).collect();
        if stuck.is_empty() {
            service::alive();
        } else {
            warn!(workers = ?stuck, "workers move no packets: the service manager is not told that all is well");
        }
    }

    /// What `systemctl status` shows, where it is new.
    pub(super) async fn tell_status(&mut self) {
        if !service::is_there() {
            return;
        }
        let text = self.status_line().await;
        if text != self.told {
            service::status(&text);
            self.told = text;
        }
    }

    pub(super) async fn status_line(&self) -> String {
        let Bgp::Running(speaker) = &self.bgp else { return "starting".to_owned() };
        let summary = speaker.summary().await;
        let up = summary.neighbors.iter().filter(|view| view.state == bgp_peer::State::Established).count();
        let (ports, neighbors) = (self.overlay.ports().count(), summary.neighbors.len());
        let problems = self.overlay.problems().len() + crate::show::bgp_problems(&summary.neighbors).len();
        let verdict = match problems {
            0 => "healthy".to_owned(),
            1 => "1 problem, see vrouterctl status".to_owned(),
            _ => format!("{problems} problems, see vrouterctl status"),
        };
        format!("{verdict}: {ports} ports, {up} of {neighbors} BGP neighbors established")
    }

    /// Workers that do not work, a sentence each.
    pub(super) fn worker_problems(&self) -> Vec<String> {
        let health = self.dataplane.health();
        let stuck = health.iter().filter(|worker| !worker.moves);
        stuck
            .map(|it| format!("worker {} has moved no packet for {} ms", it.worker, it.stuck_for_ms))
            .collect()
    }

    /// For `status`.
    pub(super) fn run_status(&self) -> RunStatus {
        let (spooled_deletes, unreadable_files) = self.state.left_over();
        let worker = |health: &dataplane::WorkerHealth| WorkerStatus {
            worker: health.worker,
            moves: health.moves,
            stuck_msec: health.stuck_for_ms,
        };
        RunStatus {
            workers: self.dataplane.health().iter().map(worker).collect(),
            kept_sockets: self.store.is_there().then(|| self.store.count()),
            start: self.before.start.clone(),
            spooled_deletes,
            unreadable_files,
        }
    }

    /// Ends, for good or for a restart.
    pub(super) async fn end(mut self, mut inputs: Inputs, reason: &'static str) {
        let is_restart = reason == RESTART;
        info!(
            reason,
            routes = if is_restart { "kept by neighbors that can" } else { "withdrawn" },
            "stopping"
        );
        service::stopping(if is_restart { "restarting" } else { "stopping" });
        if is_restart {
            // Callers' connections end without a word: they connect once more, and the next run answers.
            inputs.server.abort();
            let _ = (&mut inputs.server).await;
        } else {
            // From here on nobody finds the socket, and whoever waits is told to ask again later.
            let _ = std::fs::remove_file(&self.config.socket);
            dataplane::Keeper::forget(&*self.store, super::LISTENER);
        }
        inputs.calls.close();
        while inputs.calls.try_recv().is_ok() {}
        self.callers.clear();
        // Whoever watches sees the end of it while the neighbors are told.
        self.monitor = None;
        self.keep_routes();
        self.write_routes_now().await;
        if let Bgp::Running(speaker) = &self.bgp {
            speaker.shutdown(is_restart).await;
        }
        inputs.server.abort();
        self.metrics.iter().chain(&self.openstack).for_each(tokio::task::JoinHandle::abort);
        self.dataplane.halt();
        let ended = service::monotonic_usec();
        if is_restart {
            self.dataplane.keep_flows();
        }
        if let Some(at_usec) = ended {
            let agent = env!("CARGO_PKG_VERSION").to_owned();
            self.state.note_stop(&LastStop { boot_id: boot_id(), at_usec, agent, reason: reason.to_owned() });
        }
    }
}
