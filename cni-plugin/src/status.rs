//! STATUS: whether an ADD could be served now. The runtime asks this while its own callers wait, so it takes a second at
//! most.

use std::time::{Duration, Instant};

use agent_api::Client;

use crate::call::Call;
use crate::error::Error;
use crate::ipam;

const TIMEOUT: Duration = Duration::from_millis(900);
/// What a delegate has at least, however long the agent took.
const DELEGATE_TIMEOUT: Duration = Duration::from_millis(100);

/// Fails with 50 when the agent is away or not ready, and with the delegate's own word when that is.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let start = Instant::now();
    let status = Client::connect(&call.conf.socket, TIMEOUT)
        .and_then(|mut agent| agent.status())
        .map_err(|error| Error::NotReady(vec![error.to_string()]))?;
    if !status.ready {
        return Err(Error::NotReady(status.problems));
    }
    let left = TIMEOUT.saturating_sub(start.elapsed());
    ipam::forward(call, "STATUS", left.max(DELEGATE_TIMEOUT))
}
