//! Sessions that break and come back (RFC 4724, RFC 8538, RFC 9494): what has been learned stays in force meanwhile, not
//! one forwarding entry is touched, not one packet between two pods is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vrouter_tests::fixture::{ASN, gateway, host_prefix, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::process::{Daemon, command, run};
use vrouter_tests::{Answer, Frr, Lab, Namespace, Node, PATIENCE, Pod, Probe, wait_for};

/// Asks one pod from another again and again: every answer must come, from the first moment to the last.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u32, u32)>>,
}

impl Watch {
    fn begin(from: &Pod, to: IpAddr) -> Watch {
        let (stop, namespace) = (Arc::new(AtomicBool::new(false)), from.namespace().clone());
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let once = Probe { attempts: 1, patience: Duration::from_secs(2), ..Probe::default() };
            let (mut asked, mut answered) = (0, 0);
            while !seen.load(Ordering::Relaxed) {
                asked += 1;
                answered += u32::from(once.send(&namespace, to) == Answer::Reply);
                std::thread::sleep(Duration::from_millis(20));
            }
            (asked, answered)
        });
        Watch { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let (asked, answered) = self.thread.take().unwrap().join().unwrap();
        assert!(asked > 20, "asked {asked} times only");
        assert_eq!(answered, asked, "packets were lost");
    }
}

impl Drop for Watch {
    /// A failed test must not leave a thread in a namespace that is about to go.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Looks at a node's route for so long: it must be there all the time.
fn stays(node: &Node, pod: &Pod, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for address in pod.addresses() {
            let hops = node.route("city", &host_prefix(address));
            assert_eq!(hops.len(), 1, "{address}: {}", node.ctl(&["show", "bgp", "neighbors"]));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait_lost(node: &Node, neighbor: IpAddr) {
    wait_for("the lost session to be seen", PATIENCE, || match node.bgp_state(neighbor) {
        state if state == "Established" => Err(state),
        _ => Ok(()),
    });
}

fn gateways(lab: &Lab, reflector: IpAddr) -> (Node, Node, Pod, Pod) {
    let one = Node::start(lab, "gw-11", 11, &gateway(11, &[1]));
    let two = Node::start(lab, "gw-12", 12, &gateway(12, &[1]));
    one.wait_established(reflector);
    two.wait_established(reflector);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    (one, two, near, far)
}

fn restarting_frr(lab: &Lab) -> Frr {
    let clients = [11, 12].map(|host| underlay_v4(host).into());
    let lines = " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n \
                 bgp graceful-restart restart-time 60\n bgp graceful-restart notification";
    Frr::start_with(lab, "frr", 1, ASN, &clients, lines)
}

#[test]
fn a_reflector_that_dies_leaves_every_forwarding_entry_in_place() {
    let lab = Lab::new();
    let mut frr = restarting_frr(&lab);
    let (one, two, near, far) = gateways(&lab, frr.address());
    let watch = Watch::begin(&near, far.v4().into());
    frr.kill();
    wait_lost(&one, frr.address());
    stays(&one, &far, Duration::from_secs(3));
    stays(&two, &near, Duration::from_secs(1));
    watch.end();
    // From here on FRR 8.4 decides: it ends its initial table before its clients have told it theirs again, and what it
    // did not name until then is gone for a moment (RFC 4724 §4.2).
    frr.start_again();
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    // Not for ever: what goes now is gone.
    let gone = host_prefix(far.v4().into());
    far.delete();
    one.wait_no_route("city", &gone);
}

#[test]
fn a_reflector_that_restarts_gracefully_takes_no_forwarding_entry_with_it() {
    let lab = Lab::new();
    let mut gobgp = Keeper::start(&lab, 60, 120);
    let (one, two, near, far) = gateways(&lab, underlay_v4(1).into());
    let watch = Watch::begin(&near, far.v4().into());
    gobgp.daemon = None;
    wait_lost(&one, underlay_v4(1).into());
    stays(&one, &far, Duration::from_secs(1));
    gobgp.start_again(&["-r"]);
    one.wait_established(underlay_v4(1).into());
    two.wait_established(underlay_v4(1).into());
    // The routes that are said again, End-of-RIB, and the sweep of those that are not.
    stays(&one, &far, Duration::from_secs(5));
    stays(&two, &near, Duration::from_secs(1));
    watch.end();
}

#[test]
fn a_link_that_is_down_for_longer_than_the_hold_time_takes_no_forwarding_entry_with_it() {
    let lab = Lab::new();
    let frr = restarting_frr(&lab);
    let (one, two, near, far) = gateways(&lab, frr.address());
    let watch = Watch::begin(&near, far.v4().into());
    // The reflector's cable, not the gateways': the tunnel between them does not pass there.
    lab.set_link("frr", false);
    wait_lost(&one, frr.address());
    wait_lost(&two, frr.address());
    stays(&one, &far, Duration::from_secs(2));
    lab.set_link("frr", true);
    one.wait_established(frr.address());
    two.wait_established(frr.address());
    stays(&one, &far, Duration::from_secs(5));
    stays(&two, &near, Duration::from_secs(1));
    watch.end();
}

/// A gobgpd with graceful restart and its long-lived kind: so many seconds each.
struct Keeper {
    namespace: Namespace,
    path: PathBuf,
    log: PathBuf,
    daemon: Option<Daemon>,
}

impl Keeper {
    fn start(lab: &Lab, restart: u32, long_lived: u32) -> Keeper {
        let path = lab.path("gobgp.toml");
        let text = keeper(
            underlay_v4(1).into(),
            &[11, 12].map(|host| underlay_v4(host).into()),
            restart,
            long_lived,
        );
        std::fs::write(&path, text).unwrap();
        let mut keeper =
            Keeper { namespace: lab.site("gobgp", 1), path, log: lab.path("gobgp.log"), daemon: None };
        keeper.start_again(&[]);
        keeper
    }

    fn start_again(&mut self, more: &[&str]) {
        let mut gobgpd = Command::new("gobgpd");
        gobgpd
            .arg("-f")
            .arg(&self.path)
            .args(["--api-hosts", "127.0.0.1:50051", "-l", "info", "-p"])
            .args(more);
        self.daemon = Some(Daemon::start(&self.namespace, "gobgpd", gobgpd, &self.log));
        wait_for("gobgpd to answer", PATIENCE, || {
            let output = run(&self.namespace, &mut command("gobgp", &["global"]));
            output.status.success().then_some(()).ok_or(output)
        });
    }

    fn rib(&self) -> String {
        vrouter_tests::process::run_ok(
            &self.namespace,
            &mut command("gobgp", &["global", "rib", "-a", "vpnv4"]),
        )
    }
}

fn keeper(address: IpAddr, clients: &[IpAddr], restart: u32, long_lived: u32) -> String {
    let mut text = format!("[global.config]\n as = {ASN}\n router-id = \"{address}\"\n port = 179\n");
    for client in clients {
        let _ = write!(
            text,
            "[[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{client}\"\n  peer-as = {ASN}\n \
             [neighbors.timers.config]\n  connect-retry = 1\n  hold-time = 9\n  keepalive-interval = 3\n \
             idle-hold-time-after-reset = 1\n [neighbors.route-reflector.config]\n  route-reflector-client = true\n  \
             route-reflector-cluster-id = \"{address}\"\n [neighbors.graceful-restart.config]\n  enabled = true\n  \
             notification-enabled = true\n  long-lived-enabled = true\n  restart-time = {restart}\n"
        );
        for family in ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "rtc"] {
            let _ = write!(
                text,
                " [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"{family}\"\n  \
                 [neighbors.afi-safis.mp-graceful-restart.config]\n   enabled = true\n  \
                 [neighbors.afi-safis.long-lived-graceful-restart.config]\n   enabled = true\n   \
                 restart-time = {long_lived}\n"
            );
        }
    }
    text
}

#[test]
fn routes_of_a_reflector_that_stays_away_live_on_as_long_lived_stale_ones_and_then_go() {
    let lab = Lab::new();
    let mut gobgp = Keeper::start(&lab, 3, 10);
    let (one, two, near, far) = gateways(&lab, underlay_v4(1).into());
    let watch = Watch::begin(&near, far.v4().into());
    gobgp.daemon = None;
    wait_lost(&one, underlay_v4(1).into());
    let lost = Instant::now();
    // Beyond the restart time of 3 s, within the 10 s after it.
    stays(&one, &far, Duration::from_secs(8));
    assert!(lost.elapsed() > Duration::from_secs(3));
    watch.end();
    one.wait_no_route("city", &host_prefix(far.v4().into()));
    two.wait_no_route("city", &host_prefix(near.v4().into()));
    // And they come back with the reflector.
    gobgp.start_again(&[]);
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
}

#[test]
fn a_killed_agent_is_waited_for_by_gobgp_and_the_far_gateway_keeps_its_routes() {
    let lab = Lab::new();
    let gobgp = Keeper::start(&lab, 60, 120);
    let (mut one, two, near, far) = gateways(&lab, underlay_v4(1).into());
    one.kill9();
    wait_for("GoBGP to keep the routes as stale", PATIENCE, || {
        let shown = gobgp.rib();
        let stale = shown.lines().any(|line| line.starts_with('S') && line.contains(&near.v4().to_string()));
        if stale { Ok(()) } else { Err(shown) }
    });
    stays(&two, &near, Duration::from_secs(1));
    let watch = std::thread::scope(|scope| {
        let looking = scope.spawn(|| stays(&two, &near, Duration::from_secs(5)));
        one.start_agent();
        one.wait_established(underlay_v4(1).into());
        looking.join()
    });
    watch.unwrap();
    wait_routes(&one, &far.addresses());
    assert_eq!(Probe::default().send(far.namespace(), near.v4().into()), Answer::Reply);
    wait_for("no stale route to be left at GoBGP", PATIENCE, || {
        let shown = gobgp.rib();
        if shown.lines().any(|line| line.starts_with('S')) { Err(shown) } else { Ok(()) }
    });
}
