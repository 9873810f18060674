//! Files: written whole or not at all, read with suspicion.
//!
//! A file is written under another name, synchronised, renamed, and its directory synchronised. What is read may be
//! anything, on a worn-out card or after a hand slipped: cut short, changed, zeroes, endless, a directory, a link, a pipe
//! that nobody writes to. None of it is followed, waited for or trusted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_api::sealed::{self, Unsealed};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Names beside a name that is taken: evidence of this many accidents is kept.
const ASIDE: usize = 32;

/// Makes a directory, and puts aside what is in its place.
pub(super) fn make_dir(path: &Path) -> io::Result<Option<PathBuf>> {
    match make_dirs(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let aside = put_aside(path)?;
            make_dirs(path).map(|_| Some(aside))
        }
        made => made.map(|_| None),
    }
}

/// Makes a directory and those above it: they are on disk when this returns, or what is written there later would be
/// gone with them. Returns the directories that were synchronised for that.
pub(super) fn make_dirs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.is_dir();
    let mut missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    let mut synced = Vec::new();
    while let Some(dir) = missing.pop() {
        match DirBuilder::new().mode(0o700).create(dir) {
            // Somebody else was faster.
            Err(_) if dir.is_dir() => {}
            made => made?,
        }
        if let Err(error) = sync_dir(dir) {
            // Or the next attempt would find it, and take it for durable.
            let _ = fs::remove_dir(dir);
            return Err(error);
        }
        synced.extend(dir.parent().map(Path::to_owned));
    }
    Ok(synced)
}

/// The files of a directory whose names end like this. None where there is no directory.
pub(super) fn files(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Reads an object of at most this many octets. `Err`: why not, for people.
pub(super) fn read<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Unsealed<T>, String> {
    let mut options = OpenOptions::new();
    // A link leads elsewhere, and opening a pipe waits for its writer.
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => "it is a symbolic link".to_owned(),
        _ => error.to_string(),
    })?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > most {
        return Err(format!("it is larger than {most} octets"));
    }
    if text.iter().all(|octet| *octet == 0) {
        return Err(format!("it is {} zeroes", text.len()));
    }
    sealed::unseal(&text)
}

/// The content is on disk when this returns. What is longer than this would not be read back, and is refused.
pub(super) fn write(path: &Path, content: &impl Serialize, most: u64) -> io::Result<()> {
    let text = sealed::seal(content).map_err(io::Error::other)?;
    if text.len() as u64 > most {
        let why = format!("it would be {} octets, and more than {most} are not read back", text.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    let new = path.with_extension(NEW);
    let written = write_new(&new, &text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // A full disk is no better for half a file.
        let _ = fs::remove_file(&new);
    }
    written?;
    sync_dir(path)
}

/// What an unfinished file is called until it is finished.
pub(super) const NEW: &str = "new";

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    scribble(path, text)?.sync_all()
}

/// Writes what need not outlive the machine, nor be whole.
pub(super) fn scribble(path: &Path, text: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    file.write_all(text)?;
    Ok(file)
}

/// The file is not on disk when this returns.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // A read-only file system says so before it looks.
        Err(error) if error.kind() != io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            Err(error)
        }
        _ => sync_dir(path),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let here = |dir: &Path| if dir.as_os_str().is_empty() { File::open(".") } else { File::open(dir) };
    let synced = path.parent().map_or(Ok(()), |dir| here(dir)?.sync_all());
    // Where there is no directory, there is nothing to synchronise.
    if synced.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) { Ok(()) } else { synced }
}

/// Whether a file could be written, as far as the kernel knows by itself: no card has to be slow for that.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe").with_extension(NEW);
    let written = scribble(&path, &[0; 4096]);
    let _ = fs::remove_file(&path);
    written.map(drop)
}

/// Renames what cannot be read to `*.bad`, beside what was put aside before. Returns the new name.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { ".bad".to_owned() } else { format!(".{number}.bad") });
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let free = (0..ASIDE).map(aside).find(is_free).unwrap_or_else(|| aside(ASIDE));
    fs::rename(path, &free)?;
    Ok(free)
}

/// Removes what was being written when a process ended. `Err`: what stands in the way of the next writing.
pub(super) fn sweep(dir: &Path, extension: &str) -> io::Result<()> {
    for path in files(dir, extension)? {
        if fs::remove_file(&path).is_err() && fs::symlink_metadata(&path).is_ok() {
            put_aside(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_made_durable_with_all_above_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |below: &str| root.path().join(below);
        assert_eq!(
            make_dirs(&at("a/b/c")).unwrap(),
            [at(""), at("a"), at("a/b")].map(|dir| dir.components().collect::<PathBuf>())
        );
        assert!(at("a/b/c").is_dir());
        assert_eq!(make_dirs(&at("a/b/c")).unwrap(), [] as [PathBuf; 0], "there already");
        assert_eq!(make_dirs(&at("a/d")).unwrap(), [at("a")]);
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        assert_eq!(make_dirs(&at("link/e")).unwrap(), [at("link")], "an operator may have put it elsewhere");
        fs::write(at("file"), "").unwrap();
        assert!(make_dirs(&at("file/f")).is_err());
        assert_eq!(make_dir(&at("file")).unwrap(), Some(at("file.bad")));
        assert!(at("file").is_dir());
    }
}
