//! The programs under test, as cargo built them beside the test itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages whose binaries the lab runs.
const PACKAGES: [&str; 3] = ["vrouter-agent", "vrouter-agent-program", "cni-plugin"];

/// The path of `vrouter-agent`, `vrouterctl` or `vrouter-cni`, built if need be, once per process, in the profile of
/// the caller.
///
/// # Panics
/// When they cannot be built.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let path = DIRECTORY.get_or_init(build).join(name);
    assert!(path.exists(), "no {}: it should have been built", path.display());
    path
}

/// The workspace's own `target` folder, for what is cached between runs.
pub fn target_directory() -> PathBuf {
    let profile = profile_directory();
    profile.parent().unwrap_or(Path::new("target")).to_owned()
}

/// `target/<profile>`: the parent of `deps`, or of the program itself.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|error| panic!("path of this program: {error}"));
    let inside = own.ancestors().skip(1).find(|path| !path.ends_with("deps") && !path.ends_with("examples"));
    inside.unwrap_or(Path::new(".")).to_owned()
}

/// Lets cargo build what is stale. Under nextest, whose tests are many processes, set `VROUTER_BUILT=1` in a set-up
/// step to spare each of them the question.
fn build() -> PathBuf {
    let directory = profile_directory();
    if std::env::var_os("VROUTER_BUILT").is_some() {
        return directory;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().unwrap_or_else(|error| panic!("run cargo: {error}"));
    assert!(status.success(), "cargo could not build the programs under test");
    directory
}
