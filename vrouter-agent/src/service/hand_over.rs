//! Whether systemd stops the agent for good or only for a restart: it does not say so to the agent, but its queue of
//! jobs does. The unit's `ExecStop=` looks there, before anything is signalled.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than a shutdown takes, shorter than the unit's TimeoutStopSec.
const PATIENCE: Duration = Duration::from_secs(10);

/// If this unit is being restarted, tells the agent to leave its routes with the neighbors (SIGUSR2), and waits until
/// it has ended. If it is being stopped, does nothing: systemd sends SIGTERM next. Says what it found.
pub fn hand_over(pid: u32, unit: &str) -> io::Result<&'static str> {
    let output =
        Command::new("systemctl").args(["--no-legend", "--plain", "--full", "list-jobs"]).output()?;
    if !is_restarting(&String::from_utf8_lossy(&output.stdout), unit) {
        return Ok("a stop: routes will be withdrawn");
    }
    signal(pid, libc::SIGUSR2)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && is_running(pid) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok("a restart: neighbors keep our routes")
}

/// Lines of `systemctl list-jobs`: number, unit, type, state.
fn is_restarting(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && words.next().is_some_and(|kind| kind.contains("restart"))
    })
}

/// Whether the process is there and has not ended. Its parent may take a while to notice.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restart_of_this_unit_is_one() {
        let unit = "vrouter-agent.service";
        assert!(is_restarting("12 vrouter-agent.service restart running\n", unit));
        assert!(is_restarting(
            " 9 a.service stop waiting\n12 vrouter-agent.service try-restart running",
            unit
        ));
        for jobs in [
            "",
            "No jobs running.",
            "12 vrouter-agent.service stop running",
            "12 other.service restart running",
            "12 vrouter-agent.service",
            "restart",
        ] {
            assert!(!is_restarting(jobs, unit), "{jobs}");
        }
    }

    #[test]
    fn this_process_runs_and_one_that_cannot_be_does_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
    }

    #[test]
    fn groups_and_init_are_never_signalled() {
        for pid in [0, 1, u32::MAX] {
            assert!(signal(pid, 0).is_err());
        }
    }
}
