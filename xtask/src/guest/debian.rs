//! A Debian for the guest: the root file system of tests whose header says `boot: debian`, on a disk, and beside it the
//! packages that such a test installs.
//!
//! It is made by mmdebstrap of this machine's release, once, and takes minutes. Each boot begins with the same contents: what a
//! guest writes is QEMU's to forget.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{setup, sh};

/// What it has besides Debian's essential packages: what a machine boots with, and makes file systems with.
const PACKAGES: &str = "dbus,e2fsprogs,kmod,libpam-systemd,login,mount,systemd-sysv,udev,zsh";
/// Nobody reads these there. Pages of the manual stay, since a package's must be where they belong.
const WITHOUT: &[&str] = &["/usr/share/doc/*", "/usr/share/locale/*", "/var/cache/*"];
/// The disk's size, in blocks of 4 KiB: the system takes a quarter.
const BLOCKS: &str = "262144";
const FILES: &str = "65536";

/// The disks of a boot.
#[derive(Debug, Clone)]
pub(crate) struct Debian {
    /// With the root file system.
    root: PathBuf,
    /// An archive of packages, which the guest reads from its second disk.
    packages: PathBuf,
}

impl Debian {
    /// Makes what is not there, with the packages that are in `packages`.
    pub(crate) fn new(work: &Path) -> Result<Self> {
        setup::setup(setup::PackagePurpose::Dist)?;
        let root = root(work)?;
        let dir = packages(work);
        let made_by = "cargo xtask test --only deb";
        let entries = fs::read_dir(&dir)
            .with_context(|| format!("{}: \"{made_by}\" makes it", dir.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name());
        }
        names.sort();
        let packages = work.join("packages.tar");
        let mut tar = sh::command("tar", &["--create", "--file"]);
        tar.arg(&packages).arg("--directory").arg(&dir).args(names);
        sh::run(tar)?;
        Ok(Self { root, packages })
    }

    /// Adds the disks to a virtual machine, the root file system's as the first.
    pub(crate) fn add_to(&self, qemu: &mut Command) {
        for (disk, options) in [(&self.root, "snapshot=on"), (&self.packages, "readonly=on")] {
            let file = disk.display().to_string().replace(',', ",,");
            let drive = format!("file={file},format=raw,if=virtio,{options}");
            qemu.args(["-drive", &drive]);
        }
    }
}

/// Where the packages lie that tests install.
pub(crate) fn packages(work: &Path) -> PathBuf {
    work.join("packages")
}

/// The file with the root file system.
fn root(work: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let suite = suite(&release).context("/etc/os-release names no release of Debian")?;
    let dir = work.join("debian");
    let key = format!("{suite} {PACKAGES} {WITHOUT:?} {BLOCKS} {FILES}\n");
    let (key_path, image) = (dir.join("key"), dir.join("root.ext2"));
    if fs::read_to_string(&key_path).is_ok_and(|old| old == key) && image.is_file() {
        return Ok(image);
    }
    eprintln!("guest: making a Debian {suite} by mmdebstrap, which takes minutes");
    fs::create_dir_all(&dir)?;
    // Until it is whole, no key says so.
    let _ = fs::remove_file(&key_path);
    let archive = dir.join("root.tar").display().to_string();
    let mut debootstrap = vec!["--quiet", "--variant=essential"];
    let include = format!("--include={PACKAGES}");
    let without: Vec<_> = WITHOUT
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect();
    debootstrap.push(&include);
    debootstrap.extend(without.iter().map(String::as_str));
    debootstrap.extend([suite, &archive]);
    let mut debootstrap = sh::command("mmdebstrap", &debootstrap);
    debootstrap.stdout(std::io::stderr());
    sh::run(debootstrap)?;
    let image_name = image.display().to_string();
    let size = ["-B", "4096", "-b", BLOCKS, "-N", FILES];
    let contents = ["-a", &archive, &image_name];
    let mut genext2fs = sh::command("genext2fs", &[&size[..], &contents].concat());
    genext2fs.stdout(std::io::stderr());
    sh::run(genext2fs)?;
    fs::remove_file(&archive)?;
    fs::write(&key_path, key)?;
    Ok(image)
}

/// The release's name in the text of os-release.
fn suite(release: &str) -> Option<&str> {
    let is_debian = release.lines().any(|line| line == "ID=debian");
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    is_debian.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read() {
        let text = "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(suite(text), Some("bookworm"));
        assert_eq!(suite("ID=other\nVERSION_CODENAME=x\n"), None);
    }
}
