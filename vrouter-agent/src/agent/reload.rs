//! The configuration is read again: on request, or on SIGHUP.

use std::sync::Arc;

use agent_api::{ApiError, ErrorKind};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Agent, Caller};
use crate::Error;
use crate::config::Config;
use crate::event::Event;
use crate::server::serve_metrics;
use crate::service;

impl Agent {
    /// Nobody waits: the log says what came of it.
    pub(super) async fn hang_up(&mut self) {
        let (reply, answer) = oneshot::channel();
        self.reload(reply).await;
        match answer.await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => warn!(%error, "not reloaded"),
        }
    }

    /// A file with mistakes changes nothing.
    pub(super) async fn reload(&mut self, reply: Caller) {
        service::reloading();
        self.read_again(reply).await;
        let status = self.status_line().await;
        service::ready(&status);
    }

    async fn read_again(&mut self, reply: Caller) {
        let file = self.file.clone();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        let refuse = |text: String| {
            ApiError::new(
                ErrorKind::BadRequest,
                format!("{text}\nnothing was changed; correct the file and reload again"),
            )
        };
        let loaded = loaded.map_err(|error| Error::Runtime(error.into())).and_then(|loaded| loaded);
        match loaded {
            Ok(config) => {
                let before = self.overlay.config().metrics;
                let call = self.remember(reply);
                self.handle(Event::Reload { call, config: Box::new(config) }).await;
                self.config = Arc::new(self.overlay.config().clone());
                if before != self.config.metrics {
                    self.start_metrics();
                }
            }
            Err(error) => {
                let error = refuse(error.to_string());
                info!(%error, "not reloaded");
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Where the configuration says now, and nowhere else.
    pub(super) fn start_metrics(&mut self) {
        if let Some(running) = self.metrics.take() {
            running.abort();
        }
        let address = self.config.metrics;
        self.metrics = address.map(|address| tokio::spawn(serve_metrics(address, self.own_calls.clone())));
    }
}
