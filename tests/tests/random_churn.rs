//! Two hundred pods, created and deleted in random order by several hands at once, and an agent that is killed, stopped
//! and restarted at random moments: afterwards everything that knows of pods agrees with those that exist.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vrouter_tests::agreement::wait_agreement;
use vrouter_tests::fixture::{ASN, gateway};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::random::Random;
use vrouter_tests::sandbox::Sandbox;
use vrouter_tests::{Answer, GoBgp, GoBgpPeer, Lab, Node, Probe};

const PODS: usize = 200;
/// Runtimes work on several pods at once.
const HANDS: usize = 3;
/// Pods that are left at the end, to be compared.
const STAY: usize = 12;

/// What is still to be done, and what is there.
struct Work {
    waiting: Mutex<Vec<Sandbox>>,
    alive: Mutex<Vec<Sandbox>>,
    failed: AtomicUsize,
}

impl Work {
    /// One pod comes or one goes. `false`: there is nothing left to do.
    fn step(&self, random: &mut Random) -> bool {
        let (waiting, alive) = (self.waiting.lock().unwrap().len(), self.alive.lock().unwrap().len());
        let is_add = waiting > 0 && (alive <= STAY || random.below(alive + 20) < 20);
        if is_add {
            let Some(pod) = self.waiting.lock().unwrap().pop() else { return true };
            self.add(pod);
            return true;
        }
        let mut pods = self.alive.lock().unwrap();
        if pods.len() <= STAY {
            return waiting > 0;
        }
        let index = random.below(pods.len());
        let mut pod = pods.swap_remove(index);
        drop(pods);
        // A kubelet does not give up either.
        while let Err(said) = pod.delete() {
            assert_eq!(said.error().code, 11, "{said:?}");
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// A failed ADD is followed by DEL and, a little later, another ADD.
    fn add(&self, mut pod: Sandbox) {
        while let Err(said) = pod.add() {
            assert!([11, 999].contains(&said.error().code), "{said:?}");
            self.failed.fetch_add(1, Ordering::Relaxed);
            pod.delete().unwrap_or_else(|said| panic!("DEL after a failed ADD: {said:?}"));
            thread::sleep(Duration::from_millis(50));
        }
        self.alive.lock().unwrap().push(pod);
    }
}

/// Ends the agent in one of the ways that it ends in, and starts it again.
fn end_agent(node: &mut Node, random: &mut Random) {
    if random.one_in(4) {
        node.stop_agent();
    } else {
        node.kill9();
    }
    thread::sleep(Duration::from_millis(u64::try_from(random.below(100)).unwrap()));
    node.start_agent();
}

#[test]
fn two_hundred_pods_and_a_killed_agent_leave_exactly_the_pods_that_exist() {
    let mut random = Random::seeded("churn");
    let lab = Lab::new();
    let reflector = GoBgp::start(&lab, "gobgp", 1, ASN, &[GoBgpPeer::client(underlay_v4(11).into(), ASN)]);
    let mut node = Node::start(&lab, "gw-11", 11, &gateway(11, &[1]));
    let began = Instant::now();
    let waiting = (0..PODS).map(|number| Sandbox::new(&node, &format!("pod-{number}"))).collect();
    let work = Work { waiting: Mutex::new(waiting), alive: Mutex::default(), failed: AtomicUsize::new(0) };
    let (is_done, mut ends) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS)
            .map(|_| {
                let mut random = Random::new(u64::try_from(random.below(usize::MAX)).unwrap());
                let work = &work;
                scope.spawn(move || while work.step(&mut random) {})
            })
            .collect();
        let is_done = &is_done;
        scope.spawn(move || {
            hands.into_iter().for_each(|hand| hand.join().unwrap());
            is_done.store(true, Ordering::Relaxed);
        });
        while !is_done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(u64::try_from(200 + random.below(800)).unwrap()));
            end_agent(&mut node, &mut random);
            ends += 1;
        }
    });
    let failed = work.failed.load(Ordering::Relaxed);
    println!(
        "{PODS} pods in {:?}: the agent ended {ends} times, {failed} calls failed and were made again",
        began.elapsed()
    );
    assert!(ends >= 5, "the agent ended while there was something to lose");
    let mut pods = work.alive.into_inner().unwrap();
    assert_eq!(pods.len(), STAY);
    wait_agreement("after the churn", &node, 11, &pods, Some(&reflector));
    let (first, last) = (&pods[0], &pods[STAY - 1]);
    for address in last.addresses() {
        assert_eq!(Probe::default().send(first.namespace(), address), Answer::Reply, "to {address}");
    }
    pods.iter().for_each(|pod| pod.check().unwrap_or_else(|said| panic!("CHECK: {said:?}")));
    pods.iter_mut().for_each(|pod| pod.delete().unwrap_or_else(|said| panic!("DEL: {said:?}")));
    wait_agreement("after all is deleted", &node, 11, &pods, Some(&reflector));
}
