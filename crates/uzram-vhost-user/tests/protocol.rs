//! The server against a guest that a test drives: what requests do, and what bad ones do not.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use uzram::Device;
use uzram_testkit::data::noise;
use uzram_testkit::virtio::{
    DISCARD, FLUSH, GET_ID, Guest, NEXT, QUEUE_SIZE, READ, SLOTS, TABLE, WRITABLE, WRITE,
    WRITE_ZEROES,
};
use uzram_vhost_user::{RunningServer, Server};

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SIZE_BYTES: u64 = 8 << 20;
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    device: Arc<Device>,
    path: PathBuf,
    server: Option<RunningServer>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let device = Arc::new(Device::builder(SIZE_BYTES).build().unwrap());
        let mut fixture = Fixture {
            device,
            path,
            server: None,
            _dir: dir,
        };
        fixture.start();
        fixture
    }

    fn start(&mut self) {
        let server = Server::builder("zram7", self.device.clone());
        self.server = Some(server.bind(&self.path).unwrap().start().unwrap());
    }

    fn guest(&self, queues: usize) -> Guest {
        let mut guest = Guest::new(queues);
        guest.connect(&self.path).unwrap();
        guest
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').into()
}

/// A range of a discard.
fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn pages(count: u64, seed: u64) -> Vec<u8> {
    (0..count).flat_map(|page| noise(seed + page)).collect()
}

#[test]
fn every_request_does_what_it_says() {
    let fixture = Fixture::new();
    let mut guest = fixture.guest(2);
    let capacity = guest.config(0, 8).unwrap();
    assert_eq!(capacity, (SIZE_BYTES / 512).to_le_bytes());
    // Aligned to sectors, not to pages.
    let data = pages(12, 1);
    let data = &data[..45 << 10];
    assert_eq!(guest.request(0, WRITE, 3, data, 0), OK);
    assert_eq!(guest.request(1, READ, 3, &[], data.len() as u32), OK);
    assert!(guest.data(1, 0, data.len()) == data);
    let mut stored = vec![0; data.len()];
    fixture.device.read_at(&mut stored, 3 * 512).unwrap();
    assert!(stored == data);

    assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
    assert_eq!(guest.request(0, DISCARD, 0, &range(8, 8, 0), 0), OK);
    assert_eq!(guest.request(0, READ, 8, &[], 4096), OK);
    assert!(guest.data(0, 0, 4096) == [0; 4096]);
    let mut two = range(17, 3, 1);
    two.extend(range(24, 8, 0));
    assert_eq!(guest.request(0, WRITE_ZEROES, 0, &two, 0), OK);
    assert_eq!(guest.request(0, READ, 16, &[], 8192), OK);
    let back = guest.data(0, 0, 8192);
    let was = &data[(16 - 3) * 512..];
    assert!(back[..512] == was[..512] && back[512..2048] == [0; 1536]);
    assert!(back[2048..4096] == was[2048..4096] && back[4096..] == [0; 4096]);
    assert_eq!(guest.request(0, GET_ID, 0, &[], 20), OK);
    assert_eq!(text(&guest.data(0, 0, 20)), "zram7");
}

#[test]
fn what_cannot_be_done_is_an_error_and_has_no_effect() {
    let fixture = Fixture::new();
    let mut guest = fixture.guest(1);
    let data = pages(2, 5);
    assert_eq!(guest.request(0, WRITE, 0, &data, 0), OK);
    let before = fixture.device.stats().orig_data_size_bytes;
    let end = SIZE_BYTES / 512;
    for (what, kind, sector, data, room, status) in [
        (
            "a read past the end",
            READ,
            end - 1,
            &[][..],
            1024,
            IO_ERROR,
        ),
        (
            "a read far past the end",
            READ,
            u64::MAX,
            &[],
            512,
            IO_ERROR,
        ),
        (
            "a write past the end",
            WRITE,
            end - 1,
            &data[..1024],
            0,
            IO_ERROR,
        ),
        (
            "a sum that overflows",
            WRITE,
            u64::MAX / 512,
            &data[..1024],
            0,
            IO_ERROR,
        ),
        ("half a sector read", READ, 0, &[], 256, IO_ERROR),
        ("half a sector written", WRITE, 0, &data[..256], 0, IO_ERROR),
        ("an unknown kind", 99, 0, &[], 512, UNSUPPORTED),
        ("no range", DISCARD, 0, &[], 0, IO_ERROR),
        (
            "half a range",
            DISCARD,
            0,
            &range(0, 8, 0)[..8],
            0,
            IO_ERROR,
        ),
        (
            "a range past the end",
            DISCARD,
            0,
            &range(end, 8, 0),
            0,
            IO_ERROR,
        ),
        (
            "a range too long",
            DISCARD,
            0,
            &range(0, u32::MAX, 0),
            0,
            IO_ERROR,
        ),
        (
            "an unknown flag",
            DISCARD,
            0,
            &range(0, 8, 1),
            0,
            UNSUPPORTED,
        ),
        (
            "an unknown flag",
            WRITE_ZEROES,
            0,
            &range(0, 8, 2),
            0,
            UNSUPPORTED,
        ),
        (
            "one good range before a bad one",
            DISCARD,
            0,
            &[range(0, 8, 0), range(end, 1, 0)].concat(),
            0,
            IO_ERROR,
        ),
        (
            "too many ranges",
            DISCARD,
            0,
            &range(0, 8, 0).repeat(33),
            0,
            IO_ERROR,
        ),
    ] {
        assert_eq!(guest.request(0, kind, sector, data, room), status, "{what}");
    }
    assert_eq!(fixture.device.stats().orig_data_size_bytes, before);
    assert_eq!(guest.request(0, READ, 0, &[], 8192), OK);
    assert!(guest.data(0, 0, 8192) == data);
}

#[test]
fn a_disk_that_is_only_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let device = Arc::new(Device::builder(SIZE_BYTES).build().unwrap());
    device.write_at(&noise(1), 0).unwrap();
    let server = Server::builder("zram7", device.clone()).read_only(true);
    let _server = server.bind(&path).unwrap().start().unwrap();
    let mut guest = Guest::new(1);
    guest.connect(&path).unwrap();
    let all = range(0, 8, 0);
    for (kind, data) in [
        (WRITE, &noise(2)[..]),
        (DISCARD, &all),
        (WRITE_ZEROES, &all),
    ] {
        assert_eq!(guest.request(0, kind, 0, data, 0), IO_ERROR);
    }
    assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
    assert_eq!(guest.request(0, READ, 0, &[], 4096), OK);
    assert!(guest.data(0, 0, 4096) == noise(1));
}

/// Each is answered, and the next request is served.
#[test]
fn descriptors_that_make_no_sense_end_with_their_request() {
    let fixture = Fixture::new();
    let mut guest = fixture.guest(1);
    let slot = guest.slot(0, 0);
    let (data, status, table) = (slot + 4096, slot + 64, slot + 128);
    // A read's header is in the slot from here on.
    assert_eq!(guest.request(0, READ, 0, &[], 512), OK);
    let nowhere = 1 << 50;
    let cases: &[(&str, &[(u64, u32, u16, u16)])] = &[
        ("only a header", &[(slot, 16, 0, 0)]),
        ("only a status", &[(status, 1, WRITABLE, 0)]),
        ("a number beyond the table", &[(slot, 16, NEXT, QUEUE_SIZE)]),
        ("a loop of one", &[(slot, 16, NEXT, 0)]),
        (
            "a loop with a status",
            &[(slot, 16, NEXT, 1), (status, 1, WRITABLE | NEXT, 0)],
        ),
        (
            "a header nowhere",
            &[(nowhere, 16, NEXT, 1), (status, 1, WRITABLE, 0)],
        ),
        (
            "a short header",
            &[(slot, 15, NEXT, 1), (status, 1, WRITABLE, 0)],
        ),
        (
            "a status nowhere",
            &[(slot, 16, NEXT, 1), (nowhere, 1, WRITABLE, 0)],
        ),
        (
            "data nowhere",
            &[
                (slot, 16, NEXT, 1),
                (nowhere, 512, WRITABLE | NEXT, 2),
                (status, 1, WRITABLE, 0),
            ],
        ),
        (
            "data at the end of all addresses",
            &[
                (slot, 16, NEXT, 1),
                (u64::MAX, 512, WRITABLE | NEXT, 2),
                (status, 1, WRITABLE, 0),
            ],
        ),
        (
            "4 GiB of data",
            &[
                (slot, 16, NEXT, 1),
                (data, u32::MAX, WRITABLE | NEXT, 2),
                (status, 1, WRITABLE, 0),
            ],
        ),
        (
            "written before read",
            &[(status, 1, WRITABLE | NEXT, 1), (slot, 16, 0, 0)],
        ),
        ("an empty table", &[(table, 0, TABLE, 0)]),
        ("a table of one and a half", &[(table, 24, TABLE, 0)]),
        ("a table nowhere", &[(nowhere, 32, TABLE, 0)]),
        (
            "a table and more",
            &[(table, 16, TABLE | NEXT, 1), (status, 1, WRITABLE, 0)],
        ),
        ("a table as large as can be", &[(table, !15, TABLE, 0)]),
        ("an empty descriptor", &[(slot, 0, 0, 0)]),
    ];
    for (what, descriptors) in cases {
        for (number, (at, len, flags, next)) in descriptors.iter().enumerate() {
            guest.describe(0, number as u16, *at, *len, *flags, *next);
        }
        guest.offer(0, 0);
        guest.kick(0);
        let answer = guest.wait(0, PATIENCE);
        assert!(matches!(answer, Some((0, _))), "{what}: {answer:?}");
        if *what == "data nowhere" || *what == "a short header" {
            assert_eq!(guest.status(0, 0), IO_ERROR, "{what}");
        }
        assert_eq!(guest.request(0, READ, 0, &[], 512), OK, "after {what}");
    }
    // A table in a table.
    guest.describe_at(table, 0, table, 16, TABLE, 0);
    guest.describe(0, 0, table, 16, TABLE, 0);
    guest.offer(0, 0);
    guest.kick(0);
    assert!(guest.wait(0, PATIENCE).is_some());
    // One that is right: header, 512 bytes, status.
    guest.describe_at(table, 0, slot, 16, NEXT, 1);
    guest.describe_at(table, 1, data, 512, WRITABLE | NEXT, 2);
    guest.describe_at(table, 2, status, 1, WRITABLE, 0);
    guest.describe(0, 0, table, 48, TABLE, 0);
    guest.write(status, &[0xFF]);
    guest.offer(0, 0);
    guest.kick(0);
    assert_eq!(guest.wait(0, PATIENCE), Some((0, 513)));
    assert_eq!(guest.status(0, 0), OK);
}

#[test]
fn a_table_that_was_not_agreed_on_is_an_error() {
    let fixture = Fixture::new();
    let mut guest = Guest::new(1);
    guest.without_features = 1 << 28;
    guest.connect(&fixture.path).unwrap();
    assert_eq!(guest.request(0, READ, 0, &[], 512), OK);
    let slot = guest.slot(0, 0);
    guest.describe_at(slot + 128, 0, slot, 16, NEXT, 1);
    guest.describe_at(slot + 128, 1, slot + 64, 1, WRITABLE, 0);
    guest.describe(0, 0, slot + 128, 32, TABLE, 0);
    guest.offer(0, 0);
    guest.kick(0);
    assert_eq!(guest.wait(0, PATIENCE), Some((0, 0)));
}

#[test]
fn a_ring_that_makes_no_sense_stops_until_it_is_reset() {
    let fixture = Fixture::new();
    for (what, bad) in [
        ("a head beyond the table", true),
        ("more than there can be", false),
    ] {
        let mut guest = fixture.guest(2);
        assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
        match bad {
            true => guest.offer(0, QUEUE_SIZE),
            false => guest.set_available(0, 1 + QUEUE_SIZE + 1),
        }
        guest.kick(0);
        assert_eq!(guest.wait(0, Duration::from_millis(200)), None, "{what}");
        // The other queue is not concerned.
        assert_eq!(guest.request(1, FLUSH, 0, &[], 0), OK, "{what}");
        guest.stop(0).unwrap();
        guest.set_available(0, 1);
        guest.start(0, 1).unwrap();
        assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK, "{what}");
    }
}

#[test]
fn without_events_and_records_requests_are_served_and_a_stop_says_where() {
    let fixture = Fixture::new();
    let mut guest = Guest::new(1);
    guest.without_features = 1 << 29;
    guest.wants_record = false;
    guest.connect(&fixture.path).unwrap();
    for sector in 0..300 {
        assert_eq!(guest.request(0, WRITE, sector * 8, &noise(sector), 0), OK);
    }
    assert_eq!(guest.stop(0).unwrap(), 300);
    guest.start(0, 300).unwrap();
    assert_eq!(guest.request(0, READ, 299 * 8, &[], 4096), OK);
    assert!(guest.data(0, 0, 4096) == noise(299));
}

#[test]
fn full_queues_are_answered_whole() {
    let fixture = Fixture::new();
    let mut guest = fixture.guest(2);
    for round in 0..50u64 {
        for queue in 0..2 {
            for slot in 0..SLOTS {
                let sector = (round % 10 * 64 + queue as u64 * 32 + u64::from(slot)) * 8;
                guest.submit(queue, slot, WRITE, sector, &noise(sector + round), 0);
            }
        }
        for queue in 0..2 {
            let mut seen = [false; SLOTS as usize];
            for _ in 0..SLOTS {
                let (head, _) = guest.wait(queue, PATIENCE).expect("an answer");
                let slot = Guest::slot_of(head);
                assert_eq!(guest.status(queue, slot), OK);
                assert!(!std::mem::replace(&mut seen[usize::from(slot)], true));
            }
        }
    }
}

/// A server that died after it had taken requests, and between the two stores of an answer.
#[test]
fn requests_in_flight_are_executed_by_the_next_server() {
    let mut fixture = Fixture::new();
    let mut guest = fixture.guest(1);
    assert_eq!(guest.request(0, WRITE, 0, &noise(0), 0), OK);
    fixture.server = None;
    for slot in 1..=4 {
        guest.submit(0, slot, WRITE, u64::from(slot) * 8, &noise(slot.into()), 0);
    }
    // It had taken slots 1 to 3, later ones first, and had answered none: 4 was not taken.
    let record = guest.record().unwrap();
    for (slot, counter) in [(1u64, 12u64), (2, 11), (3, 10)] {
        let entry = 16 + slot * 4 * 16;
        record
            .write_all_at(&counter.to_le_bytes(), entry + 8)
            .unwrap();
        record.write_all_at(&[1], entry).unwrap();
    }
    fixture.start();
    guest.connect(&fixture.path).unwrap();
    let mut order = Vec::new();
    for _ in 0..4 {
        let (head, _) = guest.wait(0, PATIENCE).expect("an answer");
        order.push(Guest::slot_of(head));
        assert_eq!(guest.status(0, Guest::slot_of(head)), OK);
    }
    assert_eq!(order, [3, 2, 1, 4]);
    assert_eq!(guest.answer(0), None, "nothing is answered twice");
    for slot in 0..=4 {
        assert_eq!(guest.request(0, READ, slot * 8, &[], 4096), OK);
        assert!(guest.data(0, 0, 4096) == noise(slot), "slot {slot}");
    }
}

#[test]
fn an_orderly_end_answers_what_it_took_and_leaves_the_rest() {
    let mut fixture = Fixture::new();
    let mut guest = fixture.guest(1);
    for round in 0..20u64 {
        for slot in 0..SLOTS {
            let sector = (round * u64::from(SLOTS) + u64::from(slot)) * 8;
            guest.submit(0, slot, WRITE, sector, &noise(sector), 0);
        }
        fixture.server = None;
        assert!(!fixture.path.exists());
        fixture.start();
        guest.connect(&fixture.path).unwrap();
        for _ in 0..SLOTS {
            let (head, _) = guest.wait(0, PATIENCE).expect("an answer");
            assert_eq!(guest.status(0, Guest::slot_of(head)), OK);
        }
        assert_eq!(guest.answer(0), None);
    }
    for page in 0..20 * u64::from(SLOTS) {
        let mut back = [0; 4096];
        fixture.device.read_at(&mut back, page * 4096).unwrap();
        assert!(back == noise(page * 8), "page {page}");
    }
}

#[test]
fn a_disk_has_one_client_at_a_time() {
    let fixture = Fixture::new();
    let mut guest = fixture.guest(1);
    assert!(fixture.server.as_ref().unwrap().peer().is_some());
    assert!(Guest::new(1).connect(&fixture.path).is_err());
    assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
    guest.disconnect();
    let mut next = fixture.guest(1);
    assert_eq!(next.request(0, FLUSH, 0, &[], 0), OK);
}

#[test]
fn messages_that_make_no_sense_end_their_connection_only() {
    let fixture = Fixture::new();
    let message = |code: u32, flags: u32, body: &[u8]| {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend(flags.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let number = |value: u64| value.to_le_bytes();
    let pair = |index: u32, value: u32| [index.to_le_bytes(), value.to_le_bytes()].concat();
    for (what, bytes) in [
        ("noise", noise(3).to_vec()),
        ("an unknown message", message(200, 1, &[])),
        ("another version", message(1, 3, &[])),
        ("a message too long", message(1, 1, &[0; 5000])),
        ("a short body", message(2, 1, &[0; 4])),
        (
            "features that are not offered",
            message(2, 1, &number(u64::MAX)),
        ),
        ("a queue that there is not", message(8, 1, &pair(4000, 64))),
        ("a queue of no descriptors", message(8, 1, &pair(0, 0))),
        ("a queue of 65 descriptors", message(8, 1, &pair(0, 65))),
        ("a base beyond its range", message(10, 1, &pair(0, 70_000))),
        ("a kick without descriptor", message(12, 1, &number(0))),
        (
            "memory without descriptors",
            message(5, 1, &[1, 0, 0, 0, 0, 0, 0, 0]),
        ),
    ] {
        let mut stream = UnixStream::connect(&fixture.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may have closed it before it has read all.
        let _ = stream.write_all(&bytes);
        let end = stream.read(&mut [0; 64]);
        let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(
            matches!(&end, Ok(0)) || end.as_ref().is_err_and(reset),
            "{what}: {end:?}"
        );
    }
    let mut guest = fixture.guest(1);
    assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest writes into descriptors, its requests come back, and the next good one is served.
    #[test]
    fn any_descriptors_are_answered(
        descriptors in prop::collection::vec(
            (0u16..8, 0u64..9, prop_oneof![0u32..40, 500u32..520, any::<u32>()], 0u16..8, 0u16..10),
            8,
        ),
        inner in prop::collection::vec((0u64..9, 0u32..600, 0u16..8, 0u16..10), 4),
        heads in prop::collection::vec(0u16..8, 1..6),
        kind in prop_oneof![0u32..14, any::<u32>()],
        sector in prop_oneof![0u64..16, any::<u64>()],
    ) {
        let fixture = Fixture::new();
        let mut guest = fixture.guest(1);
        let slot = guest.slot(0, 1);
        let place = |which: u64| match which {
            0..=4 => slot + which * 64,
            5 => slot + 4096,
            6 => 1 << 40,
            7 => u64::MAX - 3,
            _ => 0,
        };
        // Not into the rings: what a guest does to these is another matter.
        let checked = |which, flags| match which == 8 && flags & WRITABLE != 0 {
            true => slot,
            false => place(which),
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        guest.write(slot, &header);
        for (number, (at, len, flags, next)) in inner.iter().enumerate() {
            guest.describe_at(slot + 256, number as u16, checked(*at, *flags), *len, *flags, *next);
        }
        for (number, at, len, flags, next) in &descriptors {
            let at = checked(*at, *flags);
            guest.describe(0, *number, at, *len, *flags, *next);
        }
        for head in &heads {
            guest.offer(0, *head);
        }
        guest.kick(0);
        for _ in &heads {
            prop_assert!(guest.wait(0, PATIENCE).is_some());
        }
        prop_assert_eq!(guest.request(0, FLUSH, 0, &[], 0), OK);
    }
}
