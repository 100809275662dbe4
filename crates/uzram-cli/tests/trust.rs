//! Whose the run directory, the files and the sockets are, asked by the real program: what other users made is neither
//! used nor touched, and a refusal leaves nothing.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use common::{Bench, have};

/// A user that this machine need not know.
const STRANGER: u32 = 54321;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changing owners takes root. Without it the test is skipped.
fn as_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    let reason = match root {
        true => Ok(()),
        false => Err("needs root, to make files of other users".to_owned()),
    };
    uzram_testkit::peers::possible(test, reason)
}

/// Demands an exit code and words on stderr.
fn refused(output: &Output, code: i32, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(stderr.contains(words), "{words}: {stderr}");
}

/// Nothing was made in the run directory.
fn nothing_in(bench: &Bench) {
    let entries = fs::read_dir(bench.run_dir())
        .into_iter()
        .flatten()
        .flatten();
    let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == ".lock"), "{left:?}");
}

/// Whoever makes /tmp/uzram-UID first is not trusted: his links are not followed, his daemon is not asked.
#[test]
fn a_planted_run_directory_is_not_used() {
    if !as_root("a_planted_run_directory_is_not_used") {
        return;
    }
    let bench = Bench::new();
    let precious = bench.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis"), "x").unwrap();
    fs::write(precious.join("lock"), "").unwrap();
    let planted = bench.run_dir();
    fs::create_dir(&planted).unwrap();
    symlink(&precious, planted.join("zram0")).unwrap();
    chown(&planted, Some(STRANGER), None).unwrap();
    let commands: &[&[&str]] = &[
        &["list"],
        &["stat", "zram0"],
        &["remove", "--all"],
        &["create", "--size", "8M", "--frontend", "nbd"],
        &["create", "--size", "8M", "--frontend", "nbd", "--private"],
        &[
            "create",
            "--size",
            "8M",
            "--frontend",
            "nbd",
            "--foreground",
        ],
        &["set", "zram0", "mem_limit=8M"],
        &["get", "zram0"],
        &["list", "--find"],
        &["daemon"],
    ];
    for args in commands {
        refused(&bench.output(args), 5, "cannot be trusted");
    }
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 2);
    assert_eq!(fs::read_dir(&planted).unwrap().count(), 1);

    // His own again, but open to all; then with the link alone.
    chown(&planted, Some(0), None).unwrap();
    set_mode(&planted, 0o777);
    refused(&bench.output(&["list"]), 5, "others may write");
    set_mode(&planted, 0o700);
    assert!(bench.output(&["list"]).status.success());
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 2);
    fs::remove_file(planted.join("zram0")).unwrap();
}

#[test]
fn a_run_directory_may_have_a_long_path() {
    let bench = Bench::new();
    let long = bench.path(&"x".repeat(180));
    let run = |args: &[&str]| {
        let output = bench.command(args).env("UZRAM_RUN_DIR", &long).output();
        output.unwrap()
    };
    let socket = format!("unix:{}", bench.path("s").display());
    let created = run(&["create", "--size", "8M", "-f", "nbd", "--listen", &socket]);
    assert!(created.status.success(), "{created:?}");
    let stat = run(&["stat", "zram0", "--json"]);
    assert!(stat.status.success(), "{stat:?}");
    // The default socket is for clients, who have no way around.
    let refusal = run(&["create", "--size", "8M", "-f", "nbd"]);
    refused(&refusal, 2, "with --listen unix:PATH");
    let removed = run(&["remove", "--all"]);
    assert!(removed.status.success(), "{removed:?}");
    let left: Vec<_> = fs::read_dir(&long).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn files_of_other_users_are_refused_unless_allowed() {
    if !as_root("files_of_other_users_are_refused_unless_allowed") {
        return;
    }
    let bench = Bench::new();
    let strangers = bench.path("strangers");
    fs::create_dir(&strangers).unwrap();
    for (name, owner, mode) in [("his", STRANGER, 0o600), ("open", 0, 0o666)] {
        let path = strangers.join(name);
        fs::write(&path, [7; 4096]).unwrap();
        chown(&path, Some(owner), None).unwrap();
        set_mode(&path, mode);
    }
    let path = |name: &str| strangers.join(name).display().to_string();
    let all_of = |option: &str, value: String, words: &str| {
        let size = ["create", "--size", "8M", "-f", "nbd", option, &value];
        refused(&bench.output(&size), 2, words);
        nothing_in(&bench);
        value
    };
    for name in ["his", "open"] {
        all_of(
            "--backing",
            format!("{},16M", path(name)),
            "allow-foreign-files",
        );
        all_of(
            "--algorithm",
            format!("zstd(dict={})", path(name)),
            "dictionary",
        );
    }
    // What could be put in the place of the file or the socket.
    // The server, which gives up its rights over others' files, may make files there all the same.
    chown(&strangers, Some(STRANGER), None).unwrap();
    set_mode(&strangers, 0o777);
    let said = format!("belongs to user {STRANGER}");
    all_of("--backing", format!("{},16M", path("new")), &said);
    let socket = all_of("--listen", format!("unix:{}", path("new.sock")), &said);
    assert!(!strangers.join("new").exists());

    let created = bench.create(&[
        "--size",
        "8M",
        "--listen",
        &socket,
        "--algorithm",
        &format!("zstd(dict={})", path("his")),
        "--allow-foreign-files",
    ]);
    assert!(created.contains("new.sock"), "{created}");
    // A device that allows them goes on allowing them; another does not.
    let backing = format!("backing={},16M", path("new"));
    bench.uzram(&["set", "zram0", &backing]);
    bench.create(&["--size", "8M", "-f", "nbd"]);
    let backing = format!("backing={},16M", path("another"));
    refused(
        &bench.output(&["set", "zram1", &backing]),
        2,
        "allow-foreign-files",
    );
    bench.uzram(&["set", "zram1", &backing, "--allow-foreign-files"]);
    let dictionary = format!("algorithm=zstd(dict={})", path("his"));
    refused(
        &bench.output(&["set", "zram1", &dictionary]),
        2,
        "allow-foreign-files",
    );
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

/// Paths are absolute from the start, whatever directory they were given in; those that are no text are refused.
#[test]
fn relative_paths_are_the_callers_and_odd_ones_are_refused() {
    let bench = Bench::new();
    let here = bench.path("here");
    let odd = bench.path("").join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("d"), [7; 4096]).unwrap();
    let create = |dir: &Path, args: &[&str]| {
        let all = [&["create", "--size", "8M", "-f", "nbd"], args].concat();
        bench.command(&all).current_dir(dir).output().unwrap()
    };
    let made = create(&here, &["--listen", "unix:rel.sock", "--backing", "b,1.5M"]);
    assert!(made.status.success(), "{made:?}");
    assert!(here.join("rel.sock").exists());
    assert_eq!(fs::metadata(here.join("b")).unwrap().len(), 3 << 19);
    bench.uzram(&["remove", "--all"]);
    for args in [
        ["--listen", "unix:rel.sock"],
        ["--backing", "b,16M"],
        ["--algorithm", "zstd(dict=d)"],
    ] {
        refused(&create(&odd, &args), 2, "UTF-8");
    }
    assert_eq!(fs::read_dir(&odd).unwrap().count(), 1);
    let list = |run: &OsStr| {
        let output = bench.command(&["list"]).env("UZRAM_RUN_DIR", run).output();
        output.unwrap()
    };
    refused(&list(odd.join("run").as_os_str()), 2, "UTF-8");
    nothing_in(&bench);
}

#[test]
fn values_that_are_not_possible_have_exit_code_2() {
    let bench = Bench::new();
    let empty = bench.path("empty");
    fs::write(&empty, "").unwrap();
    let long = format!("unix:{}", bench.path(&"x".repeat(120)).display());
    let empty_one = empty.display().to_string();
    let small = format!("{empty_one},1K");
    for (option, value) in [
        ("--backing", "/no/such/directory/b,16M"),
        ("--backing", "/dev/null/b,16M"),
        ("--backing", "/tmp"),
        ("--backing", &empty_one),
        ("--backing", &small),
        ("--listen", "unix:/no/such/directory/s"),
        ("--listen", "unix:/dev/null/s"),
        ("--listen", "tcp:192.0.2.1:10809"),
        ("--listen", &long),
        ("--size", "1.5"),
    ] {
        bench.fails(2, &["create", "-f", "nbd", option, value]);
    }
    bench.fails(
        2,
        &[
            "create",
            "-f",
            "nbd",
            "--allow-remote",
            "--listen",
            "tcp:192.0.2.1:1",
        ],
    );
    nothing_in(&bench);
}

/// What a device's processes say of it is shown by the terminal, and not obeyed.
#[test]
fn texts_of_others_are_escaped() {
    let bench = Bench::new();
    bench.create(&["--size", "8M", "-f", "nbd"]);
    let path = bench.run_dir().join("zram0/device.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (honest, evil) = (
        record["path"].clone(),
        "nbd:\u{1b}]0;owned\u{7}\u{9b}2J\nzram9",
    );
    record["path"] = evil.into();
    fs::write(&path, record.to_string()).unwrap();
    for args in [
        &["list"][..],
        &["stat", "zram0"],
        &["list", "--json"],
        &["stat", "zram0", "-J"],
    ] {
        let shown = bench.uzram(args);
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(obeyed), "{args:?}: {shown:?}");
    }
    assert_eq!(bench.uzram(&["list", "--noheadings"]).lines().count(), 1);
    assert_eq!(bench.stat("zram0")["path"], evil);
    record["path"] = honest;
    fs::write(&path, record.to_string()).unwrap();
    let wrong = bench.output(&["remove", "zram\u{1b}[2J"]);
    refused(&wrong, 4, "\\u{1b}");
    bench.remove_last("zram0");
}

/// A record that is read just before its device goes names another device a moment later: that one must not be touched.
#[test]
fn another_device_of_the_name_is_not_touched() {
    let bench = Bench::new();
    bench.create(&["--size", "8M", "-f", "nbd"]);
    let path = bench.run_dir().join("zram0/device.json");
    let text = fs::read_to_string(&path).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let identity = record["identity"].as_str().unwrap();
    assert_eq!(identity.len(), 32);
    let old = "0".repeat(32);
    fs::write(&path, text.replace(identity, &old)).unwrap();
    for args in [
        &["remove", "zram0"][..],
        &["reset", "zram0"],
        &["set", "zram0", "mem_limit=4M"],
        &["stat", "zram0"],
        &["recover", "zram0"],
        &["upgrade", "zram0"],
    ] {
        let words = "another one has its name";
        refused(&bench.output(args), 4, words);
    }
    fs::write(&path, &text).unwrap();
    assert_eq!(bench.count("zram0", "mem_limit"), 0);
    bench.remove_last("zram0");
}

/// Who answers at a device's socket, or at the daemon's, is asked nothing if he is another user.
#[test]
fn a_strangers_socket_is_not_asked() {
    let test = "a_strangers_socket_is_not_asked";
    if !as_root(test) || !have(test, &["perl", "setpriv"], false) {
        return;
    }
    let bench = Bench::new();
    let theirs = bench.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(STRANGER), None).unwrap();
    set_mode(bench.path("").as_path(), 0o711);
    bench.create(&["--size", "8M", "-f", "nbd"]);
    let listen = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 9) or die; \
        while (my $c = $s->accept) { print STDERR <$c>; }";
    let heard = bench.path("heard");
    let socket = theirs.join("s");
    let mut child = Command::new("setpriv")
        .args([
            "--reuid",
            &STRANGER.to_string(),
            "--clear-groups",
            "perl",
            "-e",
            listen,
        ])
        .arg(&socket)
        .stderr(fs::File::create(&heard).unwrap())
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // As if he had got them there: root's own directory leads to his sockets.
    let own = bench.run_dir().join("zram0/control.sock");
    let kept = bench.path("kept.sock");
    fs::rename(&own, &kept).unwrap();
    symlink(&socket, &own).unwrap();
    refused(
        &bench.output(&["stat", "zram0"]),
        5,
        "neither root nor this user",
    );
    fs::rename(&kept, &own).unwrap();
    symlink(&socket, bench.run_dir().join("uzramd.sock")).unwrap();
    bench.create(&["--size", "8M", "-f", "nbd"]);
    fs::remove_file(bench.run_dir().join("uzramd.sock")).unwrap();
    bench.uzram(&["remove", "--all"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(&heard).unwrap(), "");
    bench.assert_clean();
}
