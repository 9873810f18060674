//! How much memory the process takes, as the kernel counts it.

/// Octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident now.
    pub rss: u64,
    /// The most that ever was.
    pub peak: u64,
}

/// The process as it is now; zero where the kernel does not say.
pub fn usage() -> Usage {
    read(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// proc_pid_status(5): `VmRSS:     1234 kB`.
fn read(status: &str) -> Usage {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Usage { rss: field("VmRSS:").unwrap_or(0) * 1024, peak: field("VmHWM:").unwrap_or(0) * 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_are_read_and_absence_is_zero() {
        let status = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(read(status), Usage { rss: 2 << 20, peak: 4 << 20 });
        assert_eq!(read("VmRSS:\n"), Usage::default());
    }

    #[test]
    fn this_process_takes_some() {
        let usage = usage();
        assert!(usage.rss > 100_000 && usage.peak >= usage.rss / 2, "{usage:?}");
    }
}
