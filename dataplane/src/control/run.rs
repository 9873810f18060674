//! When workers run: from the moment that all is complete until the end, or until another process takes over.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use dataplane_core::State;
use tracing::{info, warn};

use super::{Dataplane, Handle, hold};
use crate::adjacency::follow::Follower;
use crate::error::DataplaneError;
use crate::watch::Watch;
use crate::worker::Worker;

impl Dataplane {
    /// Starts the workers, where they do not run. What the last run left and nobody has asked for is closed.
    pub fn serve(&self) -> Result<(), DataplaneError> {
        self.take_flows_back();
        for (index, handle) in self.workers.iter().enumerate() {
            let mut thread = hold(&handle.thread);
            if thread.is_none() {
                *thread = Some(self.start_worker(index, handle).map_err(DataplaneError::Worker)?);
            }
        }
        let pulses = self.workers.iter().map(|worker| Arc::clone(&worker.shared.pulse)).collect();
        *hold(&self.watch) = Some(Watch::start(pulses).map_err(DataplaneError::Worker)?);
        let (bell, snapshots) = (Arc::clone(&self.bell), Arc::clone(&self.snapshots));
        match Follower::start(bell, snapshots) {
            Ok(follower) => *hold(&self.follower) = Some(follower),
            Err(error) => {
                warn!(%error, "GRE goes by the raw socket only: cannot follow routes and neighbours")
            }
        }
        let rest = self.kept.close_rest();
        if !rest.is_empty() {
            info!(sockets = rest.join(" "), "closed what the last run left and nothing needs");
        }
        Ok(())
    }

    /// Ends the workers behind the batch that they work on. From then on packets queue in the sockets.
    pub fn halt(&self) {
        drop(hold(&self.watch).take());
        drop(hold(&self.follower).take());
        for worker in &self.workers {
            worker.shared.stop();
        }
        for worker in &self.workers {
            let thread = hold(&worker.thread).take();
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
        self.closing.finish();
    }

    /// How many sockets of the last run are served.
    pub fn adopted(&self) -> usize {
        self.kept.adopted()
    }

    fn start_worker(&self, index: usize, handle: &Handle) -> std::io::Result<JoinHandle<()>> {
        let snapshots = Arc::clone(&self.snapshots);
        let state = State::sharing(Arc::clone(&self.host_flows), Arc::clone(&self.flows.table));
        let (shared, clock) = (Arc::clone(&handle.shared), self.clock);
        thread::Builder::new()
            .name(format!("dataplane-{index}"))
            .spawn(move || Worker::new(index, shared, snapshots, state, clock).run())
    }
}
