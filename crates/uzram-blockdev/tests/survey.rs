//! A survey of a plain loop device: swap, which tests of devices must not try, and users by nodes of other names. Needs
//! root; a reported skip without.

use std::path::Path;
use std::process::Command;

use uzram_blockdev::{Busy, Survey, Users, chain};
use uzram_testkit::peers;

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// A loop device on a file of 16 MiB.
struct Loop {
    dir: tempfile::TempDir,
    node: String,
}

impl Loop {
    fn new() -> Loop {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let node = sh(&format!(
            "truncate -s 16M {0} && losetup -f --show {0}",
            file.display()
        ));
        Loop { dir, node }
    }

    /// Another node of the same device.
    fn other_node(&self) -> String {
        let other = self.dir.path().join("node").display().to_string();
        let number = self.node.trim_start_matches("/dev/loop");
        sh(&format!("mknod -m 600 {other} b 7 {number}"));
        other
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.node]).status();
    }
}

fn possible(test: &str, programs: &[&str]) -> bool {
    let root = match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err("root"),
    };
    peers::have(test, programs) && peers::possible(test, root)
}

/// The users without those that have it open: whoever looks for a free loop device at this moment opens each.
fn lasting(users: &Users) -> Vec<&Busy> {
    let lasting = users.0.iter().filter(|by| !matches!(by, Busy::Open { .. }));
    lasting.collect()
}

#[test]
fn swap_is_found_by_any_node() {
    if !possible(
        "swap_is_found_by_any_node",
        &["losetup", "mkswap", "swapon"],
    ) {
        return;
    }
    let device = Loop::new();
    let other = device.other_node();
    sh(&format!("mkswap -q {other} && swapon {other}"));
    let survey = Survey::new();
    let (users, unused) = (
        survey.users(Path::new(&device.node)),
        survey.unused_swap(Path::new(&device.node)),
    );
    sh(&format!("swapoff {other}"));
    assert_eq!(lasting(&users), [&Busy::Swap]);
    assert_eq!(users.mount_points(true), ["[SWAP]"]);
    assert!(unused);
    let users = Survey::new().users(Path::new(&device.node));
    assert_eq!(lasting(&users), [&Busy::Swap; 0]);
}

#[test]
fn a_loop_device_on_another_node_of_a_device_lies_on_it() {
    if !possible("a_loop_device_on_another_node", &["losetup"]) {
        return;
    }
    let device = Loop::new();
    let other = device.other_node();
    let top = sh(&format!("losetup -f --show {other}"));
    let survey = Survey::new();
    let users = survey.users(Path::new(&device.node));
    let layers = survey.beneath(Path::new(&top));
    sh(&format!("losetup -d {top}"));
    let file: &Path = Path::new(&other);
    assert!(
        matches!(lasting(&users)[..], [Busy::Loop { file: behind, .. }] if behind == file),
        "{users:?}"
    );
    let way = format!("{top}, on {}, on ", device.node);
    assert!(chain(&layers, 2).starts_with(&way), "{layers:?}");
}
