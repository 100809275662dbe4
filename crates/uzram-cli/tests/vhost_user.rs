//! The frontend `vhost-user` by the program: servers that die under load, who uses a device, options, clones.

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Bench, sh};
use uzram_testkit::Random;
use uzram_testkit::data::{noise, record_page};
use uzram_testkit::virtio::{Guest, READ, SLOTS, WRITE};

const PATIENCE: Duration = Duration::from_secs(60);
const QUEUES: usize = 2;
/// Bytes of a request, and its pages.
const BYTES: usize = 16 << 10;
const PAGES: u64 = BYTES as u64 / 4096;
/// Requests that fit on the disk side by side.
const PLACES: u64 = 256;

fn create(bench: &Bench, args: &[&str]) -> String {
    bench.create(&[&["--frontend=vhost-user"], args].concat())
}

fn connect(guest: &mut Guest, path: &str) {
    let begin = Instant::now();
    while let Err(error) = guest.connect(Path::new(path)) {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a place holds: it takes a slow algorithm a while.
fn contents(seed: u64) -> Vec<u8> {
    let page = |page: u64| record_page(seed * PAGES + page);
    (0..PAGES).flat_map(page).collect()
}

/// A disk under random reads and writes, with as many in flight as there can be.
struct Load {
    guest: Guest,
    random: Random,
    /// What each place holds: the seed of its last write that was answered.
    disk: HashMap<u64, u64>,
    /// The place of each slot's request, and the seed where it is a write.
    in_flight: HashMap<(usize, u16), (u64, Option<u64>)>,
    writes: u64,
}

impl Load {
    fn new(path: &str) -> Load {
        let mut guest = Guest::new(QUEUES);
        connect(&mut guest, path);
        Load {
            guest,
            random: Random::new(7),
            disk: HashMap::new(),
            in_flight: HashMap::new(),
            writes: 0,
        }
    }

    /// Fills all slots that are free.
    fn submit(&mut self) {
        for queue in 0..QUEUES {
            for slot in 0..SLOTS {
                if self.in_flight.contains_key(&(queue, slot)) {
                    continue;
                }
                let place = self.random.below(PLACES);
                if self.in_flight.values().any(|(other, _)| *other == place) {
                    continue;
                }
                let sector = place * PAGES * 8;
                let is_write = self.random.below(3) > 0;
                let seed = match is_write {
                    true => {
                        self.writes += 1;
                        let data = contents(self.writes);
                        self.guest.submit(queue, slot, WRITE, sector, &data, 0);
                        Some(self.writes)
                    }
                    false => {
                        let room = BYTES as u32;
                        self.guest.submit(queue, slot, READ, sector, &[], room);
                        None
                    }
                };
                self.in_flight.insert((queue, slot), (place, seed));
            }
        }
    }

    /// Checks an answer.
    fn take(&mut self, queue: usize, head: u32) {
        let slot = Guest::slot_of(head);
        let (place, seed) = self
            .in_flight
            .remove(&(queue, slot))
            .expect("an answer to what was asked, once");
        assert_eq!(self.guest.status(queue, slot), 0, "place {place}");
        match seed {
            Some(seed) => {
                self.disk.insert(place, seed);
            }
            None => {
                let back = self.guest.data(queue, slot, BYTES);
                let wanted = self.disk.get(&place);
                let wanted = wanted.map_or(vec![0; BYTES], |seed| contents(*seed));
                assert!(back == wanted, "place {place} is not what was written");
            }
        }
    }

    /// Takes all answers that are there.
    fn collect(&mut self) {
        for queue in 0..QUEUES {
            while let Some((head, _)) = self.guest.answer(queue) {
                self.take(queue, head);
            }
        }
    }

    /// Waits for all answers.
    fn finish(&mut self) {
        for queue in 0..QUEUES {
            while self.in_flight.keys().any(|(of, _)| *of == queue) {
                let answer = self.guest.wait(queue, PATIENCE);
                let (head, _) = answer.expect("no answer is lost");
                self.take(queue, head);
            }
        }
    }
}

#[test]
fn servers_that_are_killed_and_upgraded_lose_nothing() {
    let bench = Bench::new();
    let size = (PLACES * BYTES as u64).to_string();
    let path = create(
        &bench,
        &[
            "--size",
            &size,
            "--policy=none",
            "--algorithm=zstd(level=15)",
        ],
    );
    let mut load = Load::new(&path);
    for round in 0..12 {
        let server = bench.count("zram0", "pid");
        let until = Instant::now() + Duration::from_millis(50 + 20 * round);
        while Instant::now() < until {
            load.submit();
            load.collect();
        }
        load.submit();
        match round % 4 {
            3 => {
                bench.uzram(&["upgrade", "zram0"]);
            }
            // At once, while requests are executed.
            _ => {
                sh(&format!("kill -9 {server}"));
                bench.wait_for("zram0", |record| record["pid"] != server);
            }
        }
        connect(&mut load.guest, &path);
        load.finish();
    }
    // Or nothing of this was shown.
    let log = std::fs::read_to_string(bench.run_dir().join("zram0/log")).unwrap();
    let again = log.matches("executing again").count();
    assert!(again >= 3, "requests were in flight {again} times: {log}");
    // All of it once more, from beginning to end.
    for place in 0..PLACES {
        let status = load
            .guest
            .request(1, READ, place * PAGES * 8, &[], BYTES as u32);
        assert_eq!(status, 0);
        let wanted = load.disk.get(&place);
        let wanted = wanted.map_or(vec![0; BYTES], |seed| contents(*seed));
        assert!(load.guest.data(1, 0, BYTES) == wanted, "place {place}");
    }
    load.guest.disconnect();
    bench.remove_last("zram0");
}

#[test]
fn a_client_is_a_user_of_the_device() {
    let bench = Bench::new();
    let path = create(&bench, &["--size=4M"]);
    assert!(path.ends_with("/zram0/vhost-user.sock"), "{path}");
    assert!(
        bench
            .uzram(&["stat", "zram0"])
            .contains("used by      nobody")
    );
    let mut guest = Guest::new(1);
    connect(&mut guest, &path);
    let said = bench.fails(3, &["remove", "zram0"]);
    let by = format!(
        "1 vhost-user client is connected: pid {} ",
        std::process::id()
    );
    assert!(said.contains(&by), "{said}");
    assert_eq!(guest.request(0, WRITE, 0, &noise(1), 0), 0);
    let stat = bench.uzram(&["stat", "zram0"]);
    assert!(
        stat.contains("used by      1 client is connected"),
        "{stat}"
    );
    let said = bench.fails(3, &["set", "zram0", "disksize=8M"]);
    assert!(said.contains("cannot be told another size"), "{said}");
    // Its memory is here.
    let said = bench.fails(3, &["send", "zram0", "--", "false"]);
    assert!(said.contains("cannot follow to another host"), "{said}");
    guest.disconnect();
    bench.uzram(&["set", "zram0", "disksize=8M"]);
    connect(&mut guest, &path);
    assert_eq!(guest.config(0, 8).unwrap(), (8u64 << 11).to_le_bytes());
    assert_eq!(guest.request(0, READ, 0, &[], 4096), 0);
    assert!(guest.data(0, 0, 4096) == noise(1));
    let said = bench.output(&["remove", "zram0", "--force"]);
    assert!(said.status.success());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.contains("zram0: disconnected 1 vhost-user client: pid "),
        "{said}"
    );
    bench.assert_clean();
}

#[test]
fn options_choose_the_socket_and_what_cannot_be_is_refused() {
    let bench = Bench::new();
    let socket = bench.path("disk.sock");
    let socket = socket.to_str().unwrap();
    let listen = format!("--listen=unix:{socket}");
    assert_eq!(create(&bench, &["--size=4M", &listen]), socket);
    let mut guest = Guest::new(1);
    connect(&mut guest, socket);
    assert_eq!(guest.request(0, WRITE, 0, &noise(2), 0), 0);
    guest.disconnect();
    bench.remove_last("zram0");
    assert!(!Path::new(socket).exists());
    let long = format!("--listen=unix:/tmp/{}", "x".repeat(120));
    for (args, said) in [
        (&["--listen=tcp:127.0.0.1:0"][..], "unix:PATH"),
        (
            &["--listen=unix:/no/such/directory/s"],
            "cannot listen on unix:/no/such",
        ),
        (&[&long], "and the system takes 107"),
        (&["--queues=2"], "--queues is for --frontend"),
        (
            &["--max-connections=2"],
            "--max-connections is for --frontend nbd",
        ),
        (&["--swap"], "cannot be swap"),
        (
            &["--allow-uid=nobody", "--listen=unix:/root/s"],
            "cannot reach",
        ),
    ] {
        let all = [&["create", "--size=4M", "--frontend=vhost-user"], args].concat();
        let words = bench.fails(2, &all);
        assert!(words.contains(said), "{args:?}: {words}");
        bench.assert_clean();
    }
}

/// What waits for the source holds up nothing, and a server that dies meanwhile loses nothing.
#[test]
fn a_lazy_clone_is_fetched_as_it_is_read() {
    let bench = Bench::new();
    let path = create(&bench, &["--size=16M", "--policy=none"]);
    let mut guest = Guest::new(1);
    connect(&mut guest, &path);
    for page in 0..4096u64 {
        assert_eq!(guest.request(0, WRITE, page * 8, &noise(page), 0), 0);
    }
    guest.disconnect();
    let file = bench.path("snapshot");
    let file = file.to_str().unwrap();
    bench.uzram(&["snapshot", "zram0", file]);
    bench.remove_last("zram0");

    let path = create(&bench, &["--from", file, "--lazy", "--policy=none"]);
    let mut guest = Guest::new(QUEUES);
    connect(&mut guest, &path);
    for round in 0..4u64 {
        for queue in 0..QUEUES {
            for slot in 0..SLOTS {
                let page = (round * 64 + queue as u64 * 32 + u64::from(slot)) * 15;
                guest.submit(queue, slot, READ, page * 8, &[], 4096);
            }
        }
        if round == 1 {
            bench.kill("zram0", "pid");
            connect(&mut guest, &path);
        }
        for queue in 0..QUEUES {
            for _ in 0..SLOTS {
                let (head, _) = guest.wait(queue, PATIENCE).expect("an answer");
                let slot = Guest::slot_of(head);
                let page = (round * 64 + queue as u64 * 32 + u64::from(slot)) * 15;
                assert_eq!(guest.status(queue, slot), 0, "page {page}");
                assert!(guest.data(queue, slot, 4096) == noise(page), "page {page}");
            }
        }
    }
    let remote = bench.count("zram0", "remote_pages");
    assert!(remote > 0, "not all was fetched, or nothing was waited for");
    // Part of a page that is not here is written.
    let page = 4000;
    assert_eq!(guest.request(0, WRITE, page * 8 + 1, &[9; 512], 0), 0);
    assert_eq!(guest.request(1, READ, page * 8, &[], 4096), 0);
    let mut wanted = noise(page);
    wanted[512..1024].fill(9);
    assert!(guest.data(1, 0, 4096) == wanted);
    guest.disconnect();
    bench.remove_last("zram0");
}
