//! The agent itself: how it is, what a reload did, what takes memory, what happens.

use std::fmt::Write as _;

use agent_api::{Memory, MonitorEvent, MonitorPath, Reloaded, RunStatus, Status, WorkerStatus};

use crate::table::{Table, duration, list};

/// `status`: one screen, the verdict first.
pub(crate) fn status(status: &Status) -> String {
    let mut text = match (status.ready, status.problems.len()) {
        (false, _) => format!("{} is not ready\n", status.name),
        (true, 0) => format!("{} is healthy\n", status.name),
        (true, problems) => format!("{} has {}:\n", status.name, count(problems, "problem")),
    };
    for problem in &status.problems {
        let _ = writeln!(text, "  {problem}");
    }
    let _ = write!(
        text,
        "vrouter-agent {}, up for {}, {}\n{}, {}, {} of {} established\n",
        status.version,
        duration(status.uptime_msec),
        size(status.rss_bytes),
        count(status.ports, "port"),
        count(status.routes, "route"),
        status.established,
        count(status.neighbors, "BGP neighbor")
    );
    if let Some(run) = &status.run {
        text.push_str(&self::run(run));
    }
    text
}

/// How the agent runs: a line each for threads, for what outlives it, for how it began, and for what waits on disk.
fn run(run: &RunStatus) -> String {
    let worker = |worker: &WorkerStatus| match worker.moves {
        true => format!("worker {} moves packets", worker.worker),
        false => format!("worker {} is STUCK for {} ms", worker.worker, worker.stuck_msec),
    };
    let mut text = list(run.workers.iter().map(worker)) + "\n";
    let _ = match run.kept_sockets {
        Some(sockets) => writeln!(text, "{} kept for a restart", count(sockets, "socket")),
        None => writeln!(text, "No service manager keeps sockets: a restart loses packets"),
    };
    if run.start.adopted_sockets > 0 {
        let before = run.start.previous_version.as_ref().map(|it| format!(" of version {it}"));
        let before = before.unwrap_or_else(|| ", which was killed".to_owned());
        let pause =
            run.start.pause_usec.map(|usec| format!("; packets waited for {} ms", usec.div_ceil(1000)));
        let sockets = count(run.start.adopted_sockets, "socket");
        let _ = writeln!(text, "Took over {sockets} of the last run{before}{}", pause.unwrap_or_default());
    }
    if run.spooled_deletes > 0 {
        let _ = writeln!(text, "{} on disk to be done", count(run.spooled_deletes, "delete"));
    }
    if run.unreadable_files > 0 {
        let files = count(run.unreadable_files, "unreadable state file");
        let _ = writeln!(text, "{files} put aside as *.bad");
    }
    text
}

/// `reload`.
pub(crate) fn reloaded(reply: &Reloaded) -> String {
    let mut text = String::new();
    if reply.changed.is_empty() {
        text.push_str("Nothing that can change without a restart is different.\n");
    } else {
        text.push_str("Changed:\n");
        reply.changed.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    if !reply.needs_restart.is_empty() {
        text.push_str("Different in the file, and in force after a restart only:\n");
        reply.needs_restart.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    text
}

/// `show memory`.
pub(crate) fn memory(reply: &Memory) -> String {
    let mut table = Table::new(["Part", ">Entries", ">Memory"]);
    for part in &reply.parts {
        let memory = part.bytes.map(size).unwrap_or_default();
        table.row([part.name.clone(), part.entries.to_string(), memory]);
    }
    format!(
        "Resident {}, at most {} since the start\n\n{}",
        size(reply.rss_bytes),
        size(reply.rss_peak_bytes),
        table.render()
    )
}

/// One line of `monitor bgp`, with the time of day (UTC). A line of another version's agent prints as it is.
pub(crate) fn monitored(line: &str) -> String {
    match serde_json::from_str(line) {
        Ok(MonitorEvent::Session { at_epoch_msec, peer, state, reason }) => {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} session {peer} {state}{reason}", time(at_epoch_msec))
        }
        Ok(MonitorEvent::Route { at_epoch_msec, vrf, prefix, paths }) if paths.is_empty() => {
            format!("{} route {vrf} {prefix} gone", time(at_epoch_msec))
        }
        Ok(MonitorEvent::Route { at_epoch_msec, vrf, prefix, paths }) => {
            let way = |path: &MonitorPath| {
                let from = if path.local { "here".to_owned() } else { format!("via {}", path.nexthop) };
                format!("{from} label {}", path.label)
            };
            format!("{} route {vrf} {prefix} {}", time(at_epoch_msec), list(paths.iter().map(way)))
        }
        Ok(MonitorEvent::Lost { lines }) => format!("{lines} lines were lost: this reader is too slow"),
        Err(_) => line.to_owned(),
    }
}

fn time(epoch_msec: u64) -> String {
    let seconds = epoch_msec / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        epoch_msec % 1000
    )
}

/// Octets as people read them.
fn size(octets: u64) -> String {
    match octets {
        0..1024 => format!("{octets} B"),
        1024..1_048_576 => format!("{}.{} KiB", octets >> 10, ((octets & 1023) * 10) >> 10),
        _ => format!("{}.{} MiB", octets >> 20, (((octets >> 10) & 1023) * 10) >> 10),
    }
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use agent_api::{LastStart, MemoryPart};
    use vrouter_types::Label;

    use super::*;

    #[test]
    fn status_begins_with_the_verdict() {
        let mut reply = Status {
            name: "gw-12".into(),
            version: "0.1.0".into(),
            uptime_msec: 3_661_000,
            ready: true,
            problems: vec![],
            ports: 3,
            established: 1,
            neighbors: 2,
            routes: 17,
            rss_bytes: 5 << 20,
            run: None,
        };
        let rest = "vrouter-agent 0.1.0, up for 01:01:01, 5.0 MiB\n\
                    3 ports, 17 routes, 1 of 2 BGP neighbors established\n";
        assert_eq!(status(&reply), format!("gw-12 is healthy\n{rest}"));
        reply.problems = vec!["there is no underlay".into()];
        assert_eq!(status(&reply), format!("gw-12 has 1 problem:\n  there is no underlay\n{rest}"));
        reply.ready = false;
        assert!(status(&reply).starts_with("gw-12 is not ready\n"));
    }

    #[test]
    fn a_run_says_what_outlives_it_and_what_waits() {
        let worker = |worker, moves| WorkerStatus { worker, moves, stuck_msec: if moves { 0 } else { 3100 } };
        let mut status = RunStatus { workers: vec![worker(0, true)], ..RunStatus::default() };
        let expected = "worker 0 moves packets\nNo service manager keeps sockets: a restart loses packets\n";
        assert_eq!(run(&status), expected);
        status.workers.push(worker(1, false));
        status.kept_sockets = Some(24);
        let start = LastStart {
            adopted_sockets: 23,
            previous_version: Some("0.0.9".into()),
            pause_usec: Some(40_100),
        };
        status.start = start;
        (status.spooled_deletes, status.unreadable_files) = (1, 2);
        let expected = "worker 0 moves packets, worker 1 is STUCK for 3100 ms\n24 sockets kept for a restart\n\
                        Took over 23 sockets of the last run of version 0.0.9; packets waited for 41 ms\n\
                        1 delete on disk to be done\n2 unreadable state files put aside as *.bad\n";
        assert_eq!(run(&status), expected);
        status.start = LastStart { adopted_sockets: 1, ..LastStart::default() };
        assert!(run(&status).contains("Took over 1 socket of the last run, which was killed\n"));
    }

    #[test]
    fn reload_says_what_changed_and_what_waits() {
        assert!(reloaded(&Reloaded::default()).starts_with("Nothing"));
        let reply = Reloaded { changed: vec!["VRF b added".into()], needs_restart: vec!["[bgp] asn".into()] };
        let expected = "Changed:\n  VRF b added\nDifferent in the file, and in force after a restart only:\n  [bgp] asn\n";
        assert_eq!(reloaded(&reply), expected);
    }

    #[test]
    fn memory_names_its_parts() {
        let part = |name: &str, bytes| MemoryPart { name: name.into(), entries: 3, bytes };
        let parts = vec![part("BGP routes", Some(1536)), part("labels", None)];
        let reply = Memory { rss_bytes: (5 << 20) + (512 << 10), rss_peak_bytes: 6 << 20, parts };
        let expected = "Resident 5.5 MiB, at most 6.0 MiB since the start\n\n\
                        Part        Entries   Memory\nBGP routes        3  1.5 KiB\nlabels            3        -\n";
        assert_eq!(memory(&reply), expected);
    }

    #[test]
    fn every_event_is_one_line() {
        let peer = "192.0.2.1".parse().unwrap();
        let line = |event: &MonitorEvent| monitored(&serde_json::to_string(event).unwrap());
        let reason = Some("hold timer expired".to_owned());
        let session = MonitorEvent::Session { at_epoch_msec: 3_661_001, peer, state: "Down".into(), reason };
        assert_eq!(line(&session), "01:01:01.001Z session 192.0.2.1 Down: hold timer expired");
        let path = MonitorPath { nexthop: peer, label: Label::new(17).unwrap(), local: false };
        let mut paths = vec![path.clone(), MonitorPath { local: true, ..path }];
        let route = |paths| MonitorEvent::Route {
            at_epoch_msec: 0,
            vrf: "city".into(),
            prefix: "10.0.0.0/8".parse().unwrap(),
            paths,
        };
        let expected = "00:00:00.000Z route city 10.0.0.0/8 via 192.0.2.1 label 17, here label 17";
        assert_eq!(line(&route(paths.clone())), expected);
        paths.clear();
        assert_eq!(line(&route(paths)), "00:00:00.000Z route city 10.0.0.0/8 gone");
        assert_eq!(line(&MonitorEvent::Lost { lines: 3 }), "3 lines were lost: this reader is too slow");
        assert_eq!(monitored("{\"event\":\"later\"}"), "{\"event\":\"later\"}");
    }
}
