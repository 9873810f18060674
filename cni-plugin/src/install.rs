//! `vrouter-cni install` and `uninstall`: the program and its network configuration list where the node's runtime looks.
//!
//! ```text
//!              configuration                              programs
//!  k3s         /var/lib/rancher/k3s/agent/etc/cni/net.d   /var/lib/rancher/k3s/data/cni, or data/current/bin of old ones
//!  MicroK8s    /var/snap/microk8s/current/args/cni-network   /var/snap/microk8s/current/opt/cni/bin
//!  all others  /etc/cni/net.d                             /opt/cni/bin
//! ```
//! Each file is written under another name and renamed (libcni may be starting the old program meanwhile), the program
//! before the list that names it. The list carries a checksum of itself: one that a person has edited since is neither
//! overwritten nor removed. Nothing removes the list but `uninstall`: without it a runtime could not even remove pods.

mod list;
mod place;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use place::Place;

const PROGRAM: &str = "vrouter-cni";
const LIST: &str = "10-vrouter.conflist";
const USAGE: &str = "\
Puts vrouter-cni and its network configuration list where the node's container runtime looks, or removes them.

Usage: vrouter-cni install   [--root DIR] [--cni-bin-dir DIR] [--cni-conf-dir DIR] [--socket PATH] [--chain PLUGIN]... [--force]
       vrouter-cni uninstall [--root DIR] [--cni-bin-dir DIR] [--cni-conf-dir DIR] [--force]

  --root DIR          the node's file system, where it is mounted elsewhere
  --cni-bin-dir DIR   where the runtime looks for programs; else k3s, MicroK8s and /opt/cni/bin are tried
  --cni-conf-dir DIR  where it looks for network configurations; else likewise
  --socket PATH       the agent's socket, as the list is to name it
  --chain PLUGIN      a plugin to run after ours, as portmap or tuning; it must be installed
  --force             also overwrite or remove a list that was edited

Example: vrouter-cni install --root /host --chain portmap
Exit codes: 0 done, 1 not done (the reason is on stderr), 2 usage.
";

/// What stands on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    root: Option<PathBuf>,
    programs: Option<PathBuf>,
    configurations: Option<PathBuf>,
    socket: Option<String>,
    chain: Vec<String>,
    force: bool,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} was edited since it was installed; see to it yourself, or use --force", .0.display())]
    Edited(PathBuf),
    #[error("there is no {} to chain; install the reference CNI plugins, or leave out --chain {name}", path.display())]
    NoPlugin { name: String, path: PathBuf },
}

/// Does what the words after the program's name say; `None`: they are no business of the installer's.
pub(crate) fn run(mut words: impl Iterator<Item = String>) -> Option<ExitCode> {
    let verb = words.next()?;
    let act = match verb.as_str() {
        "install" => install,
        "uninstall" => uninstall,
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return Some(ExitCode::SUCCESS);
        }
        _ => {
            eprint!("vrouter-cni: there is no {verb:?}\n\n{USAGE}");
            return Some(ExitCode::from(2));
        }
    };
    let done = parse(words).and_then(|options| act(&options));
    Some(match done {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(InstallError::Usage(why)) => {
            eprint!("vrouter-cni: {why}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("vrouter-cni: {error}");
            ExitCode::FAILURE
        }
    })
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, InstallError> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            let found = inline.clone().or_else(|| words.next()).filter(|value| !value.is_empty());
            found.ok_or_else(|| InstallError::Usage(format!("{name} needs a value")))
        };
        match name.as_str() {
            "--root" => options.root = Some(value()?.into()),
            "--cni-bin-dir" => options.programs = Some(value()?.into()),
            "--cni-conf-dir" => options.configurations = Some(value()?.into()),
            "--socket" => options.socket = Some(value()?),
            "--chain" => options.chain.push(value()?),
            "--force" => options.force = true,
            _ => return Err(InstallError::Usage(format!("there is no option {name:?}"))),
        }
    }
    if let Some(name) = options.chain.iter().find(|name| name.contains('/') || name.starts_with('.')) {
        return Err(InstallError::Usage(format!(
            "--chain {name}: want a plugin's name, without a directory"
        )));
    }
    if options.chain.iter().any(|name| name == "bandwidth") {
        return Err(InstallError::Usage(
            "--chain bandwidth: vrouter-cni limits the bandwidth itself".to_owned(),
        ));
    }
    Ok(options)
}

fn places(options: &Options) -> Vec<Place> {
    let root = options.root.clone().unwrap_or_else(|| "/".into());
    place::find(&root, options.programs.as_deref(), options.configurations.as_deref())
}

fn install(options: &Options) -> Result<Vec<String>, InstallError> {
    let own = Path::new("/proc/self/exe");
    let program = fs::read(own).map_err(failed("read", own))?;
    let text = list::make(options.socket.as_deref(), &options.chain);
    let mut done = Vec::new();
    for place in places(options) {
        for name in &options.chain {
            let path = place.programs.join(name);
            if !path.is_file() {
                return Err(InstallError::NoPlugin { name: name.clone(), path });
            }
        }
        let list = place.configurations.join(LIST);
        let there = read(&list)?;
        if there.as_deref().is_some_and(|there| !list::is_untouched(there)) && !options.force {
            return Err(InstallError::Edited(list));
        }
        done.push(put(&place.programs.join(PROGRAM), &program, 0o755)?);
        done.push(put(&list, text.as_bytes(), 0o644)?);
        done.extend(
            place::before(&place.configurations, LIST).map(|other| {
                format!("note: runtimes that use the first list only prefer {}", other.display())
            }),
        );
    }
    Ok(done)
}

fn uninstall(options: &Options) -> Result<Vec<String>, InstallError> {
    let mut done = Vec::new();
    for place in places(options) {
        let list = place.configurations.join(LIST);
        if let Some(there) = read(&list)? {
            if !list::is_untouched(&there) && !options.force {
                return Err(InstallError::Edited(list));
            }
            done.push(remove(&list)?);
        }
        let program = place.programs.join(PROGRAM);
        if program.symlink_metadata().is_ok() {
            done.push(remove(&program)?);
        }
    }
    if done.is_empty() {
        done.push("nothing is installed".to_owned());
    }
    Ok(done)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { doing, path, source }
}

/// `None`: there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(octets) => Ok(Some(octets)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Writes the file, all of it or nothing. One that is there already and the same is left alone: runtimes watch.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<String, InstallError> {
    if read(path)?.is_some_and(|there| there == content) {
        return Ok(format!("unchanged {}", path.display()));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("make", directory))?;
    // Neither a name that a runtime takes for a list nor one that a plugin has.
    let draft = directory.join(format!(".{PROGRAM}.{}.tmp", std::process::id()));
    let written = write(&draft, content, mode).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.and_then(|()| File::open(directory)?.sync_all()).map_err(failed("write", path))?;
    Ok(format!("installed {}", path.display()))
}

fn write(draft: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(draft)?;
    // Whatever the umask says.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<String, InstallError> {
    fs::remove_file(path).map_err(failed("remove", path))?;
    Ok(format!("removed {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options, InstallError> {
        parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn options_may_have_their_value_inline() {
        let apart = options(&["--root", "/host", "--chain", "portmap", "--chain=tuning", "--force"]).unwrap();
        assert_eq!((apart.root.as_deref(), apart.force), (Some(Path::new("/host")), true));
        assert_eq!(apart.chain, ["portmap", "tuning"]);
        for words in [
            &["--root"][..],
            &["--root="],
            &["--rot", "x"],
            &["x"],
            &["--chain", "../portmap"],
            &["--chain", "bandwidth"],
        ] {
            assert!(matches!(options(words), Err(InstallError::Usage(_))), "{words:?}");
        }
    }

    #[test]
    fn what_is_installed_is_removed_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("etc/cni/net.d");
        fs::create_dir_all(&conf).unwrap();
        fs::write(conf.join("00-other.conf"), "{}").unwrap();
        let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
        let lines = install(&options).unwrap();
        assert!(
            lines[0].ends_with("opt/cni/bin/vrouter-cni") && lines[1].ends_with("net.d/10-vrouter.conflist"),
            "{lines:?}"
        );
        assert!(lines[2].contains("00-other.conf"), "{lines:?}");
        assert!(install(&options).unwrap()[..2].iter().all(|line| line.starts_with("unchanged")));
        assert_eq!(uninstall(&options).unwrap().len(), 2);
        assert_eq!(uninstall(&options).unwrap(), ["nothing is installed"]);
        let left: Vec<_> = fs::read_dir(&conf).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["00-other.conf"]);
        assert_eq!(fs::read_dir(dir.path().join("opt/cni/bin")).unwrap().count(), 0);
    }

    #[test]
    fn a_list_that_a_person_edited_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
        install(&options).unwrap();
        let list = dir.path().join("etc/cni/net.d").join(LIST);
        let edited = fs::read_to_string(&list).unwrap().replace("/run/vrouter/agent.sock", "/run/x.sock");
        fs::write(&list, &edited).unwrap();
        assert!(matches!(install(&options), Err(InstallError::Edited(_))));
        assert!(matches!(uninstall(&options), Err(InstallError::Edited(_))));
        assert_eq!(fs::read_to_string(&list).unwrap(), edited);
        options.force = true;
        uninstall(&options).unwrap();
        assert!(!list.exists());
    }

    #[test]
    fn a_plugin_to_be_chained_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            root: Some(dir.path().to_owned()),
            chain: vec!["portmap".to_owned()],
            ..Options::default()
        };
        assert!(matches!(install(&options), Err(InstallError::NoPlugin { .. })));
        assert!(!dir.path().join("etc/cni/net.d").join(LIST).exists());
    }
}
