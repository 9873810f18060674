//! DEL: the port, then the veth pair, then the delegate's addresses. Whatever is missing is gone already.
//!
//! Runtimes call it twice for every pod, the second time without a namespace and without prevResult; all that is needed
//! follows from CNI_CONTAINERID and CNI_IFNAME. A failure of one step does not stop the next; it is reported at the end.

use crate::call::Call;
use crate::error::Error;
use crate::veth::Links;
use crate::{detach, ipam, name};

/// Removes what ADD made.
pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let key = call.key();
    let detached = detach::detach(&call.conf, &key);
    let ours = name::host_interface(&key);
    let mut names = vec![ours.clone()];
    if let Ok(Some(theirs)) = &detached
        && *theirs != ours
    {
        names.push(theirs.clone());
    }
    let removed = remove(&names);
    let released = ipam::forward(call, "DEL", ipam::TIMEOUT);
    detached?;
    removed?;
    released
}

/// Deletes these links where they exist.
pub(crate) fn remove(names: &[String]) -> Result<(), Error> {
    let mut host = Links::open().map_err(Error::kernel("open netlink"))?;
    for name in names {
        host.delete(name).map_err(Error::kernel(format!("remove {name}")))?;
    }
    Ok(())
}
