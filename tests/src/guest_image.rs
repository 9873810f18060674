//! What a guest boots: Debian's own kernel, fetched once and kept under `target/lab-cache`, and an initial file system
//! with busybox, iproute2 and the modules, packed here (cpio "newc", as the kernel's
//! `driver-api/early-userspace/buffer-format` draws it).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::target_directory;
use crate::vm::udhcpc_script;

/// In the order in which they must be loaded.
const MODULES: [&str; 25] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "ip_tunnel",
    "tunnel4",
    "gre",
    "ip_gre",
    "ipip",
    "fou",
    "mpls_router",
    "mpls_iptunnel",
    "vrf",
    "dummy",
    "llc",
    "stp",
    "garp",
    "mrp",
    "8021q",
];

/// Where a guest's DHCP client finds its script, which is that of [`crate::vm::Machine`] too.
pub(crate) const DHCP_SCRIPT: &str = "/etc/udhcpc.script";

/// The first program: loads the modules, says so, and serves commands on the second serial line for ever.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read module; do insmod /modules/$module.ko || echo "cannot load $module"; done < /modules/order
/sbin/ip link set lo up
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo "guest ready" >/dev/console
# Its output is a pipe and not the line itself, so that the shell neither prompts nor echoes.
while true; do sh <&3 2>&1 | cat >&3; done
"#;

/// A kernel and an initial file system that boots it into a shell on its second serial line.
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

impl Image {
    /// The image, made the first time it is asked for.
    ///
    /// # Panics
    /// When the kernel cannot be fetched or a tool is missing, with what to install.
    pub fn get() -> Image {
        let cache = target_directory().join("lab-cache");
        let name = format!("guest-{:x}", contents());
        let image =
            Image { kernel: cache.join(&name).join("vmlinuz"), initrd: cache.join(&name).join("initrd") };
        if !image.initrd.exists() {
            // Two tests may do this at once: each works in a folder of its own, and the first to finish wins.
            let work = cache.join(format!("making-{}", std::process::id()));
            let made = make(&work).unwrap_or_else(|error| panic!("make a guest's image: {error}"));
            let _ = fs::rename(made, cache.join(name));
            let _ = fs::remove_dir_all(&work);
        }
        image
    }
}

/// A number for what goes into the image, so that a changed image has another name.
fn contents() -> u64 {
    let mut hasher = DefaultHasher::new();
    (INIT, MODULES, udhcpc_script("/tmp/lease")).hash(&mut hasher);
    hasher.finish()
}

fn make(work: &Path) -> io::Result<PathBuf> {
    let (tree, image) = (work.join("tree"), work.join("image"));
    fs::create_dir_all(&tree)?;
    fs::create_dir_all(&image)?;
    let package = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let package = package.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package =
        package.ok_or_else(|| io::Error::other("apt knows no linux-image-amd64: run apt-get update"))?;
    output(Command::new("apt-get").args(["download", &format!("linux-image-{package}")]).current_dir(work))?;
    let files = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let deb = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = deb.ok_or_else(|| io::Error::other("apt-get download left no package"))?;
    output(Command::new("dpkg").arg("-x").arg(deb).arg(&tree))?;
    fs::rename(tree.join(format!("boot/vmlinuz-{package}")), image.join("vmlinuz"))?;
    let modules = tree.join(format!("lib/modules/{package}/kernel"));
    fs::write(image.join("initrd"), initial_files(&modules)?)?;
    Ok(image)
}

fn initial_files(modules: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "modules"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", INIT.as_bytes());
    archive.file(DHCP_SCRIPT.trim_start_matches('/'), udhcpc_script("/tmp/lease").as_bytes());
    archive.file("bin/busybox", &read("/bin/busybox", "busybox-static")?);
    archive.file("sbin/ip", &read("/usr/sbin/ip", "iproute2")?);
    for library in output(Command::new("ldd").arg("/usr/sbin/ip"))?.split_whitespace() {
        if library.starts_with('/') {
            archive.file(library.trim_start_matches('/'), &fs::read(library)?);
        }
    }
    archive.file("modules/order", (MODULES.join("\n") + "\n").as_bytes());
    for module in MODULES {
        let found = find(modules, &format!("{module}.ko"));
        let found = found.ok_or_else(|| io::Error::other(format!("no {module}.ko in Debian's kernel")))?;
        archive.file(&format!("modules/{module}.ko"), &fs::read(found)?);
    }
    Ok(archive.finish())
}

fn read(path: &str, package: &str) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| io::Error::other(format!("{path}: {error}: apt-get install {package}")))
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.ends_with(name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

fn output(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{command:?}: {}: {errors}", output.status)))
    }
}

/// A cpio archive in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: Vec<String>,
    entries: usize,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        if !name.is_empty() && !self.folders.iter().any(|known| known == name) {
            self.folders.push(name.to_owned());
            self.entry(name, 0o040_755, (0, 0), &[]);
        }
    }

    /// A file, and the folders above it. Everything may be executed; nobody but root is in there.
    fn file(&mut self, name: &str, content: &[u8]) {
        let slashes: Vec<usize> = name.match_indices('/').map(|(at, _)| at).collect();
        slashes.into_iter().for_each(|at| self.folder(&name[..at]));
        self.entry(name, 0o100_755, (0, 0), content);
    }

    /// `/dev/console`, which the kernel opens for the first program before any device file system is mounted.
    fn console(&mut self) {
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: usize, device: (usize, usize), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            content.len(),
            0, // the device it is on
            0,
            device.0,
            device.1,
            name.len() + 1,
            0, // checksum: none
        ];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_headers_and_a_trailer() {
        let mut archive = Archive::default();
        archive.file("a/b", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3, "the folder, the file, the trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(text.contains("hello") && text.contains("TRAILER!!!"));
    }
}
