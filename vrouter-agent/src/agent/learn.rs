//! What workloads show of their addresses: from the dataplane's bell to the agent's loop.

use std::sync::{Arc, Weak};

use dataplane::Dataplane;
use dataplane_core::Learned;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tracing::warn;

/// Announcements that wait for the loop. While there are as many, those behind them wait in the dataplane's ring.
const WAITING: usize = 64;

/// Begins to listen. The task ends when nobody receives any more, or cannot begin: then nothing is learned.
pub(super) fn listen(dataplane: &Arc<Dataplane>) -> mpsc::Receiver<Learned> {
    let (sender, receiver) = mpsc::channel(WAITING);
    match dataplane.learned_bell().and_then(UnixDatagram::from_std) {
        Ok(bell) => drop(tokio::spawn(pass_on(Arc::downgrade(dataplane), bell, sender))),
        Err(error) => warn!(%error, "cannot hear what workloads announce"),
    }
    receiver
}

async fn pass_on(dataplane: Weak<Dataplane>, bell: UnixDatagram, to: mpsc::Sender<Learned>) {
    loop {
        let rung = tokio::select! {
            rung = bell.readable() => rung,
            () = to.closed() => return,
        };
        if rung.is_err() {
            return;
        }
        while bell.try_recv(&mut [0]).is_ok() {}
        let Some(learned) = dataplane.upgrade().map(|dataplane| dataplane.learned()) else { return };
        for learned in learned {
            if to.send(learned).await.is_err() {
                return;
            }
        }
    }
}
