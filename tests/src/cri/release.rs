//! Which containerd: the one that is installed, or the second generation, fetched from Debian and unpacked, never installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::target_directory;

const INSTALLED: &str = "/usr/bin";
/// Debian's releases that may have containerd 2.
const SUITES: [&str; 2] = ["trixie", "forky"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where containerd's programs are.
#[derive(Debug, Clone)]
pub struct Release {
    programs: PathBuf,
}

impl Release {
    /// What is installed: 1.6 on Debian bookworm.
    pub fn installed() -> Release {
        Release { programs: INSTALLED.into() }
    }

    /// containerd 2, fetched the first time and kept under `target/lab-cache`. `None`, said loudly: it cannot be fetched.
    pub fn second() -> Option<Release> {
        let kept = target_directory().join("lab-cache/containerd-2");
        let programs = kept.join("usr/bin");
        if !programs.join("containerd").exists() {
            let work = kept.with_file_name(format!("making-containerd-{}", std::process::id()));
            let fetched = fetch(&work);
            if let Ok(unpacked) = &fetched {
                // Two tests may do this at once: the first to finish wins.
                let _ = fs::rename(unpacked, &kept);
            }
            let _ = fs::remove_dir_all(&work);
            if let Err(error) = fetched {
                eprintln!("SKIPPED: containerd 2 cannot be fetched from Debian: {error}");
                return None;
            }
        }
        Some(Release { programs })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    pub(super) fn is_second(&self) -> bool {
        self.programs != Path::new(INSTALLED)
    }

    /// PATH for it, so that it finds its own shim before an installed one.
    pub(super) fn search_path(&self) -> String {
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display())
    }
}

/// Downloads with an apt state of its own: the system's package lists and what is installed are not touched.
fn fetch(work: &Path) -> io::Result<PathBuf> {
    for directory in ["lists/partial", "cache/archives/partial", "etc/sources.list.d"] {
        fs::create_dir_all(work.join(directory))?;
    }
    let mirror = mirror()?;
    let line = |suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    fs::write(work.join("etc/sources.list"), SUITES.map(line).concat())?;
    run(apt("apt-get", work).args(["-o", "Acquire::Languages=none", "update"]))?;
    let versions = run(apt("apt-cache", work).args(["madison", "containerd"]))?;
    let second = versions.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let version = second.into_iter().find(|version| version.starts_with("2.")).map(str::to_owned);
    let version =
        version.ok_or_else(|| io::Error::other(format!("no version 2 in {SUITES:?}: {versions}")))?;
    run(apt("apt-get", work).arg("download").arg(format!("containerd={version}")).current_dir(work))?;
    let mut entries = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let package = entries.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.ok_or_else(|| io::Error::other("apt-get downloaded nothing"))?;
    let unpacked = work.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    Ok(unpacked)
}

/// The one that is configured already.
fn mirror() -> io::Result<String> {
    let text = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let first = text.lines().find(|line| line.contains("debian") && !line.contains("security"));
    first.map(str::to_owned).ok_or_else(|| io::Error::other("no Debian mirror is configured"))
}

fn apt(program: &str, work: &Path) -> Command {
    let mut command = Command::new(program);
    let at = work.display();
    for option in [
        format!("Dir::Etc::sourcelist={at}/etc/sources.list"),
        format!("Dir::Etc::sourceparts={at}/etc/sources.list.d"),
        format!("Dir::State::lists={at}/lists"),
        format!("Dir::Cache={at}/cache"),
        "Dir::State::status=/var/lib/dpkg/status".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command
}

fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{command:?}: {}: {said}", output.status)))
    }
}
