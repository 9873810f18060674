//! Flows over a planned restart: written to memory that somebody holds, read by the next run before its first packet.
//!
//! ```text
//!  "vrflow1\\n" | key, 2 words | slots of the host's flows, 1 word | their words … | flows of 63 octets …
//! ```
//! Words are eight octets, the highest first. A run that is killed leaves none: then flows that need memory begin anew.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use dataplane_core::{FlowTable, HostFlows, KEPT_FLOW_LEN};
use tracing::{info, warn};

use super::Dataplane;
use crate::adopt::Kept;
use crate::sys;

const NAME: &str = "flows";
const MAGIC: [u8; 8] = *b"vrflow1\n";
/// More than both tables ever fill.
const MOST: u64 = 64 << 20;

/// What the last run has left.
#[derive(Debug)]
pub(super) struct KeptFlows {
    pub(super) key: [u64; 2],
    host: Vec<u64>,
    flows: Vec<u8>,
}

impl KeptFlows {
    /// Reads it, if it makes sense.
    pub(super) fn of_last_run(kept: &Kept) -> Option<KeptFlows> {
        let file = File::from(kept.take(NAME)?);
        let len = file.metadata().ok().filter(|file| file.is_file() && file.len() <= MOST)?.len();
        let mut octets = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut octets, 0).ok()?;
        KeptFlows::parse(&octets)
    }

    fn parse(octets: &[u8]) -> Option<KeptFlows> {
        let mut rest = octets.strip_prefix(&MAGIC)?;
        let mut word = || {
            let (first, behind) = rest.split_first_chunk()?;
            rest = behind;
            Some(u64::from_be_bytes(*first))
        };
        let (key, count) = ([word()?, word()?], word()?);
        if count > MOST {
            return None;
        }
        let host = (0..count).map(|_| word()).collect::<Option<Vec<u64>>>()?;
        Some(KeptFlows { key, host, flows: rest.to_vec() })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        let count = u64::try_from(self.host.len()).unwrap_or_default();
        for word in self.key.iter().chain([&count]).chain(&self.host) {
            out.write_all(&word.to_be_bytes())?;
        }
        out.write_all(&self.flows)
    }

    fn take_back(
        &self,
        host: &HostFlows,
        table: &FlowTable,
        fib: &dataplane_core::Fib,
        now_ms: u64,
    ) -> usize {
        // Another size is another table: what is where in it differs.
        if self.host.len() == host.slots() {
            host.take_back(self.host.iter().copied(), now_ms);
        }
        let flows = self.flows.chunks_exact(KEPT_FLOW_LEN);
        flows.filter(|octets| table.take_back(fib, octets, now_ms)).count()
    }
}

impl Dataplane {
    /// Leaves the flows to the next run. For a dataplane that has been halted.
    pub fn keep_flows(&self) {
        let now_ms = self.now_ms();
        let host = self.host_flows.keep(now_ms).collect();
        let flows = self.flows.table.keep(now_ms).flatten().collect();
        let kept = KeptFlows { key: self.key, host, flows };
        let written = sys::memory_file(c"vrouter-flows").and_then(|mut file| {
            let mut octets = Vec::new();
            kept.write(&mut octets)?;
            file.write_all(&octets)?;
            self.kept.keep(NAME, file.as_fd());
            Ok(())
        });
        if let Err(error) = written {
            warn!(%error, "flows are not kept over the restart");
        }
    }

    /// Goes on with the flows of the last run, for ports that are there again.
    pub(super) fn take_flows_back(&self) {
        let Some(kept) = super::hold(&self.left).take() else { return };
        let flows = kept.take_back(&self.host_flows, &self.flows.table, &self.fib(), self.now_ms());
        if flows > 0 {
            info!(flows, "flows of the last run go on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let kept = KeptFlows { key: [1, 2], host: vec![3, 4, 5], flows: vec![6; 2 * KEPT_FLOW_LEN] };
        let mut octets = Vec::new();
        kept.write(&mut octets).unwrap();
        let read = KeptFlows::parse(&octets).unwrap();
        assert_eq!((read.key, read.host, read.flows), (kept.key, kept.host, kept.flows));
        for len in 0..MAGIC.len() + 48 {
            assert!(KeptFlows::parse(&octets[..len]).is_none(), "{len}");
        }
        octets[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(KeptFlows::parse(&octets).is_none(), "a lying count");
        octets[0] = b'V';
        assert!(KeptFlows::parse(&octets).is_none());
    }
}
