//! Kills a process (SIGKILL) at a step of its work that a test names by its number: just before a system call that
//! changes something outside of the process. Killed before the first such call, then before the second, and so on until
//! the work is done, a process has been killed in every state that others can see. The process is as it was built:
//! it is followed through ptrace(2) and knows nothing of this.
//!
//! ```text
//!   openat(…3.new, O_CREAT)  write  fsync  rename(3.new, 3.json)  fsync(ports/)  sendto(netlink)  …  sendto(caller)
//!   ▲1                       ▲2     ▲3     ▲4                     ▲5             ▲6                  ▲n
//! ```

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::sys;
use crate::sys::trace::{self, Call, Stop};

/// Follows one process until it is killed or left alone.
pub struct Killer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Outcome>,
}

/// How a process that was followed fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was killed.
    pub killed: bool,
    /// The steps that it made.
    pub steps: usize,
    /// The step that it did not make, in words; or the last one that it made.
    pub last: String,
    /// How it ended by itself. A child of ours whose end was seen here cannot be waited for any more.
    pub status: Option<ExitStatus>,
}

impl Killer {
    /// Follows every thread of a process whose name does not begin with `except`, and kills the process before its
    /// step of this number, the first being 1. Returns when it is followed.
    ///
    /// # Panics
    /// When the kernel does not let us.
    pub fn follow(pid: u32, step: usize, except: Option<&str>) -> Killer {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, tell) = mpsc::channel();
        let (stopped, except) = (Arc::clone(&stop), except.map(str::to_owned));
        let thread = thread::spawn(move || {
            for thread in threads(pid, except.as_deref()) {
                // It may have ended meanwhile.
                if trace::seize(thread).is_ok() {
                    let _ = trace::interrupt(thread);
                }
            }
            let outcome = Outcome { killed: false, steps: 0, last: String::new(), status: None };
            let mut work = Work { pid, step, outcome };
            work.follow(&stopped, &told);
            work.outcome
        });
        let followed = tell.recv_timeout(Duration::from_secs(10));
        followed.unwrap_or_else(|error| panic!("follow process {pid} through ptrace: {error}"));
        Killer { stop, thread }
    }

    /// Whether the process has ended.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the process has ended, by itself or killed, and says how it fared.
    pub fn wait(self) -> Outcome {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Leaves the process alone, if it still lives, and says how it fared.
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        // The kernel lets go of what a thread follows when that thread ends.
        self.wait()
    }
}

struct Work {
    pid: u32,
    step: usize,
    outcome: Outcome,
}

impl Work {
    fn follow(&mut self, stop: &AtomicBool, told: &mpsc::Sender<()>) {
        loop {
            match trace::stopped() {
                Ok(Some((thread, Stop::Ended(status)))) if thread == self.pid => {
                    self.outcome.status = Some(ExitStatus::from_raw(status));
                    return;
                }
                Ok(Some((_, Stop::Ended(_)))) => {}
                Ok(Some((thread, stopped))) => {
                    if stopped == Stop::Call && self.is_last(thread) {
                        return;
                    }
                    let signal = if let Stop::Signal(signal) = stopped { signal } else { 0 };
                    let _ = trace::go_on(thread, signal);
                    // All threads were told to stop before the first wait: one that goes on is followed.
                    let _ = told.send(());
                }
                Ok(None) if stop.load(Ordering::Relaxed) => return,
                Ok(None) => thread::sleep(Duration::from_micros(20)),
                // Nothing is left to follow.
                Err(_) => return,
            }
        }
    }

    fn is_last(&mut self, thread: u32) -> bool {
        let Ok(Some(call)) = trace::call(thread) else { return false };
        let Some(words) = step_of(self.pid, &call) else { return false };
        self.outcome.last = words;
        if self.outcome.steps + 1 == self.step {
            self.outcome.killed = sys::kill(self.pid, libc::SIGKILL).is_ok();
            return true;
        }
        self.outcome.steps += 1;
        false
    }
}

fn threads(pid: u32, except: Option<&str>) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let numbers = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let name =
        |thread: u32| fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap_or_default();
    numbers.filter(|thread| except.is_none_or(|prefix| !name(*thread).starts_with(prefix))).collect()
}

/// What a call does to others, in words; `None`: nothing that lasts.
fn step_of(pid: u32, call: &Call) -> Option<String> {
    let [first, second, third, ..] = call.arguments;
    let on = |name: &str| Some(format!("{name} {}", descriptor(pid, first)));
    match call.number {
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => {
            // Its log, and wakers among its own threads.
            let private = first == 2 || descriptor(pid, first).starts_with("anon_inode:");
            if private { None } else { on("write") }
        }
        libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => on("send"),
        libc::SYS_fsync | libc::SYS_fdatasync => on("fsync"),
        libc::SYS_ftruncate => on("ftruncate"),
        libc::SYS_connect => on("connect"),
        libc::SYS_bind => on("bind"),
        libc::SYS_ioctl => on("ioctl"),
        libc::SYS_setns => on("setns"),
        libc::SYS_openat => {
            let makes = libc::O_CREAT | libc::O_TRUNC;
            let flags = libc::c_int::try_from(third & 0xffff_ffff).unwrap_or_default();
            (flags & makes != 0).then(|| format!("openat {}", text(pid, second)))
        }
        libc::SYS_unlinkat | libc::SYS_mkdirat => Some(format!("unlinkat/mkdirat {}", text(pid, second))),
        libc::SYS_renameat | libc::SYS_renameat2 => Some(format!("renameat {}", text(pid, second))),
        libc::SYS_exit_group => Some("exit".to_owned()),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename | libc::SYS_unlink | libc::SYS_mkdir => {
            Some(format!("rename/unlink/mkdir {}", text(pid, first)))
        }
        _ => None,
    }
}

fn descriptor(pid: u32, number: u64) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.map_or_else(|_| "?".to_owned(), |path| path.display().to_string())
}

/// A path in the other process's memory.
fn text(pid: u32, address: u64) -> String {
    use std::os::unix::fs::FileExt as _;
    let mut octets = [0; 256];
    let memory = fs::File::open(Path::new("/proc").join(pid.to_string()).join("mem"));
    let count = memory.and_then(|memory| memory.read_at(&mut octets, address)).unwrap_or_default();
    let read = octets.get(..count).unwrap_or_default();
    let end = read.iter().position(|octet| *octet == 0).unwrap_or(read.len());
    String::from_utf8_lossy(read.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell that writes two lines to a file, one call each, after it has been told to.
    fn shell(path: &Path, step: usize) -> Outcome {
        let script = format!("read x; echo one >> {0}; echo two >> {0}", path.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let killer = Killer::follow(child.id(), step, None);
        let mut stdin = child.stdin.take().expect("a pipe");
        let _ = stdin.write_all(b"go\n");
        drop(stdin);
        let outcome = killer.wait();
        let _ = child.wait();
        outcome
    }

    #[test]
    fn a_process_ends_before_the_step_that_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        let mut seen = Vec::new();
        for step in 1..20 {
            let _ = fs::remove_file(&path);
            let outcome = shell(&path, step);
            seen.push(fs::read_to_string(&path).unwrap_or_default());
            if !outcome.killed {
                break;
            }
            assert_eq!(outcome.steps, step - 1, "{outcome:?}");
        }
        seen.dedup();
        assert_eq!(seen, ["", "one\n", "one\ntwo\n"]);
    }
}
