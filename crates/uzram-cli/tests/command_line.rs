//! What hands type: completions in a real bash, short names, sizes, and lists that fit a terminal.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Bench, needs, sh};
use serde_json::Value;

const UZRAM: &str = env!("CARGO_BIN_EXE_uzram");

/// What bash offers for the last of these words, by the script that the program prints.
fn completed(bench: &Bench, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (line, last) = (words.join(" "), words.len() - 1);
    let script = format!(
        "source <(uzram completions bash) || exit 1\n\
         words=$(complete -p uzram) && [[ $words =~ -F\\ ([^ ]+) ]] || exit 1\n\
         COMP_WORDS=({}); COMP_CWORD={last}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9\n\
         ${{BASH_REMATCH[1]}} uzram '{}' '{}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        quoted.join(" "),
        words[last],
        words[last - 1],
    );
    let folder = Path::new(UZRAM).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &script])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .current_dir(bench.path("."))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{words:?}: {said}"
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let words = printed
        .lines()
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_devices() {
    needs!(&["bash"]);
    let bench = Bench::new();
    for name in ["zram3", "zram12"] {
        bench.create(&["--size=64M", "--frontend=nbd", "--name", name]);
    }
    let two = ["zram12", "zram3"];
    for words in [
        &["uzram", "stat", ""][..],
        &["uzram", "rm", ""],
        &["uzram", "metrics", "zr"],
        &["uzram", "snapshot", "zr"],
        &["uzram", "recompress", "--kind", "idle", "z"],
        &["uzram", "report", "zr"],
    ] {
        let mut offered = completed(&bench, words);
        offered.retain(|word| word.starts_with("zram"));
        offered.sort();
        assert_eq!(offered, two, "{words:?}");
    }
    assert_eq!(completed(&bench, &["uzram", "stat", "zram1"]), ["zram12"]);
    assert_eq!(completed(&bench, &["uzram", "metr"]), ["metrics"]);
    assert_eq!(
        completed(&bench, &["uzram", "create", "--mem-l"]),
        ["--mem-limit"]
    );
    let kinds = completed(&bench, &["uzram", "writeback", "zram3", "--kind", "h"]);
    assert_eq!(kinds, ["huge", "huge_idle"]);
    // A new device has a new name, and a remote is no device.
    let named = completed(&bench, &["uzram", "create", "--name", "zram"]);
    assert!(named.is_empty(), "{named:?}");
    let remotes = completed(&bench, &["uzram", "remote", "show", "zram"]);
    assert!(remotes.is_empty(), "{remotes:?}");
    let said = bench.fails(2, &["completions", "tcsh"]);
    assert!(said.contains("bash, zsh, fish"), "{said}");
}

/// Each shell reads its script without complaint, where the shell is there.
#[test]
fn scripts_are_scripts_of_their_shells() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.uzram(&["completions", shell]);
        assert!(
            script.contains("UZRAM_COMPLETE") && script.contains("uzram"),
            "{script}"
        );
        if uzram_testkit::peers::installed(&[shell]).is_err() {
            continue;
        }
        let file = bench.path(shell);
        std::fs::write(&file, script).unwrap();
        let output = Command::new(shell).arg("-n").arg(&file).output().unwrap();
        assert!(output.status.success(), "{shell}: {output:?}");
    }
}

#[test]
fn short_names_and_sizes_are_understood() {
    let bench = Bench::new();
    let disk_size = |name: &str| {
        let json = bench.uzram(&["ls", name, "--json", "--output", "disksize,name,mem-limit"]);
        let all: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(all[0]["name"], name);
        (
            all[0]["disksize"].as_u64().unwrap(),
            all[0]["mem-limit"].as_u64().unwrap(),
        )
    };
    // To whole pages.
    bench.create(&["--size=100MB", "--frontend=nbd", "--mem-limit=1.5MB"]);
    assert_eq!(disk_size("zram0"), (100_003_840, 1_503_232));
    bench.create(&["--size=1.5GiB", "--frontend=nbd", "--mem-limit=total:50%"]);
    let memory = sh("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    let memory: u64 = memory.trim().parse().unwrap();
    assert_eq!(disk_size("zram1"), (3 << 29, (memory * 512) & !4095));
    bench.create(&["--size=150%", "--frontend=nbd"]);
    assert_eq!(disk_size("zram2").0, (memory * 1536) & !4095);
    for (size, why) in [("%", "no number"), ("1Gi", "follows"), ("10001%", "10000%")] {
        let said = bench.fails(2, &["create", "--size", size]);
        assert!(said.contains(why), "{said}");
    }
    // Not of a device's size.
    let said = bench.fails(2, &["create", "--log-max", "5%"]);
    assert!(said.contains("unit is unknown"), "{said}");
    bench.uzram(&["rm", "zram0", "zram1", "zram2"]);
    assert_eq!(bench.uzram(&["ls", "--noheadings"]), "");
}

/// The lines of a list on a terminal of so many columns.
fn on_terminal(bench: &Bench, columns: usize, args: &str) -> Vec<String> {
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols {columns} rows 24; {UZRAM} list {args}"))
        .arg("/dev/null")
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(output.status.success(), "{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_list_fits_the_terminal_and_a_pipe_gets_all() {
    needs!(&["script", "stty"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size=64M", "--frontend=nbd"]);
    let lines = on_terminal(&bench, 80, "");
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert!(line.len() <= 80, "{line}");
    }
    assert!(
        lines[1].contains("... ") && lines[1].contains("64M"),
        "{lines:?}"
    );
    // Asked for by name, it is whole; and where there is room.
    for (columns, args) in [(80, "--output name,path"), (300, ""), (80, "--raw")] {
        let lines = on_terminal(&bench, columns, args);
        assert!(lines[1].contains(&uri), "{lines:?}");
    }
    assert!(bench.uzram(&["list"]).contains(&uri));
    // Narrower than what must be there: the numbers stay.
    assert!(on_terminal(&bench, 20, "")[1].contains("64M"));
}

#[test]
fn json_has_the_columns_that_are_asked_for() {
    let bench = Bench::new();
    bench.create(&["--size=64M", "--frontend=nbd"]);
    let json = bench.uzram(&["list", "--json", "--output", "NAME,Data,frontend"]);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        value,
        serde_json::json!([{"name": "zram0", "data": 0, "frontend": "nbd"}])
    );
    let all = bench.uzram(&["list", "--json", "--output-all"]);
    let value: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(value[0]["idle-pages"], 0);
    assert!(value[0].as_object().unwrap().len() > 20);
    // Without columns it is all that is known.
    let value: Value = serde_json::from_str(&bench.uzram(&["list", "--json"])).unwrap();
    assert_eq!(value[0]["orig_data_size"], 0);
    let said = bench.fails(2, &["list", "--json", "--output", "no"]);
    assert!(said.contains("no column 'no'"), "{said}");
    bench.fails(2, &["list", "--json", "--raw"]);
}

#[test]
fn algorithms_come_as_json() {
    let bench = Bench::new();
    let all: Value = serde_json::from_str(&bench.uzram(&["algorithms", "--json"])).unwrap();
    let all = all.as_array().unwrap();
    let registry = uzram::compress::Registry::builtin();
    assert_eq!(all.len(), registry.iter().count());
    for (one, algorithm) in all.iter().zip(registry.iter()) {
        assert_eq!(one["driver"], algorithm.driver_name());
        assert_eq!(
            one["params"].as_array().unwrap().len(),
            algorithm.params().len()
        );
    }
    let zstd = all.iter().find(|one| one["name"] == "zstd").unwrap();
    let level = zstd["params"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "level");
    assert!(level.unwrap()["max"].as_i64() > Some(9), "{zstd}");
    bench.fails(2, &["algorithms", "--json", "--proc-crypto"]);
}

/// A user without devices is told where root's are, and a script is not.
#[test]
fn a_user_without_devices_is_told_of_roots() {
    needs!(&["unshare", "setpriv"]);
    if sh("id -u").trim() != "0" {
        uzram_testkit::peers::skip(uzram_testkit::test_name!(), "not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Where any user may run it.
    let program = folder.path().join("uzram");
    std::fs::copy(UZRAM, &program).unwrap();
    sh(&format!("chmod 755 {}", folder.path().display()));
    let list = |root: &str, args: &str| {
        let script = format!(
            "mount -t tmpfs tmpfs /run; {root} exec setpriv --reuid=65534 --regid=65534 --clear-groups \
             env -u UZRAM_RUN_DIR -u XDG_RUNTIME_DIR {} list {args}",
            program.display()
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = list("mkdir -m 700 /run/uzram;", "");
    assert!(
        told.contains("root's are in /run/uzram: sudo uzram list"),
        "{told}"
    );
    assert_eq!(list("mkdir -m 700 /run/uzram;", "--noheadings"), "");
    assert_eq!(list("mkdir -m 700 /run/uzram;", "--json"), "");
    assert_eq!(list("", ""), "");
}
