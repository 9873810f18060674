//! The dataplane without ports and tunnels, as it may run in a test without any right.

use super::*;
use std::time::Duration;

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_worker_moves_the_packets_that_the_watchdog_gives_it_and_a_stuck_one_does_not() {
    let config = DataplaneConfig { workers: Some(2), host_interface: None, ..DataplaneConfig::default() };
    let dataplane = Dataplane::start(config, Arc::new(Fib::new())).unwrap();
    let moved = |worker: usize| dataplane.workers[worker].shared.pulse.answers();
    until("both workers to answer", || moved(0) > 1 && moved(1) > 1);
    let held = dataplane.workers[1].shared.pulse.hold.lock().unwrap();
    until("the second worker to be seen as stuck", || !dataplane.health()[1].moves);
    let health = dataplane.health();
    assert!(health[1].stuck_for_ms > 1000 && health[1].worker == 1);
    let before = moved(0);
    until("the first to go on meanwhile", || moved(0) > before && dataplane.health()[0].moves);
    drop(held);
    until("the second to move again", || dataplane.health()[1].moves);
    assert_eq!(dataplane.drops(), [], "the watchdog's packets count nowhere");
}
