//! `uzram create --backing NAME/PREFIX`: idle pages leave the host and come back as they were, whoever dies and whatever is
//! away, and nothing of them stays when the device goes.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text, wait_until};

const SIZE: usize = 16 << 20;

/// A remote `ci` in a directory, and what disks hold.
struct Cold {
    bench: Bench,
    store: PathBuf,
    disk: Vec<u8>,
}

impl Cold {
    fn new() -> Cold {
        let bench = Bench::new();
        let store = bench.path("store");
        fs::create_dir(&store).unwrap();
        let mut disk = text(SIZE / 4096);
        for (number, page) in disk.chunks_mut(4096).enumerate() {
            match number % 16 {
                3 => page.copy_from_slice(&uzram_testkit::data::noise(number as u64)),
                4 => page.fill(0),
                _ => {}
            }
        }
        fs::write(bench.path("disk"), &disk).unwrap();
        let cold = Cold { bench, store, disk };
        let url = format!("file:{}", cold.store.display());
        cold.works(&["remote", "add", "ci", &url]);
        cold
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.bench.command(args);
        command.env("UZRAM_REMOTES", self.bench.path("remotes"));
        command.output().unwrap()
    }

    #[track_caller]
    fn works(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "uzram {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said on stderr.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn create(&self, args: &[&str]) -> String {
        let own = [
            "create",
            "--private",
            "--size=16M",
            "--frontend=nbd",
            "--policy=none",
        ];
        self.works(&[&own[..], args].concat()).trim_end().to_owned()
    }

    /// A device that holds the disk, all of it in the remote.
    fn cold(&self, args: &[&str]) -> String {
        let uri = self.create(args);
        self.fill(&uri);
        self.works(&["writeback", "zram0"]);
        assert_eq!(self.stat()["compr_data_size"], 0);
        uri
    }

    fn fill(&self, uri: &str) {
        let disk = self.bench.path("disk");
        sh(&format!(
            "qemu-img convert -n -f raw -O raw {} '{uri}'",
            disk.display()
        ));
    }

    fn stat(&self) -> serde_json::Value {
        serde_json::from_str(&self.works(&["stat", "--json", "zram0"])).unwrap()
    }

    /// A number of what the store holds.
    fn stored(&self, what: &str) -> u64 {
        self.stat()["backing"]["store"][what].as_u64().unwrap()
    }

    #[track_caller]
    fn holds(&self, uri: &str) {
        let expected = self.bench.path("expected");
        fs::write(&expected, &self.disk).unwrap();
        let args = ["compare", "-f", "raw", "-F", "raw"];
        let done = Command::new("qemu-img")
            .args(args)
            .arg(expected)
            .arg(uri)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Reads and writes some of a device. Whether that works.
    fn io(&self, uri: &str, commands: &[&str]) -> bool {
        let mut io = Command::new("qemu-io");
        io.args(["-f", "raw", "-t", "none"]);
        commands.iter().for_each(|command| {
            io.args(["-c", command]);
        });
        let output = io.arg(uri).output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success() && !words.contains("rror") && !words.contains("failed")
    }

    /// Objects that are in the remote.
    fn objects(&self) -> Vec<PathBuf> {
        let mut files = files(&self.store.join("cold"));
        files.retain(|path| !path.ends_with("owner.json"));
        files
    }

    /// The process that speaks to the store.
    fn reader(&self) -> Vec<u32> {
        let remotes = format!("UZRAM_REMOTES={}", self.bench.path("remotes").display());
        let is_reader = |pid: &u32| {
            let read = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let has = |what, word: &[u8]| read(what).split(|byte| *byte == 0).any(|of| of == word);
            has("cmdline", b"read-remote") && has("environ", remotes.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_reader).collect()
    }

    /// Takes the store away, or gives it back.
    fn away(&self, is_away: bool) {
        let away = self.bench.path("away");
        match is_away {
            true => fs::rename(&self.store, away).unwrap(),
            false => fs::rename(away, &self.store).unwrap(),
        }
    }

    /// Ends it. Nothing is left in the directory but what a remote has.
    fn end(self) {
        self.works(&["remove", "--all"]);
        wait_until("the process ends", || self.reader().is_empty());
        let left = files(&self.store);
        let left: Vec<_> = left.iter().filter(|path| !is_own(path)).collect();
        assert!(left.is_empty(), "{left:?}");
        self.bench.assert_clean();
    }
}

/// Whether it is what every remote in a directory has.
fn is_own(path: &Path) -> bool {
    path.ends_with("uzram.json") || path.ends_with(".lock")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata().is_ok_and(|of| of.is_dir()) {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

#[test]
fn idle_pages_leave_the_host_and_come_back_whoever_dies() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut cold = Cold::new();
    // Objects are sealed on their way, whatever becomes of them.
    let uri = cold.create(&["--backing=ci/cold,1G,seal"]);
    cold.fill(&uri);
    let io = cold.stat()["backing"]["io"].as_str().unwrap().to_owned();
    assert!(io.ends_with(", sealed"), "{io}");
    let used = |cold: &Cold| cold.stat()["mem_used_total"].as_u64().unwrap();
    let before = used(&cold);
    // What is used stays, as far as the budget says.
    cold.works(&["idle", "zram0"]);
    assert!(cold.io(&uri, &["read 0 1M"]));
    cold.works(&["set", "zram0", "writeback_limit=500"]);
    let written = cold.works(&["writeback", "zram0", "--kind=idle"]);
    assert!(
        written.contains("500 pages") && written.contains("used up"),
        "{written}"
    );
    cold.works(&["set", "zram0", "writeback_limit=none"]);
    cold.works(&["writeback", "zram0", "--kind=idle"]);
    let hot = used(&cold);
    assert!(hot < before / 8, "{hot} of {before}");
    let counted = cold.stat();
    // 16 pages of the first MiB are zeros, and so are as many of each MiB.
    assert_eq!(counted["backed_pages"], 15 * 240, "{counted}");
    let sent = cold.stored("put_bytes");
    // Packed: little more than what left the memory.
    let objects = counted["backed_data_size"].as_u64().unwrap();
    assert!(
        sent < objects * 103 / 100 + (64 << 10),
        "{sent} for {objects}"
    );
    assert_eq!(cold.objects().len() as u64, cold.stored("objects"));
    cold.holds(&uri);
    assert_eq!(used(&cold), hot, "reading brings nothing back for good");

    // Parts of cold pages, a discard, and whole pages.
    assert!(cold.io(
        &uri,
        &[
            "write -P 7 4M 512",
            "write -P 8 5244000 9000",
            "discard 6M 1M",
            "write -P 9 7M 64k"
        ]
    ));
    cold.disk[4 << 20..][..512].fill(7);
    cold.disk[5_244_000..][..9000].fill(8);
    cold.disk[6 << 20..][..1 << 20].fill(0);
    cold.disk[7 << 20..][..64 << 10].fill(9);
    cold.holds(&uri);

    // The process that speaks to the store dies, the server, and both.
    for round in 0..3 {
        if round != 1 {
            sh(&format!("kill -9 {}", cold.reader()[0]));
        }
        if round != 0 {
            cold.bench.kill("zram0", "pid");
        }
        cold.holds(&uri);
        assert_eq!(cold.reader().len(), 1);
    }
    cold.works(&["upgrade", "zram0"]);
    cold.holds(&uri);
    let kept = cold.works(&["remote", "collect", "ci", "--grace=0"]);
    assert!(kept.contains("1 leases"), "{kept}");
    cold.holds(&uri);
    let shown = cold.works(&["remote", "show", "ci", "--backings"]);
    assert!(
        shown.contains("ci/cold") && shown.contains("zram0 on"),
        "{shown}"
    );

    // What few pages need is written together and deleted.
    assert!(cold.io(&uri, &["discard 8M 7M"]));
    cold.disk[8 << 20..][..7 << 20].fill(0);
    cold.works(&["compact", "zram0"]);
    wait_until("what nobody needs is deleted", || {
        cold.objects().len() as u64 == cold.stored("objects") && cold.stored("garbage_objects") == 0
    });
    cold.holds(&uri);
    let bytes = |cold: &Cold| {
        cold.objects()
            .iter()
            .map(|o| o.metadata().unwrap().len())
            .sum::<u64>()
    };
    assert_eq!(bytes(&cold), cold.stored("object_bytes"));
    cold.works(&["writeback", "zram0"]);
    cold.holds(&uri);

    // Everything comes back, and the place is given up.
    cold.works(&["promote", "zram0"]);
    assert_eq!(cold.stat()["backed_pages"], 0);
    cold.works(&["writeback", "zram0"]);
    cold.works(&["set", "zram0", "backing=none"]);
    assert!(files(&cold.store).iter().all(|path| is_own(path)));
    wait_until("the process ends", || cold.reader().is_empty());
    cold.holds(&uri);
    cold.works(&["set", "zram0", "backing=ci/cold"]);
    cold.works(&["writeback", "zram0"]);
    cold.holds(&uri);
    // Forgetting all of it needs nothing of the store.
    cold.works(&["reset", "zram0"]);
    wait_until("all is deleted", || cold.objects().is_empty());
    cold.disk.fill(0);
    cold.holds(&uri);
    cold.end();
}

#[test]
fn a_store_that_is_away_harms_nothing_that_is_in_memory() {
    needs!(&["qemu-img", "qemu-io"]);
    let mut cold = Cold::new();
    let uri = cold.cold(&["--backing=ci/cold", "--remote-timeout=3"]);
    // With one page that has an object, for what is to go there.
    assert!(cold.io(&uri, &["write -P 5 1M 64k", "write -P 4 1M 512"]));
    cold.disk[1 << 20..][..64 << 10].fill(5);
    cold.disk[1 << 20..][..512].fill(4);
    cold.away(true);
    std::thread::scope(|scope| {
        // Whoever needs it waits, in numbers, and the others do not.
        let waits: Vec<_> = (0..4)
            .map(|number| {
                let (cold, uri) = (&cold, &uri);
                scope.spawn(move || {
                    let begin = Instant::now();
                    let reads = cold.io(uri, &[&format!("read {}M 64k", 4 + number)]);
                    (reads, begin.elapsed())
                })
            })
            .collect();
        wait_until("they wait", || cold.stored("waiting") >= 4);
        let begin = Instant::now();
        for _ in 0..8 {
            assert!(cold.io(
                &uri,
                &["read -P 5 1028k 60k", "write -P 6 2M 64k", "discard 3M 64k"]
            ));
        }
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(2500), "{took:?}");
        for wait in waits {
            let (reads, took) = wait.join().unwrap();
            assert!(!reads && took >= Duration::from_secs(3), "{took:?}");
            assert!(took < Duration::from_secs(20), "{took:?}");
        }
    });
    cold.disk[2 << 20..][..64 << 10].fill(6);
    cold.disk[3 << 20..][..64 << 10].fill(0);
    assert!(
        !cold.io(&uri, &["write 9M 512"]),
        "part of a page needs the rest"
    );

    // What is to go there stays, in words.
    let words = cold.fails(1, &["writeback", "zram0"]);
    assert!(
        words.contains("stayed in memory") && words.contains("cannot write"),
        "{words}"
    );
    let shown = cold.works(&["stat", "zram0"]);
    assert!(shown.contains("the store: cannot"), "{shown}");
    let words = cold.fails(1, &["set", "zram0", "backing=none"]);
    assert!(
        words.contains("cannot come back") && words.contains("it stays attached"),
        "{words}"
    );

    // Another server begins without it, and so does the process that speaks to it.
    cold.bench.kill("zram0", "pid");
    assert!(cold.io(&uri, &["read -P 4 1M 512", "read -P 6 2M 64k"]));
    assert!(!cold.io(&uri, &["read 4M 4k"]));

    cold.away(false);
    cold.holds(&uri);
    cold.works(&["writeback", "zram0"]);
    cold.holds(&uri);
    cold.end();
}

#[test]
fn what_is_damaged_is_an_error_and_nothing_else_is() {
    needs!(&["qemu-img", "qemu-io"]);
    let cold = Cold::new();
    let uri = cold.cold(&["--backing=ci/cold", "--remote-timeout=2"]);
    let mut objects = cold.objects();
    objects.sort();
    assert!(objects.len() > 1, "{objects:?}");
    let good: Vec<Vec<u8>> = objects.iter().map(|path| fs::read(path).unwrap()).collect();
    let write = |at: usize, bytes: &[u8]| fs::write(&objects[at], bytes).unwrap();

    // The first page's is in the first object, behind its header.
    let mut flipped = good[0].clone();
    flipped[64 + 200] ^= 4;
    write(0, &flipped);
    assert!(!cold.io(&uri, &["read 0 4k"]));
    assert!(cold.io(&uri, &["read 15M 64k"]), "others are read");
    write(0, &good[0]);
    assert!(cold.io(&uri, &["read 0 4k"]));

    // Cut, foreign, and another one's.
    write(0, &good[0][..2000]);
    assert!(!cold.io(&uri, &["read 0 4k"]));
    write(0, b"nothing of uzram's");
    assert!(!cold.io(&uri, &["read 0 4k"]));
    write(0, &good[1]);
    assert!(!cold.io(&uri, &["read 0 4k"]));
    fs::remove_file(&objects[0]).unwrap();
    assert!(!cold.io(&uri, &["read 0 4k"]));
    let stat = cold.works(&["stat", "zram0"]);
    assert!(stat.contains("the store: cannot read"), "{stat}");
    // What is written is there.
    assert!(cold.io(&uri, &["write -P 3 0 4k", "read -P 3 0 4k"]));
    write(0, &good[0]);
    assert!(cold.io(
        &uri,
        &["write -P 7 512 512", "read -P 7 512 512", "read -P 3 1k 3k"]
    ));

    // A file in its place that is nobody's object is left alone.
    fs::write(cold.store.join("cold/cold/notes"), b"mine").unwrap();
    cold.works(&["remote", "collect", "ci", "--grace=0"]);
    cold.works(&["remove", "zram0"]);
    wait_until("the process ends", || cold.reader().is_empty());
    let left = files(&cold.store.join("cold"));
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_file(&left[0]).unwrap();
    cold.end();
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    needs!(&["qemu-img", "qemu-io"]);
    let cold = Cold::new();
    let uri = cold.cold(&["--backing=ci/cold"]);
    let make = ["create", "--private", "--size=16M"];
    let refused = |code, args: &[&str], said: &str| {
        let words = cold.fails(code, &[&make[..], args].concat());
        assert!(words.contains(said), "{args:?}: {words}");
    };
    refused(
        3,
        &["--frontend=nbd", "--backing=ci/cold"],
        "is the backing of zram0 on",
    );
    refused(
        2,
        &["--frontend=ublk", "--backing=ci/other"],
        "cannot serve",
    );
    refused(2, &["--swap", "--backing=ci/other"], "swap must not wait");
    refused(
        2,
        &["--frontend=nbd", "--backing=ci/.x"],
        "no prefix of a backing",
    );
    refused(
        2,
        &["--frontend=nbd", "--backing=ci/other,1M"],
        "16 MiB to 4 TiB",
    );
    refused(
        2,
        &["--frontend=nbd", "--remote-timeout=3"],
        "--backing NAME/PREFIX",
    );
    // As no remote has that name, it is a file's.
    refused(
        2,
        &["--frontend=nbd", "--backing=no/cold,16M"],
        "no such directory",
    );
    let words = cold.fails(2, &["snapshot", "zram0", "ci/cold"]);
    assert!(words.contains("is the backing of"), "{words}");
    cold.works(&["snapshot", "zram0", "ci/warm"]);
    refused(2, &["--frontend=nbd", "--backing=ci/warm"], "is a tag");
    let words = cold.fails(1, &["set", "zram0", "backing=ci/other"]);
    assert!(words.contains("detach it first"), "{words}");
    let words = cold.fails(3, &["remote", "remove", "ci/cold"]);
    assert!(words.contains("--force"), "{words}");
    // Nothing of what was refused is left.
    let backings = cold.works(&["remote", "show", "ci", "--backings", "--json"]);
    let backings: serde_json::Value = serde_json::from_str(&backings).unwrap();
    assert_eq!(backings.as_array().unwrap().len(), 1, "{backings}");
    let leases = fs::read_dir(cold.store.join("lease")).unwrap().count();
    assert_eq!(leases, 1);
    cold.holds(&uri);
    cold.works(&["remote", "remove", "ci/warm"]);
    cold.works(&["remote", "collect", "ci", "--grace=0"]);
    cold.end();
}

#[test]
fn what_cannot_be_deleted_is_told_and_collected_later() {
    needs!(&["qemu-img", "qemu-io"]);
    let cold = Cold::new();
    cold.cold(&["--backing=ci/cold"]);
    let all = cold.objects().len();
    assert!(all > 0);
    // Nobody but the lease keeps them, and whoever collects knows that.
    let deaf = cold.reader()[0];
    cold.away(true);
    let output = cold.run(&["remove", "zram0"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && words.contains("remote collect ci"),
        "{words}"
    );
    cold.bench.assert_clean();
    // It would go on for ten minutes.
    sh(&format!("kill -9 {deaf}"));
    cold.away(false);
    cold.works(&["remote", "collect", "ci", "--grace=0"]);
    assert_eq!(cold.objects().len(), all, "a lease keeps them");
    // Its device is gone as far as can be seen here: another one may have the place.
    let uri = cold.create(&["--backing=ci/cold"]);
    cold.fill(&uri);
    cold.works(&["writeback", "zram0"]);
    let own = cold.stored("objects") as usize;
    assert_eq!(cold.objects().len(), all + own);

    // When the lease of the first one has expired, its objects go, and no others.
    let owner = fs::read_to_string(cold.store.join("cold/cold/owner.json")).unwrap();
    for lease in fs::read_dir(cold.store.join("lease")).unwrap().flatten() {
        let name = lease.file_name().into_string().unwrap();
        if let Some(id) = name.strip_prefix("cold-")
            && !owner.contains(id)
        {
            sh(&format!("touch -d '8 days ago' {}", lease.path().display()));
        }
    }
    cold.works(&["remote", "collect", "ci", "--grace=0"]);
    assert_eq!(cold.objects().len(), own);
    cold.holds(&uri);

    // A host that is gone with its device: by force, and only then.
    for process in ["keeper", "pid"] {
        cold.bench.kill("zram0", process);
    }
    cold.works(&["remove", "--all"]);
    cold.end();
}

/// A bit that is flipped in memory that the device's processes share would be another matter; here the map is cut.
#[test]
fn a_map_that_is_lost_fails_in_words() {
    needs!(&["qemu-img", "qemu-io"]);
    let cold = Cold::new();
    let uri = cold.cold(&["--backing=ci/cold"]);
    let map = cold.bench.run_dir().join("zram0/backing.map");
    let bytes = fs::read(&map).unwrap();
    let file = fs::File::options().write(true).open(&map).unwrap();
    file.write_all_at(&[0; 8], 4096).unwrap();
    sh(&format!("kill -9 {}", cold.stat()["pid"]));
    let log = cold.bench.run_dir().join("zram0/log");
    wait_until("it says so", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("the map of the backing's objects")
    });
    file.write_all_at(&bytes, 0).unwrap();
    wait_until("it is served again", || cold.io(&uri, &["read 0 4k"]));
    cold.holds(&uri);
    cold.end();
}
