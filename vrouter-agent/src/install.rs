//! `vrouter-agent install` and `uninstall`: programs, unit, a configuration to begin with; what they do is printed.
//!
//! Every file is written beside its place and renamed over it, so that a program that is running goes on and a power
//! cut leaves the old one or the new one. Doing it twice changes nothing the second time. The configuration is the
//! operator's: it is made where it is missing, and neither changed nor removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

/// The unit, with `@BIN@` where the programs are.
pub const UNIT: &str = include_str!("../dist/vrouter-agent.service");
/// A configuration that works, with what else there is as comments.
pub const SAMPLE: &str = include_str!("../dist/agent.toml");
const UNIT_NAME: &str = "vrouter-agent.service";
/// Those beside this one that come along, where they are.
const PROGRAMS: [&str; 3] = ["vrouter-agent", "vrouterctl", "vrouter-cni"];

/// Where things go.
#[derive(Debug, Clone, Args)]
pub struct Places {
    /// Programs go to PREFIX/bin.
    #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// Into this root file system instead of the running one, which is left alone.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
pub struct InstallError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What one step did, as a line.
type Done = Result<String, InstallError>;

impl Places {
    /// A path inside the root.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn programs(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    /// A package's place or the administrator's (systemd.unit(5)).
    fn unit(&self) -> PathBuf {
        let system =
            if self.prefix == Path::new("/usr") { "/usr/lib/systemd/system" } else { "/etc/systemd/system" };
        self.at(Path::new(system).join(UNIT_NAME))
    }

    fn config(&self) -> PathBuf {
        self.at("/etc/vrouter/agent.toml")
    }
}

/// Puts everything in its place. `from`: where the programs are now. Starts the service, or restarts it without losing
/// a packet, unless `no_start`, another root, or a configuration that nobody has looked at yet.
pub fn install(
    places: &Places,
    from: &Path,
    no_start: bool,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    for program in PROGRAMS {
        let source = from.join(program);
        match fs::read(&source) {
            Ok(octets) => say(&put(&places.at(places.programs().join(program)), &octets, 0o755)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound && program != "vrouter-agent" => {
                say(&format!("left out {program}: it is not beside vrouter-agent in {}", from.display()));
            }
            Err(error) => return Err(InstallError { action: "read", path: source, source: error }),
        }
    }
    let unit = UNIT.replace("@BIN@", &places.programs().to_string_lossy());
    say(&put(&places.unit(), unit.as_bytes(), 0o644)?);
    let config = places.config();
    let is_new = !config.exists();
    if is_new {
        say(&put(&config, SAMPLE.as_bytes(), 0o644)?);
    } else {
        say(&format!("kept {}", config.display()));
    }
    if places.root.is_some() {
        return Ok(());
    }
    systemctl(&["daemon-reload"], say);
    systemctl(&["enable", UNIT_NAME], say);
    if no_start {
        say("not started: systemctl start vrouter-agent does that");
    } else if is_new {
        say(&format!("not started: look at {} first, then systemctl start vrouter-agent", config.display()));
    } else {
        systemctl(&["restart", UNIT_NAME], say);
    }
    Ok(())
}

/// Takes away what [`install`] put there, but for the configuration and the state, which it names.
pub fn uninstall(places: &Places, say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    let unit = places.unit();
    if places.root.is_none() && unit.exists() {
        systemctl(&["disable", "--now", UNIT_NAME], say);
    }
    say(&take(&unit)?);
    for program in PROGRAMS {
        say(&take(&places.at(places.programs().join(program)))?);
    }
    if places.root.is_none() {
        systemctl(&["daemon-reload"], say);
    }
    for kept in [places.config(), places.at("/var/lib/vrouter")] {
        if kept.exists() {
            say(&format!("kept {}", kept.display()));
        }
    }
    Ok(())
}

fn put(path: &Path, octets: &[u8], mode: u32) -> Done {
    let failed = |action| move |source| InstallError { action, path: path.to_owned(), source };
    let before = fs::read(path).ok();
    let has_mode = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o7777 == mode);
    if before.as_deref() == Some(octets) && has_mode {
        return Ok(format!("unchanged {}", path.display()));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.join(format!(".{name}.new"));
    let written = write(&beside, octets, mode).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(failed("write"))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write"))?;
    Ok(format!("{} {}", if before.is_some() { "replaced" } else { "installed" }, path.display()))
}

fn write(path: &Path, octets: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(octets)?;
    file.sync_all()
}

fn take(path: &Path) -> Done {
    match fs::remove_file(path) {
        Ok(()) => Ok(format!("removed {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(format!("absent {}", path.display())),
        Err(source) => Err(InstallError { action: "remove", path: path.to_owned(), source }),
    }
}

/// Without systemd there is nothing to tell; the files are there all the same.
fn systemctl(words: &[&str], say: &mut dyn FnMut(&str)) {
    let shown = format!("systemctl {}", words.join(" "));
    match Command::new("systemctl").args(words).output() {
        Ok(output) if output.status.success() => say(&format!("done {shown}")),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            say(&format!("failed {shown}: {}", error.trim().replace('\n', " ")));
        }
        Err(error) => say(&format!("failed {shown}: {error}")),
    }
}

#[cfg(test)]
mod tests;
