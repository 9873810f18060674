//! STATUS: whether an ADD could be served now. The runtime asks this while its own callers wait, so it takes a second at
//! most.

use std::time::Duration;

use agent_api::Client;

use crate::call::Call;
use crate::error::Error;
use crate::ipam;

const TIMEOUT: Duration = Duration::from_millis(900);

/// Fails with 50 when the agent is away or not ready, and with the delegate's own word when that is.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let status = Client::connect(&call.conf.socket, TIMEOUT)
        .and_then(|mut agent| agent.status())
        .map_err(|error| Error::NotReady(vec![error.to_string()]))?;
    if !status.ready {
        return Err(Error::NotReady(status.problems));
    }
    ipam::forward(call, "STATUS")
}
