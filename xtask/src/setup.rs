//! `cargo xtask setup`: the Debian packages that the project needs, each with its reason. Says what it installs;
//! installs only what is missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// What a package is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building and running.
    Run,
    /// Testing and benchmarking.
    Test,
    /// Testing in a virtual machine as well.
    Guest,
}

const PACKAGES: &[(&str, Purpose, &str)] = &[
    (
        "gcc",
        Purpose::Run,
        "compiles liblz4, libzstd and libdeflate; links",
    ),
    (
        "libc6-dev",
        Purpose::Run,
        "the C library's headers for the same",
    ),
    ("e2fsprogs", Purpose::Run, "mkfs.ext4 and e2fsck"),
    ("mount", Purpose::Run, "mount, umount, losetup"),
    ("util-linux", Purpose::Run, "blkdiscard, blockdev, fstrim"),
    ("diffutils", Purpose::Test, "compares trees byte by byte"),
    (
        "fio",
        Purpose::Test,
        "verified random I/O on the loop device and the NBD socket",
    ),
    ("libnbd-bin", Purpose::Test, "nbdinfo, nbdcopy"),
    (
        "nbdkit",
        Purpose::Test,
        "an NBD server to copy from, and a rival to measure",
    ),
    (
        "python3",
        Purpose::Test,
        "a process whose memory the benchmark samples",
    ),
    ("python3-libnbd", Purpose::Test, "nbdsh"),
    (
        "perl-base",
        Purpose::Test,
        "another process whose memory the benchmark samples",
    ),
    ("qemu-utils", Purpose::Test, "qemu-img, qemu-io"),
    (
        "qemu-system-x86",
        Purpose::Guest,
        "runs the guest, without KVM",
    ),
    (
        "busybox-static",
        Purpose::Guest,
        "most of the guest's commands",
    ),
    ("xz-utils", Purpose::Guest, "unpacks kernel modules"),
    (
        "xfsprogs",
        Purpose::Guest,
        "mkfs.xfs and xfs_repair, in the guest",
    ),
    (
        "btrfs-progs",
        Purpose::Guest,
        "mkfs.btrfs and btrfs, in the guest",
    ),
];

/// Installs what is missing for `purpose`.
pub(crate) fn setup(purpose: Purpose) -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(name, needed, _)| *needed <= purpose && !installed(name))
        .collect();
    if missing.is_empty() {
        eprintln!("setup: all Debian packages are there");
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        let names: Vec<_> = missing.iter().map(|(name, ..)| *name).collect();
        bail!(
            "this is no Debian: install what these packages hold: {}",
            names.join(" ")
        );
    }
    eprintln!("setup: installing from Debian:");
    for (name, _, why) in &missing {
        eprintln!("  {name:15} {why}");
    }
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(missing.iter().map(|(name, ..)| *name));
    apt(&install)
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// apt-get as root, by sudo where this user is not.
pub(crate) fn apt(args: &[&str]) -> Result<()> {
    let id = Command::new("id")
        .arg("-u")
        .output()
        .context("cannot run id")?;
    let mut command = match id.stdout.as_slice() {
        b"0\n" => sh::command("apt-get", args),
        _ => sh::command(
            "sudo",
            &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat(),
        ),
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // What apt says is not the output of whatever this set-up is for.
    command.stdout(std::io::stderr());
    sh::run(command)
}
