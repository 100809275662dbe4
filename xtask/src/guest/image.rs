//! The guest's file system: an archive of Debian's programs with their libraries and of kernel modules, kept between
//! runs, and behind it a second one with what this checkout has: our programs, `guest/` and the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::modules::Modules;
use super::spec::TestSpec;
use crate::sh;

/// Change it when the same inputs shall make another archive.
const FORMAT: u32 = 1;

/// Programs of this machine that the guest has. busybox stands in for what is not here.
const PROGRAMS: &str = "\
    bash blkdiscard blkid blockdev btrfs busybox cmp cp dd diff dmsetup dumpe2fs e2fsck fallocate \
    findmnt fio fsfreeze fstrim losetup lsblk make-bcache mdadm mkfs.btrfs mkfs.ext4 mkfs.xfs mkswap mount \
    nbd-client prlimit setpriv sha256sum stat swapoff swapon sync systemctl timeout truncate tune2fs \
    udevadm umount xfs_repair zramctl";

/// systemd and the least that it boots and ends with, for tests whose header says `boot: systemd`.
const SYSTEMD: &str = "/lib/systemd";
const SYSTEMD_PROGRAMS: &[&str] = &["systemd", "systemd-shutdown"];
const SYSTEMD_UNITS: &str = "\
    basic.target final.target local-fs.target modprobe@.service multi-user.target paths.target poweroff.target \
    shutdown.target slices.target sockets.target swap.target sysinit.target systemd-poweroff.service timers.target \
    umount.target";

/// Libraries that are loaded by name, so that ldd does not show them: pthread_cancel needs this one.
const LIBRARIES: &[&str] = &["/lib/x86_64-linux-gnu/libgcc_s.so.1"];

/// Modules that every guest can load, besides those that tests name.
const MODULES: &str = "\
    btrfs deflate ext4 loop lz4 lz4hc nbd null_blk ublk_drv virtio_blk xfs zram zstd";

/// Our own programs: the package, and where what cargo builds of it then lies.
const OURS: &[(&str, &str)] = &[
    ("uzram-cli", "uzram"),
    ("uzram-cli", "uzramd"),
    ("uzram-testkit", "examples/memhog"),
    ("uzram-bench", "uzram-bench"),
    ("uzram-nbd-kernel", "examples/nbd-kernel"),
    ("uzram-control", "examples/zram-differential"),
];

/// What `dist` has for users to install, and tests do.
const DIST: &[&str] = &[
    "90-uzram-ublk.rules",
    "systemd/uzramd-persist.service",
    "systemd/uzramd.service",
    "systemd/uzramd.socket",
];

/// How our programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// As the tests on this machine are, with which it shares what is built: assertions and overflows are checked.
    Tests,
    /// As they are released: for what is measured.
    Release,
}

impl Build {
    /// Where the programs are.
    pub(crate) fn dir(self) -> PathBuf {
        sh::target().join(match self {
            Self::Tests => "debug",
            Self::Release => "release",
        })
    }

    /// Builds [`OURS`]; the directory that they are in.
    fn run(self) -> Result<PathBuf> {
        let target = |program: &'static str| match program.split_once("examples/") {
            Some((_, example)) => ["--example", example],
            None => ["--bin", program],
        };
        match self {
            Self::Tests => {
                let targets: Vec<_> = OURS.iter().flat_map(|(_, p)| target(p)).collect();
                sh::run(sh::cargo(
                    &[&["build", "--quiet"], sh::WORKSPACE, &targets].concat(),
                ))?;
            }
            Self::Release => {
                for (package, program) in OURS {
                    let cargo = ["build", "--release", "--quiet", "--package", package];
                    sh::run(sh::cargo(&[&cargo[..], &target(program)].concat()))?;
                }
            }
        }
        Ok(self.dir())
    }
}

const DIRECTORIES: &[&str] = &["dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib"];

/// Where /bin and the like lead, as on Debian.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Builds what is to be tested and archives it; the path of what `-initrd` takes.
pub(crate) fn build(
    work: &Path,
    kernel: &Kernel,
    specs: &[TestSpec],
    build: Build,
) -> Result<PathBuf> {
    let programs = build.run()?;
    let base = base(work, kernel, specs)?;
    let path = work.join("initrd");
    let mut out = BufWriter::new(fs::File::create(&path)?);
    std::io::copy(&mut fs::File::open(&base)?, &mut out)?;
    let mut archive = Archive::new(out);
    let mut needed = BTreeSet::new();
    for (_, program) in OURS {
        let path = programs.join(program);
        let name = program.rsplit('/').next().unwrap_or(program);
        archive.file(&format!("usr/bin/{name}"), &stripped(&path, work)?)?;
        needed.extend(libraries(&path)?);
    }
    for library in needed {
        archive.file(&merged(&library), &read(&library)?)?;
    }
    let guest = sh::root().join("guest");
    archive.file("init", &read(&guest.join("init"))?)?;
    for file in ["left.sh", "lib.sh", "run"] {
        archive.file(&format!("guest/{file}"), &read(&guest.join(file))?)?;
    }
    for file in DIST {
        let name = file.rsplit('/').next().unwrap_or(file);
        let file = sh::root().join("dist").join(file);
        archive.file(&format!("guest/{name}"), &read(&file)?)?;
    }
    for spec in specs {
        let file = format!("tests/{}.sh", spec.name);
        archive.file(&format!("guest/{file}"), &read(&guest.join(&file))?)?;
    }
    archive.finish()?.into_inner().map_err(|e| e.into_error())?;
    Ok(path)
}

/// The archive that changes only with this machine's packages, the kernel and the list of modules.
fn base(work: &Path, kernel: &Kernel, specs: &[TestSpec]) -> Result<PathBuf> {
    let modules = Modules::new(&kernel.modules)?;
    let mut wanted: BTreeSet<String> = MODULES.split_whitespace().map(str::to_owned).collect();
    for spec in specs {
        for module in &spec.modules {
            if !modules.has(module) {
                bail!("test {}: this kernel has no module {module}", spec.name);
            }
            wanted.insert(module.clone());
        }
    }
    // Destination to source.
    let mut files = BTreeMap::new();
    let programs = PROGRAMS.split_whitespace().map(program);
    let systemd = Path::new(SYSTEMD);
    let of_systemd = SYSTEMD_PROGRAMS.iter().map(|name| Ok(systemd.join(name)));
    for path in programs.chain(of_systemd) {
        let path = path?;
        for library in libraries(&path)? {
            files.insert(merged(&library), library);
        }
        files.insert(merged(&path), path);
    }
    let libraries = LIBRARIES.iter().map(PathBuf::from);
    let units = SYSTEMD_UNITS.split_whitespace();
    let units = units.map(|name| systemd.join("system").join(name));
    for path in libraries.chain(units) {
        files.insert(merged(&path), path);
    }
    let key = key(kernel, &wanted, &files)?;
    let path = work.join("base.cpio");
    let key_path = work.join("base.key");
    if fs::read_to_string(&key_path).is_ok_and(|old| old == key) && path.is_file() {
        return Ok(path);
    }
    eprintln!("guest: making the base image ({})", kernel.name);
    // Until the archive is whole, no key says so.
    let _ = fs::remove_file(&key_path);
    let mut archive = Archive::new(BufWriter::new(fs::File::create(&path)?));
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    for directory in MERGED {
        archive.directory(&format!("usr/{directory}"))?;
        archive.symlink(directory, &format!("usr/{directory}"))?;
    }
    for (to, from) in &files {
        archive.file(to, &read(from)?)?;
    }
    for applet in applets()? {
        let taken = |dir: &str| files.contains_key(&format!("usr/{dir}/{applet}"));
        if !taken("bin") && !taken("sbin") {
            archive.symlink(&format!("usr/bin/{applet}"), "/usr/bin/busybox")?;
        }
    }
    // The kernel asks for /sbin/modprobe.
    archive.symlink("usr/sbin/modprobe", "/usr/bin/busybox")?;
    let release = kernel.modules.file_name().unwrap_or_default();
    let release = release.to_string_lossy();
    for module in modules.closure(&wanted)? {
        let to = format!("usr/lib/modules/{release}/{}", module.path);
        archive.file(&to, &module.bytes)?;
    }
    let builtin = "modules.builtin";
    let list = read(&kernel.modules.join(builtin))?;
    archive.file(&format!("usr/lib/modules/{release}/{builtin}"), &list)?;
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n")?;
    archive.file("etc/group", b"root:x:0:\n")?;
    archive.symlink("etc/mtab", "/proc/self/mounts")?;
    archive.finish()?.into_inner().map_err(|e| e.into_error())?;
    fs::write(&key_path, key)?;
    Ok(path)
}

/// Everything that goes into the base archive, as a text to compare.
fn key(
    kernel: &Kernel,
    wanted: &BTreeSet<String>,
    files: &BTreeMap<String, PathBuf>,
) -> Result<String> {
    let mut key = format!("{FORMAT} {}\n", kernel.name);
    key += &format!("{wanted:?} {DIRECTORIES:?} {MERGED:?}\n");
    for (to, from) in files {
        let about = fs::metadata(from).with_context(|| from.display().to_string())?;
        let age = about.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
        key += &format!("{to} {} {} {age}\n", from.display(), about.len());
    }
    Ok(key)
}

/// Where the guest has a file of this machine: /bin is /usr/bin there, and programs lie where they lie here.
fn merged(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Finds a program where Debian puts them; root's are not on everyone's PATH.
fn program(name: &str) -> Result<PathBuf> {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let mut paths = dirs.iter().map(|dir| Path::new(dir).join(name));
    paths
        .find(|path| path.is_file())
        .with_context(|| format!("no program {name} on this machine, which the guest needs"))
}

/// The libraries of a program and its loader, by ldd.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It fails for a program that is linked statically, after saying so.
    let missing = text.lines().find(|line| line.contains("not found"));
    if let Some(line) = missing {
        bail!("{}: {}", program.display(), line.trim());
    }
    Ok(parse_ldd(&text))
}

/// Lines are `name => /path (address)`, `/path (address)` or `linux-vdso.so.1 (address)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(word))
    };
    text.lines().filter_map(path).collect()
}

fn applets() -> Result<Vec<String>> {
    let output = Command::new(program("busybox")?).arg("--list").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// A program without its symbols, which would be most of it. Tests copy all programs to file systems, and look for each byte
/// again; a panic says its line without them.
fn stripped(path: &Path, work: &Path) -> Result<Vec<u8>> {
    let to = work.join("stripped");
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "-o"]).arg(&to).arg(path);
    sh::run(strip)?;
    let bytes = read(&to)?;
    fs::remove_file(&to)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_read() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        let paths = parse_ldd(text);
        assert_eq!(
            paths,
            [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so")]
        );
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }

    #[test]
    fn files_lie_in_the_merged_tree() {
        assert_eq!(merged(Path::new("/lib64/ld.so")), "usr/lib64/ld.so");
        assert_eq!(merged(Path::new("/usr/bin/x")), "usr/bin/x");
    }
}
