//! `uzram send --lazy`: the other host's device, here one of another run directory, is there at once, and has all in the end, whoever
//! is killed and whatever is cut in between. Never do both sides take writes.

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};
use uzram_testkit::certificates::Authority;

const SIZE: usize = 64 << 20;
/// Bytes that are read or written at once: 1024 places.
const PIECE: usize = 64 << 10;
/// Pieces from here on repeat a byte that is theirs.
const PATTERNS: usize = 400;
/// The last one that holds anything.
const END: usize = 512;
const SOME: u64 = 1 << 20;
const ALL: u64 = u64::MAX;

fn pattern(piece: usize) -> u8 {
    (piece % 200) as u8 + 17
}

fn disk() -> Vec<u8> {
    let mut bytes = text(SIZE / 4096);
    for (number, page) in bytes.chunks_mut(4096).enumerate() {
        let piece = number * 4096 / PIECE;
        match piece {
            0..256 if number % 2 == 0 => {
                page.copy_from_slice(&uzram_testkit::data::noise(number as u64));
            }
            0..PATTERNS => {}
            PATTERNS..END => page.fill(pattern(piece)),
            _ => page.fill(0),
        }
    }
    bytes
}

/// Between the two sides: passes on so many bytes a second from the first to the second, and can be cut.
struct Valve {
    rate: Arc<AtomicU64>,
    is_cut: Arc<AtomicBool>,
    path: PathBuf,
}

impl Valve {
    fn new(path: PathBuf, to: PathBuf, rate: u64) -> Valve {
        let (rate, is_cut) = (
            Arc::new(AtomicU64::new(rate)),
            Arc::new(AtomicBool::new(false)),
        );
        let listener = UnixListener::bind(&path).unwrap();
        let (own_rate, own_cut) = (rate.clone(), is_cut.clone());
        std::thread::spawn(move || {
            while let Ok((here, _)) = listener.accept() {
                let there = UnixStream::connect(&to).unwrap();
                let (mut from, mut back) = (there.try_clone().unwrap(), here.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut back);
                    let _ = back.shutdown(Shutdown::Write);
                });
                let (rate, is_cut) = (own_rate.clone(), own_cut.clone());
                std::thread::spawn(move || pass(here, there, &rate, &is_cut));
            }
        });
        Valve { rate, is_cut, path }
    }

    fn set(&self, rate: u64) {
        self.rate.store(rate, SeqCst);
    }

    fn cut(&self) {
        self.is_cut.store(true, SeqCst);
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, rate: &AtomicU64, is_cut: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    while !is_cut.load(SeqCst) {
        let most = match rate.load(SeqCst) {
            0 => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            rate => rate,
        };
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
                if most != ALL {
                    std::thread::sleep(Duration::from_secs_f64(count as f64 / most as f64));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let how = match is_cut.load(SeqCst) {
        true => Shutdown::Both,
        false => Shutdown::Write,
    };
    let _ = (to.shutdown(how), from.shutdown(how));
}

/// A command that goes on, of which a line was read.
struct Going {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Going {
    fn new(mut command: Command) -> Going {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Going { child, out }
    }

    /// The path that it prints.
    fn path(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut words = String::new();
            let mut stderr = self.child.stderr.take().unwrap();
            stderr.read_to_string(&mut words).unwrap();
            panic!("no path: {words}");
        }
        line.trim().to_owned()
    }

    #[track_caller]
    fn ends(self, code: i32) -> String {
        let output = self.child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words}");
        words
    }
}

/// Two hosts, and a device on the first.
struct Hosts {
    here: Bench,
    there: Bench,
    uri: String,
    disk: Vec<u8>,
    numbers: AtomicU64,
}

/// A device that is on its way.
struct OnItsWay {
    valve: Valve,
    sending: Going,
    receiving: Going,
    path: String,
}

impl Hosts {
    fn new() -> Hosts {
        let (here, there) = (Bench::new(), Bench::new());
        let size = SIZE.to_string();
        let uri = here.create(&["--size", &size, "--frontend=nbd", "--policy=none"]);
        let disk = disk();
        let data = here.path("data");
        fs::write(&data, &disk).unwrap();
        let data = data.display();
        sh(&format!("qemu-img convert -n -f raw -O raw {data} '{uri}'"));
        Hosts {
            here,
            there,
            uri,
            disk,
            numbers: AtomicU64::new(0),
        }
    }

    /// Begins to send by a valve, and waits until the device is there.
    fn begin(&self, rate: u64, args: &[&str]) -> OnItsWay {
        let number = self.numbers.fetch_add(1, SeqCst);
        let socket = self.there.path(&format!("peer{number}"));
        let address = format!("unix:{}", socket.display());
        let mut command = self.there.command(&["receive", "--from", &address]);
        command.args(["--frontend=nbd", "--policy=none"]).args(args);
        let mut receiving = Going::new(command);
        let begin = Instant::now();
        while !socket.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        let valve = Valve::new(self.here.path(&format!("valve{number}")), socket, rate);
        let to = valve.address();
        let command = self.here.command(&["send", "zram0", "--lazy", "--to", &to]);
        let mut sending = Going::new(command);
        let path = sending.path();
        assert_eq!(receiving.path(), path);
        OnItsWay {
            valve,
            sending,
            receiving,
            path,
        }
    }

    fn missing(&self) -> u64 {
        self.there.count("zram0", "remote_pages")
    }

    #[track_caller]
    fn is_same(&self, uri: &str) {
        let file = self.here.path("expected");
        fs::write(&file, &self.disk).unwrap();
        let file = file.to_str().unwrap();
        let args = ["compare", "-f", "raw", "-F", "raw", file, uri];
        let compared = Command::new("qemu-img").args(args).output().unwrap();
        assert!(compared.status.success(), "{compared:?}");
    }

    /// Writes a piece there or here, and expects it from then on.
    #[track_caller]
    fn write(&mut self, uri: &str, piece: usize, pattern: u8) {
        good(&io(
            uri,
            &format!("write -P {pattern} {} {PIECE}", piece * PIECE),
        ));
        self.disk[piece * PIECE..][..PIECE].fill(pattern);
    }

    /// The device here answers nothing, and its server knows why.
    #[track_caller]
    fn is_handed_over(&self) {
        bad(&read(&self.uri, END - 1));
        bad(&io(&self.uri, &format!("write -P 1 0 {PIECE}")));
        let words = self.here.uzram(&["stat", "zram0"]);
        assert!(words.contains("another host's"), "{words}");
    }

    /// Both have ended well, and all is there.
    #[track_caller]
    fn arrives(&self, going: OnItsWay) {
        going.valve.set(ALL);
        let words = going.sending.ends(0);
        assert!(words.contains("the other side has all of zram0"), "{words}");
        going.receiving.ends(0);
        self.here.assert_clean();
        assert_eq!(self.missing(), 0);
        let words = self.there.uzram(&["stat", "zram0"]);
        assert!(!words.contains("clone of"), "{words}");
        self.is_same(&going.path);
    }
}

fn io(uri: &str, command: &str) -> Output {
    let mut io = Command::new("qemu-io");
    io.args(["-f", "raw", "-t", "none", "-c", command, uri]);
    io.output().unwrap()
}

fn read(uri: &str, piece: usize) -> Output {
    io(
        uri,
        &format!("read -P {} {} {PIECE}", pattern(piece), piece * PIECE),
    )
}

fn words_of(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[track_caller]
fn good(output: &Output) {
    let words = words_of(output);
    let is_good = output.status.success() && !words.contains("failed") && !words.contains("rror");
    assert!(is_good, "{words}");
}

#[track_caller]
fn bad(output: &Output) {
    let words = words_of(output);
    assert!(words.contains("Input/output error"), "{words}");
}

#[test]
fn a_device_is_there_at_once_and_has_all_in_the_end() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut hosts = Hosts::new();
    let going = hosts.begin(SOME, &[]);
    let (uri, before) = (going.path.clone(), hosts.missing());
    assert!(before > 6000, "{before} of 8192 pages");
    let words = hosts.there.uzram(&["stat", "zram0"]);
    assert!(
        words.contains("clone of") && words.contains("zram0 of "),
        "{words}"
    );
    // What is asked for comes before the rest.
    for piece in [END - 1, PATTERNS + 7, PATTERNS + 60] {
        good(&read(&uri, piece));
    }
    assert!(hosts.missing() > 1000, "a read waited for all of it");
    // What is written there stays, whether it was there or not: whole pages, and a part of one.
    hosts.write(&uri, END - 2, 3);
    hosts.write(&uri, 10, 4);
    hosts.write(&uri, END + 5, 5);
    let at = (END - 9) * PIECE;
    good(&io(&uri, &format!("write -P 9 {} 512", at + 1024)));
    hosts.disk[at + 1024..][..512].fill(9);
    // Here nothing goes on, and nothing is lost by mistake.
    hosts.is_handed_over();
    let refused = hosts.here.fails(3, &["remove", "zram0"]);
    assert!(refused.contains("has not all of it yet"), "{refused}");
    let refused = hosts.here.fails(3, &["send", "zram0", "--", "cat"]);
    assert!(refused.contains("was handed over with --lazy"), "{refused}");
    let refused = hosts.here.output(&["snapshot", "zram0", "-"]);
    assert!(!refused.status.success());
    // And there no snapshot of a half of it is taken.
    let file = hosts.there.path("half");
    let refused = hosts
        .there
        .fails(3, &["snapshot", "zram0", file.to_str().unwrap()]);
    assert!(refused.contains("uzram hydrate"), "{refused}");
    // Nor does it go on to a third one.
    for args in [&["send", "zram0", "--lazy"][..], &["send", "zram0"]] {
        let output = hosts.there.output(&[args, &["--", "cat"]].concat());
        let words = words_of(&output);
        assert_eq!(output.status.code(), Some(3), "{words}");
        assert!(words.contains("uzram hydrate"), "{words}");
    }
    hosts.arrives(going);
    hosts.there.remove_last("zram0");
}

#[test]
fn little_and_nothing_arrive_as_well() {
    needs!(&["qemu-img", "qemu-io"]);
    for (size, bytes) in [(4096, 0), (1 << 20, 0), (1 << 20, 1 << 20)] {
        let (here, there) = (Bench::new(), Bench::new());
        let uri = here.create(&["--size", &size.to_string(), "--frontend=nbd"]);
        let mut expected = vec![0; size];
        if bytes > 0 {
            good(&io(&uri, "write -P 7 0 1M"));
            expected.fill(7);
        }
        let program = env!("CARGO_BIN_EXE_uzram");
        let run = there.run_dir().display().to_string();
        let script = format!("UZRAM_RUN_DIR='{run}' '{program}' receive --frontend nbd");
        let path = here.uzram(&["send", "zram0", "--lazy", "--", "sh", "-c", &script]);
        here.assert_clean();
        let file = there.path("now");
        sh(&format!(
            "qemu-img convert -f raw -O raw '{}' {}",
            path.trim(),
            file.display()
        ));
        assert!(fs::read(&file).unwrap() == expected);
        there.remove_last("zram0");
    }
}

#[test]
fn what_is_written_while_it_comes_is_what_is_read() {
    needs!(&["qemu-img", "qemu-io", "fio"]);
    let mut hosts = Hosts::new();
    let going = hosts.begin(SOME, &[]);
    sh(&format!(
        "cd {} && fio --name=all --ioengine=nbd '--uri={}' --rw=randrw --bs=4k --size=16M --io_size=24M --iodepth=16 \
         --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=3",
        hosts.there.path("").display(),
        going.path
    ));
    assert!(hosts.missing() > 0, "it had come before");
    // What fio wrote is what is expected there.
    let file = hosts.there.path("now");
    going.valve.set(ALL);
    sh(&format!(
        "qemu-img convert -f raw -O raw '{}' {}",
        going.path,
        file.display()
    ));
    let now = fs::read(&file).unwrap();
    let written = 16 << 20;
    hosts.disk[..written].copy_from_slice(&now[..written]);
    hosts.arrives(going);
    hosts.there.remove_last("zram0");
}

#[test]
fn a_connection_that_is_cut_costs_what_is_missing_until_the_same_commands_go_on() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut hosts = Hosts::new();
    let going = hosts.begin(SOME, &["--remote-timeout=1"]);
    let uri = going.path.clone();
    good(&read(&uri, END - 1));
    going.valve.cut();
    let words = going.sending.ends(1);
    assert!(
        words.contains("is kept here") && words.contains("--take-back"),
        "{words}"
    );
    let words = going.receiving.ends(1);
    assert!(words.contains("still missing here"), "{words}");
    // What is missing fails after its time, and in words; all else goes on.
    let begin = Instant::now();
    bad(&read(&uri, END - 13));
    assert!((1..15).contains(&begin.elapsed().as_secs()));
    good(&read(&uri, END - 1));
    hosts.write(&uri, END - 13, 77);
    let words = hosts.there.uzram(&["stat", "zram0"]);
    assert!(words.contains("the connection has ended"), "{words}");
    assert!(words.contains("once more go on"), "{words}");
    let log = fs::read_to_string(hosts.there.run_dir().join("zram0/log")).unwrap();
    assert!(log.contains("the connection has ended"), "{log}");
    hosts.is_handed_over();
    // Whoever dies meanwhile knows it still.
    hosts.here.kill("zram0", "pid");
    hosts.is_handed_over();
    hosts.there.kill("zram0", "pid");
    bad(&read(&uri, END - 17));
    good(&read(&uri, END - 1));
    // To another device it does not go.
    let stranger = Bench::new();
    let run = stranger.run_dir().display().to_string();
    let program = env!("CARGO_BIN_EXE_uzram");
    let script = format!("UZRAM_RUN_DIR='{run}' '{program}' receive --frontend nbd");
    let words = hosts
        .here
        .fails(1, &["send", "zram0", "--lazy", "--", "sh", "-c", &script]);
    assert!(words.contains("no device here is what zram0 of"), "{words}");
    stranger.assert_clean();
    hosts.is_handed_over();
    // A second time it is cut, and the third time all arrives.
    let again = hosts.begin(SOME, &[]);
    assert_eq!(again.path, uri);
    good(&read(&uri, END - 17));
    again.valve.cut();
    again.sending.ends(1);
    again.receiving.ends(1);
    let again = hosts.begin(SOME, &[]);
    hosts.arrives(again);
    hosts.there.remove_last("zram0");
}

#[test]
fn servers_may_die_in_the_middle() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut hosts = Hosts::new();
    let going = hosts.begin(SOME / 2, &[]);
    let uri = going.path.clone();
    for round in 0..4u8 {
        hosts.there.kill("zram0", "pid");
        good(&read(&uri, PATTERNS + 8 * usize::from(round)));
        hosts.write(&uri, END - 1 - usize::from(round), round + 1);
        hosts.here.kill("zram0", "pid");
        good(&read(&uri, PATTERNS + 40 + 8 * usize::from(round)));
        bad(&io(&hosts.uri, &format!("write -P 1 0 {PIECE}")));
    }
    assert!(
        hosts.missing() > 0,
        "nothing was left to be fetched when they died"
    );
    hosts.here.kill("zram0", "keeper");
    hosts.there.kill("zram0", "keeper");
    hosts.arrives(going);
    // The next server of it needs nobody.
    hosts.there.kill("zram0", "pid");
    hosts.is_same(&uri);
    hosts.there.remove_last("zram0");
}

#[test]
fn where_the_commands_are_killed_the_same_go_on() {
    needs!(&["qemu-img", "qemu-io"]);
    let hosts = Hosts::new();
    let mut going = hosts.begin(SOME, &[]);
    going.receiving.child.kill().unwrap();
    let words = going.sending.ends(1);
    assert!(words.contains("again goes on with it"), "{words}");
    going.receiving.child.wait().unwrap();
    let mut going = hosts.begin(SOME, &[]);
    going.sending.child.kill().unwrap();
    going.sending.child.wait().unwrap();
    going.receiving.ends(1);
    hosts.is_handed_over();
    // Two at once: the later one goes on.
    let first = hosts.begin(SOME, &[]);
    let going = hosts.begin(SOME, &[]);
    let words = first.receiving.ends(3);
    assert!(
        words.contains("another connection has taken its place"),
        "{words}"
    );
    first.sending.ends(1);
    hosts.arrives(going);
    hosts.there.remove_last("zram0");
}

#[test]
fn where_the_other_side_fails_before_the_device_goes_on_here() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut hosts = Hosts::new();
    let program = env!("CARGO_BIN_EXE_uzram");
    let run = hosts.there.run_dir();
    let receive = format!("UZRAM_RUN_DIR='{}' '{program}' receive", run.display());
    for (args, script, said) in [
        (&[][..], "exit 0".into(), "nothing has changed here"),
        (
            &[],
            "head -c 100 >/dev/null".into(),
            "nothing has changed here",
        ),
        (
            &["--patience=1"],
            "cat >/dev/null; sleep 5".into(),
            "has named no device within 1 s",
        ),
        (
            &["--patience=1"],
            "sleep 5".into(),
            "has taken nothing for 1 s",
        ),
        (
            &[],
            "echo nonsense that is long enough; cat >/dev/null".into(),
            "no message",
        ),
        (
            &[],
            format!("{receive} --frontend ublk"),
            "frontend ublk cannot",
        ),
        (&[], format!("{receive} --swap"), "no swap"),
        (
            &[],
            format!("{receive} --frontend nbd --size 1M"),
            "too little",
        ),
        (
            &[],
            format!("head -c 300 | {receive} --frontend nbd"),
            "nothing has changed here",
        ),
        // All arrives, and the answer does not.
        (
            &["--patience=3"],
            format!("{receive} --frontend nbd >/dev/null"),
            "nothing has changed here",
        ),
    ] {
        let all = [
            &["send", "zram0", "--lazy"],
            args,
            &["--", "sh", "-c", &script],
        ]
        .concat();
        let output = hosts.here.output(&all);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{script}: {words}");
        assert!(words.contains(said), "{script}: {words}");
        let uri = hosts.uri.clone();
        hosts.write(&uri, 3, 1);
        hosts.is_same(&uri);
        let begin = Instant::now();
        while !hosts.there.uzram(&["list", "--noheadings"]).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{script}");
            std::thread::sleep(Duration::from_millis(50));
        }
        hosts.there.assert_clean();
    }
    // What is no --lazy has nothing to wait for.
    let script = format!("{receive} --frontend nbd --remote-timeout 1");
    let output = hosts
        .here
        .output(&["send", "zram0", "--", "sh", "-c", &script]);
    assert!(words_of(&output).contains("--remote-timeout is for"));
    for args in [
        &["--lazy", "--rounds=3"][..],
        &["--lazy", "--take-back"],
        &["--take-back", "--to", "unix:/x"],
    ] {
        let refused = hosts.here.fails(2, &[&["send", "zram0"], args].concat());
        assert!(refused.contains("cannot be used with"), "{refused}");
    }
    let refused = hosts.here.output(&["send", "zram0", "--take-back"]);
    assert!(words_of(&refused).contains("was not handed over"));
    hosts.here.remove_last("zram0");
}

#[test]
fn a_device_whose_other_side_is_lost_is_taken_back() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut hosts = Hosts::new();
    let going = hosts.begin(SOME, &[]);
    // It is lost with all that was written there.
    good(&io(&going.path, &format!("write -P 5 0 {PIECE}")));
    hosts.there.uzram(&["remove", "zram0"]);
    let words = going.receiving.ends(4);
    assert!(
        words.contains("was removed before all of it was here"),
        "{words}"
    );
    going.sending.ends(1);
    hosts.is_handed_over();
    hosts.here.uzram(&["send", "zram0", "--take-back"]);
    let uri = hosts.uri.clone();
    hosts.is_same(&uri);
    hosts.write(&uri, 7, 8);
    hosts.here.kill("zram0", "pid");
    hosts.is_same(&uri);
    // It can go again, and be given up by force.
    let going = hosts.begin(SOME, &[]);
    assert!(hosts.missing() > 0);
    going.valve.cut();
    going.sending.ends(1);
    going.receiving.ends(1);
    hosts.here.uzram(&["remove", "zram0", "--force"]);
    hosts.here.assert_clean();
    hosts.there.remove_last("zram0");
}

#[test]
fn by_a_command_and_by_tls_it_goes_as_well() {
    needs!(&["qemu-img", "qemu-io", "openssl"]);
    let hosts = Hosts::new();
    let program = env!("CARGO_BIN_EXE_uzram");
    let run = hosts.there.run_dir();
    let script = format!(
        "UZRAM_RUN_DIR='{}' '{program}' receive --frontend nbd --policy none",
        run.display()
    );
    let sent = hosts
        .here
        .output(&["send", "zram0", "--lazy", "--", "sh", "-c", &script]);
    assert!(sent.status.success(), "{}", words_of(&sent));
    let uri = String::from_utf8(sent.stdout).unwrap().trim().to_owned();
    hosts.here.assert_clean();
    hosts.is_same(&uri);
    // And back by TLS, where one side shows no good certificate at first.
    let dir = hosts.here.path("certificates");
    fs::create_dir(&dir).unwrap();
    let authority = Authority::new(&dir);
    let server = authority.vouch("server", "serverAuth");
    let client = authority.vouch("client", "clientAuth");
    let mut command = hosts
        .here
        .command(&["receive", "--from", "tls:127.0.0.1:0"]);
    command
        .args(["--frontend=nbd", "--policy=none", "--certificates"])
        .arg(&server);
    let mut receiving = Going::new(command);
    let mut words = BufReader::new(receiving.child.stderr.take().unwrap());
    let mut line = String::new();
    words.read_line(&mut line).unwrap();
    let (_, address) = line.trim().split_once("waits at ").expect("an address");
    let send = |certificates: &Path| {
        let mut command = hosts
            .there
            .command(&["send", "zram0", "--lazy", "--to", address]);
        command
            .arg("--certificates")
            .arg(certificates)
            .output()
            .unwrap()
    };
    let sent = send(&client);
    assert!(sent.status.success(), "{}", words_of(&sent));
    let back = receiving.path();
    assert_eq!(String::from_utf8(sent.stdout).unwrap().trim(), back);
    assert!(receiving.child.wait().unwrap().success());
    hosts.there.assert_clean();
    hosts.is_same(&back);
    hosts.here.remove_last("zram0");
}
