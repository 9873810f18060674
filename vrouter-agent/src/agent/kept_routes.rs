//! Imported routes as a crash must find them: in memory that the service manager holds, at most a second old. The disk
//! gets them later and less often (see [`super::routes`]), and serves where there is no such manager, or no power.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use dataplane::{Keeper, memory_file};
use tracing::warn;

use super::Agent;
use crate::service::Manager;
use crate::state_file::SavedRoutes;

const NAME: &str = "routes";
/// More than the routes that are saved ever take.
const MOST: u64 = 32 << 20;
/// How often the age of stale routes is noted.
const MARK: Duration = Duration::from_secs(60);

/// What the last run left, if it makes sense.
pub(super) fn of_last_run(manager: &mut Manager) -> Option<SavedRoutes> {
    let file = File::from(manager.inherited.remove(NAME)?);
    let len = file.metadata().ok().filter(|file| file.is_file() && file.len() <= MOST)?.len();
    let mut octets = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut octets, 0).ok()?;
    serde_json::from_slice(&octets).ok()
}

/// What has been kept, and when.
#[derive(Debug, Default)]
pub(super) struct KeptRoutes {
    revision: Option<u64>,
    at: Option<Instant>,
}

impl Agent {
    /// Once a second.
    pub(super) fn keep_routes(&mut self) {
        let (revision, kept) = (Some(self.overlay.imports_revision()), &self.kept_routes);
        let is_old = self.overlay.stale_routes() > 0 && kept.at.is_none_or(|at| at.elapsed() >= MARK);
        if !self.store.is_there() || (kept.revision == revision && !is_old) {
            return;
        }
        self.kept_routes = KeptRoutes { revision, at: Some(Instant::now()) };
        let written = memory_file(c"vrouter-routes").and_then(|mut file| {
            let octets = serde_json::to_vec(&self.routes_to_save()).map_err(io::Error::other)?;
            file.write_all(&octets)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                // A reader never sees half of it: the new one takes the old one's name when it is complete.
                self.store.forget(NAME);
                self.store.keep(NAME, file.as_fd());
            }
            Err(error) => warn!(%error, "imported routes are on disk only: a crash forgets the latest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn routes_that_make_no_sense_are_not_taken() {
        let of = |octets: &[u8]| {
            let mut file = memory_file(c"test").unwrap();
            file.write_all(octets).unwrap();
            let mut manager = Manager::default();
            manager.inherited.insert(NAME.to_owned(), OwnedFd::from(file));
            of_last_run(&mut manager)
        };
        let saved = SavedRoutes { stale_msec: 7, ..SavedRoutes::default() };
        let good = serde_json::to_vec(&saved).unwrap();
        assert_eq!(of(&good), Some(saved));
        for len in 0..good.len() {
            assert_eq!(of(&good[..len]), None, "{len}");
        }
        let mut manager = Manager::default();
        assert_eq!(of_last_run(&mut manager), None);
        manager.inherited.insert(NAME.to_owned(), File::open("/dev/zero").unwrap().into());
        assert_eq!(of_last_run(&mut manager), None, "no file of a length");
    }
}
