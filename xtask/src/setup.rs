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
    (
        "udev",
        Purpose::Guest,
        "udevadm: gives users their ublk devices, in the guest",
    ),
    ("mount", Purpose::Run, "mount, umount, losetup"),
    (
        "util-linux",
        Purpose::Run,
        "blkdiscard, blockdev, fstrim, losetup, fincore, fsfreeze",
    ),
    ("diffutils", Purpose::Test, "compares trees byte by byte"),
    ("curl", Purpose::Test, "a client of the daemon's API"),
    ("bash", Purpose::Test, "runs the kernel's selftests"),
    (
        "linux-source-6.12",
        Purpose::Test,
        "the kernel's selftests of zram; nothing else of it is used",
    ),
    (
        "systemd",
        Purpose::Test,
        "systemd-socket-activate and systemd-analyze, for uzramd's units",
    ),
    (
        "systemd-zram-generator",
        Purpose::Test,
        "sets zram devices up, to try uzram's interface with",
    ),
    (
        "fio",
        Purpose::Test,
        "verified random I/O on the loop device and the NBD socket",
    ),
    (
        "liblzo2-2",
        Purpose::Test,
        "the original lzo: a peer to test with and a rival to measure",
    ),
    ("libnbd-bin", Purpose::Test, "nbdinfo, nbdcopy, nbdfuse"),
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
        "nbd-client",
        Purpose::Guest,
        "attaches /dev/nbdN to an NBD socket, in the guest",
    ),
    (
        "busybox-static",
        Purpose::Guest,
        "most of the guest's commands",
    ),
    (
        "xz-utils",
        Purpose::Test,
        "unpacks the kernel's selftests, and modules for the guest",
    ),
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
    // A set-up that removes what someone installed is worse than one that fails.
    let mut install = vec![
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "--no-remove",
    ];
    install.extend(missing.iter().map(|(name, ..)| *name));
    let Err(error) = apt(&install) else {
        return Ok(());
    };
    let strays = strays(purpose);
    if strays.is_empty() {
        return Err(error);
    }
    eprintln!("setup: {error:#}");
    eprintln!(
        "setup: these are newer than the package sources have, which keeps their siblings from"
    );
    eprintln!("setup: being installed; trying again with the sources' versions, a downgrade:");
    let mut pins = Vec::new();
    for (name, from, to) in &strays {
        eprintln!("  {name:15} {from} becomes {to}");
        pins.push(format!("{name}={to}"));
    }
    install.push("--allow-downgrades");
    install.extend(pins.iter().map(String::as_str));
    apt(&install)
}

/// Our packages that are installed at a version beyond what the package sources have (in an image that was made with
/// sources that it does not keep, such as backports): name, that version, and the sources' newest.
fn strays(purpose: Purpose) -> Vec<(&'static str, String, String)> {
    let ours = PACKAGES.iter().filter(|(_, needed, _)| *needed <= purpose);
    ours.filter_map(|(name, ..)| {
        let version = query("dpkg-query", &["-W", "-f", "${Version}", name])?;
        let newest = newest(&query("apt-cache", &["madison", name])?)?;
        let newer = ["--compare-versions", &version, "gt", &newest];
        let newer = Command::new("dpkg").args(newer).status();
        newer
            .is_ok_and(|status| status.success())
            .then_some((*name, version, newest))
    })
    .collect()
}

/// The first, which is the newest, version in a table of `apt-cache madison`: lines of `name | version | source`.
fn newest(table: &str) -> Option<String> {
    Some(table.lines().next()?.split('|').nth(1)?.trim().to_owned())
}

fn query(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn installed(package: &str) -> bool {
    let args = ["-W", "-f", "${db:Status-Status}", package];
    query("dpkg-query", &args).is_some_and(|status| status == "installed")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_is_read() {
        let table = " a | 1:7.2+x | http://host bookworm/main amd64 Packages\n a | 1:7.1 | y\n";
        assert_eq!(newest(table).as_deref(), Some("1:7.2+x"));
        assert_eq!(newest(""), None);
    }
}
