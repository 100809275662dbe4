//! uzramd's unit: how much it leaves open, as systemd counts it, and that uzramd does its work with the capabilities that
//! are left.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh};

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd/uzramd.service")
}

#[test]
fn interop_systemd_finds_the_unit_hardened() {
    needs!(&["systemd-analyze"]);
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=50"])
        .arg(unit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// Nothing in the unit may make a mount namespace: what uzramd mounts is for everybody.
#[test]
fn the_unit_stays_in_the_mount_namespace_of_the_host() {
    let text = std::fs::read_to_string(unit()).unwrap();
    let set = |key: &str| {
        text.lines()
            .any(|line| line.split_once('=').is_some_and(|(name, _)| name == key))
    };
    for key in [
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "InaccessiblePaths",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateTmp",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
    ] {
        assert!(!set(key), "{key} makes a mount namespace");
    }
    assert!(set("NoNewPrivileges"));
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn uzramd_works_with_the_capabilities_of_its_unit() {
    needs!(&["setpriv", "mkfs.ext4", "mount", "chown"], fuse_loop);
    let text = std::fs::read_to_string(unit()).unwrap();
    let lines = text.lines();
    let kept: Vec<String> = lines
        .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .flat_map(str::split_whitespace)
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(kept.len() > 5, "{kept:?}");
    let bench = Bench::new();
    let (at, theirs) = (bench.path("at"), bench.path("theirs"));
    std::fs::create_dir(&theirs).unwrap();
    sh(&format!(
        "chown 12345 {0} && chmod 700 {0}",
        theirs.display()
    ));
    let config = bench.path("uzram.toml");
    let devices = format!(
        "[[device]]\nname = \"zram0\"\nsize = \"64M\"\nfrontend = \"fuse-loop\"\nmount-point = \"{}\"\n\
         [[device]]\nname = \"zram1\"\nsize = \"16M\"\nfrontend = \"nbd\"\nlisten = \"tcp:127.0.0.8:812\"\n\
         [[device]]\nname = \"zram2\"\nsize = \"16M\"\nfrontend = \"nbd\"\nlisten = \"unix:{}/disk.sock\"\nallow-foreign-files = true\n",
        at.display(),
        theirs.display()
    );
    std::fs::write(&config, devices).unwrap();
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--bounding-set=-all,{}", kept.join(",")))
        .args(["--no-new-privs", env!("CARGO_BIN_EXE_uzramd"), "--config"])
        .arg(&config)
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .stdin(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    let begin = Instant::now();
    let all_there = || {
        let listed = bench.output(&["list", "--noheadings"]);
        String::from_utf8_lossy(&listed.stdout).lines().count() == 3
    };
    while !all_there() || !sh("cat /proc/self/mounts").contains(at.to_str().unwrap()) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    bench.kill("zram1", "pid");
    sh(&format!("echo kept >{0}/file && umount {0}", at.display()));
    for name in ["zram0", "zram1", "zram2"] {
        bench.uzram(&["remove", name]);
    }
    drop(daemon);
    let _ = std::fs::remove_file(bench.run_dir().join("uzramd.sock"));
}
