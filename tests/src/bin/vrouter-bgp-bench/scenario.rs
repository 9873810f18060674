//! What is measured, one run of one speaker each.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use vrouter_tests::Namespace;
use vrouter_tests::process::{command, run_ok};

use crate::contender::{Contender, DUT, Dut, Foreign, Setup, rest};
use crate::peer::Peer;
use crate::recipe::{Feed, memberships, no_memberships};
use crate::tally::Reflected;

/// The feeder and the receivers.
const FEEDER: Ipv4Addr = client(0);
/// A run is over when nothing moves for so long.
const PATIENCE: Duration = Duration::from_secs(40);

const fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 2 + number)
}

/// One run of the reflector or edge table.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Load {
    /// Until the last route had arrived.
    pub(crate) seconds: f64,
    /// Until the first.
    pub(crate) first_seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) idle_octets: f64,
    pub(crate) loaded_octets: f64,
    pub(crate) peak_octets: f64,
    pub(crate) octets_per_route: f64,
    pub(crate) messages_out: f64,
    pub(crate) octets_out: f64,
    /// From the loss of the feeder until all was withdrawn.
    pub(crate) withdraw_seconds: f64,
    pub(crate) withdraw_messages: f64,
    pub(crate) withdrawn_octets: f64,
    pub(crate) foreign_percent: f64,
}

/// One run over the narrow link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Narrow {
    /// From the receiver's call until it had all routes.
    pub(crate) seconds: f64,
    pub(crate) messages_out: f64,
    pub(crate) octets_out: f64,
}

/// One run with 2,000 route targets.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Targets {
    /// Until five receivers that asked for every target had every route.
    pub(crate) load_seconds: f64,
    /// From the withdrawal of 1,000 targets by each until each holds the other half only.
    pub(crate) withdraw_seconds: f64,
    /// And back.
    pub(crate) return_seconds: f64,
    pub(crate) cpu_seconds: f64,
}

/// A place to run in.
struct Stage {
    netns: Namespace,
    dut: Dut,
    with_rtc: bool,
}

impl Stage {
    fn set(contender: Contender, directory: &Path, setup: &Setup) -> Stage {
        let netns = Namespace::new("bench");
        for address in std::iter::once(DUT).chain(setup.clients.iter().copied()) {
            netns.add_address("lo", address.into(), 32);
        }
        let dut = contender.start(&netns, directory, setup);
        Stage { netns, dut, with_rtc: setup.with_rtc }
    }

    fn peer(&self, address: Ipv4Addr) -> Result<Peer, String> {
        let reflected = Reflected { originator: FEEDER, cluster: DUT };
        let peer = Peer::establish(&self.netns, (address, DUT), self.with_rtc, reflected);
        peer.map_err(|error| format!("no session: {error}; {}", self.dut.log()))
    }
}

/// Routes in at one client, out at the other, then the first one leaves.
pub(crate) fn load(contender: Contender, directory: &Path, feed: &Feed) -> Result<Load, String> {
    let setup = Setup { clients: vec![FEEDER, client(1)], with_rtc: false, is_edge: false };
    let stage = Stage::set(contender, directory, &setup);
    let receiver = stage.peer(client(1))?;
    let feeder = stage.peer(FEEDER)?;
    rest(1.5);
    let (idle_octets, _) = stage.dut.memory();
    let foreign = Foreign::begin(&stage.dut);
    let (start, cpu) = (Instant::now(), stage.dut.cpu());
    receiver.tally().expect(feed.routes);
    let reached = send(&feeder, &feed.octets, || receiver.wait(PATIENCE))?;
    let reached = reached.ok_or_else(|| stuck(&receiver, feed.routes))?;
    let foreign_percent = foreign.percent(&stage.dut);
    rest(2.0);
    let cpu_seconds = stage.dut.cpu() - cpu;
    let (loaded_octets, peak_octets) = stage.dut.memory();
    let (first, messages_out, octets_out) = verify(&receiver, feed)?;
    [&feeder, &receiver].into_iter().try_for_each(Peer::keep_alive).map_err(|error| error.to_string())?;
    receiver.tally().expect(0);
    let leaving = Instant::now();
    drop(feeder);
    let gone = receiver.wait(PATIENCE).ok_or_else(|| stuck(&receiver, 0))?;
    rest(2.0);
    let withdraw_messages = receiver.tally().messages as f64;
    Ok(Load {
        seconds: reached.duration_since(start).as_secs_f64(),
        first_seconds: first.duration_since(start).as_secs_f64(),
        cpu_seconds,
        idle_octets,
        loaded_octets,
        peak_octets,
        octets_per_route: (loaded_octets - idle_octets) / f64::from(feed.routes),
        messages_out,
        octets_out,
        withdraw_seconds: gone.duration_since(leaving).as_secs_f64(),
        withdraw_messages,
        withdrawn_octets: stage.dut.memory().0,
        foreign_percent,
    })
}

/// Routes in at one neighbor and out to a dataplane. Ours only: there is nothing to compare without VRFs in the kernel.
pub(crate) fn edge(directory: &Path, feed: &Feed) -> Result<Load, String> {
    let setup = Setup { clients: vec![FEEDER], with_rtc: false, is_edge: true };
    let stage = Stage::set(Contender::Vrouter, directory, &setup);
    let feeder = stage.peer(FEEDER)?;
    rest(1.5);
    let (idle_octets, _) = stage.dut.memory();
    let foreign = Foreign::begin(&stage.dut);
    let (start, cpu) = (now_nanoseconds(), stage.dut.cpu());
    let wanted = (u64::from(feed.routes), feed.edge_hash);
    let reached = send(&feeder, &feed.octets, || wait_line(&stage.dut, |held, sum| (held, sum) == wanted))?;
    let reached = reached
        .ok_or_else(|| format!("the dataplane was not told all of it; last: {:?}", last_line(&stage.dut)))?;
    let foreign_percent = foreign.percent(&stage.dut);
    rest(2.0);
    let cpu_seconds = stage.dut.cpu() - cpu;
    let (loaded_octets, peak_octets) = stage.dut.memory();
    let leaving = now_nanoseconds();
    drop(feeder);
    let gone =
        wait_line(&stage.dut, |held, _| held == 0).ok_or("routes stay after their neighbor has left")?;
    rest(2.0);
    Ok(Load {
        seconds: (reached - start) / 1e9,
        first_seconds: 0.0,
        cpu_seconds,
        idle_octets,
        loaded_octets,
        peak_octets,
        octets_per_route: (loaded_octets - idle_octets) / f64::from(feed.routes),
        messages_out: 0.0,
        octets_out: 0.0,
        withdraw_seconds: (gone - leaving) / 1e9,
        withdraw_messages: 0.0,
        withdrawn_octets: stage.dut.memory().0,
        foreign_percent,
    })
}

/// A receiver that connects over 64 kbit/s to a reflector that has everything; with RT constraint it asks for 15 VRFs.
pub(crate) fn narrow(
    contender: Contender,
    directory: &Path,
    feed: &Feed,
    with_rtc: bool,
) -> Result<Narrow, String> {
    let setup = Setup { clients: vec![FEEDER, client(1), client(2)], with_rtc, is_edge: false };
    let stage = Stage::set(contender, directory, &setup);
    let witness = stage.peer(client(2))?;
    let feeder = stage.peer(FEEDER)?;
    if with_rtc {
        let all = memberships(1..1001, client(2), true);
        witness
            .say(&all)
            .and_then(|()| feeder.say(&memberships(0..0, FEEDER, true)))
            .map_err(|error| error.to_string())?;
        rest(1.0);
    }
    witness.tally().expect(feed.routes);
    send(&feeder, &feed.octets, || witness.wait(PATIENCE))?.ok_or_else(|| stuck(&witness, feed.routes))?;
    drop(witness);
    // What its leaving brings for others must not take up the narrow link.
    rest(2.0);
    stage.netns.netlink(|netlink| netlink.set_mtu("lo", 1500));
    let tbf = "qdisc add dev lo root tbf rate 64kbit burst 1600 limit 500000";
    run_ok(&stage.netns, &mut command("tc", &tbf.split(' ').collect::<Vec<_>>()));
    let start = Instant::now();
    let receiver = stage.peer(client(1))?;
    // The routes of 15 VRFs: every set of ten has a VRF of its own.
    let wanted = if with_rtc { 150 } else { feed.routes };
    receiver.tally().target_now(wanted);
    if with_rtc {
        receiver.say(&memberships(1..16, client(1), true)).map_err(|error| error.to_string())?;
    }
    let reached = receiver.wait(PATIENCE).ok_or_else(|| stuck(&receiver, wanted))?;
    if !with_rtc {
        verify(&receiver, feed)?;
    }
    let tally = receiver.tally();
    Ok(Narrow {
        seconds: reached.duration_since(start).as_secs_f64(),
        messages_out: tally.messages as f64,
        octets_out: tally.octets as f64,
    })
}

/// Five receivers that ask for 2,000 route targets, take half of them back, and ask again.
pub(crate) fn targets(contender: Contender, directory: &Path, feed: &Feed) -> Result<Targets, String> {
    let clients: Vec<Ipv4Addr> = (0..6).map(client).collect();
    let setup = Setup { clients: clients.clone(), with_rtc: true, is_edge: false };
    let stage = Stage::set(contender, directory, &setup);
    let fail = |error: std::io::Error| error.to_string();
    let feeder = stage.peer(FEEDER)?;
    feeder.say(&memberships(0..0, FEEDER, true)).map_err(fail)?;
    let mut receivers = Vec::new();
    for address in clients.iter().skip(1) {
        let receiver = stage.peer(*address)?;
        receiver.say(&memberships(1..1001, *address, true)).map_err(fail)?;
        receiver.tally().expect(feed.routes);
        receivers.push((*address, receiver));
    }
    rest(2.0);
    let (start, cpu) = (Instant::now(), stage.dut.cpu());
    receivers.iter().for_each(|(_, receiver)| receiver.tally().expect(feed.routes));
    let loaded = send(&feeder, &feed.octets, || wait_all(&receivers))?;
    let load_seconds =
        loaded.ok_or_else(|| stuck(&receivers[0].1, feed.routes))?.duration_since(start).as_secs_f64();
    for (_, receiver) in &receivers {
        verify(receiver, feed)?;
        receiver.keep_alive().map_err(fail)?;
    }
    feeder.keep_alive().map_err(fail)?;
    let change = |target: u32, say: &dyn Fn(Ipv4Addr) -> Vec<u8>| -> Result<f64, String> {
        rest(1.0);
        receivers.iter().for_each(|(_, receiver)| receiver.tally().expect(target));
        let start = Instant::now();
        for (address, receiver) in &receivers {
            receiver.say(&say(*address)).map_err(fail)?;
        }
        let settled = wait_all(&receivers).ok_or_else(|| stuck(&receivers[0].1, target))?;
        Ok(settled.duration_since(start).as_secs_f64())
    };
    let withdraw_seconds = change(feed.routes / 2, &|_| no_memberships(1..501))?;
    let return_seconds = change(feed.routes, &|address| memberships(1..501, address, false))?;
    Ok(Targets { load_seconds, withdraw_seconds, return_seconds, cpu_seconds: stage.dut.cpu() - cpu })
}

fn wait_all(receivers: &[(Ipv4Addr, Peer)]) -> Option<Instant> {
    let reached: Option<Vec<Instant>> =
        receivers.iter().map(|(_, receiver)| receiver.wait(PATIENCE)).collect();
    reached?.into_iter().max()
}

/// Writes all octets while something else is waited for: a speaker may stop reading for a while.
fn send<T: Send>(feeder: &Peer, octets: &[u8], wait: impl FnOnce() -> T) -> Result<T, String> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| feeder.say(octets));
        let outcome = wait();
        match writer.is_finished().then(|| writer.join()) {
            Some(Ok(Err(error))) => Err(format!("the speaker closed the feeder's session: {error}")),
            Some(_) => Ok(outcome),
            None => Err("the speaker stopped reading".to_owned()),
        }
    })
}

/// Whether a receiver holds exactly what was fed; what came for it.
fn verify(receiver: &Peer, feed: &Feed) -> Result<(Instant, f64, f64), String> {
    let tally = receiver.tally();
    if let Some(fault) = &tally.fault {
        return Err(format!("wrong content: {fault}"));
    }
    if tally.held() != (feed.routes, feed.hash) {
        return Err(format!("wrong content: {} routes held, of another hash", tally.held().0));
    }
    let first = tally.first.unwrap_or(tally.progress);
    Ok((first, tally.messages as f64, tally.octets as f64))
}

fn stuck(receiver: &Peer, wanted: u32) -> String {
    let tally = receiver.tally();
    let fault = tally.fault.as_deref().unwrap_or("none");
    format!("stuck at {} of {wanted} routes, fault: {fault}", tally.held().0)
}

fn now_nanoseconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_nanos() as f64)
}

/// What the edge said last: routes held, the sum of their hashes, and when.
fn last_line(dut: &Dut) -> Option<(u64, u64, f64)> {
    let log = dut.log();
    let line = log.lines().rev().find_map(|line| line.strip_prefix("held "))?;
    let mut words = line.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn wait_line(dut: &Dut, is_there: impl Fn(u64, u64) -> bool) -> Option<f64> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some((held, sum, when)) = last_line(dut).filter(|(held, sum, _)| is_there(*held, *sum)) {
            let _ = (held, sum);
            return Some(when);
        }
        rest(0.02);
    }
    None
}
