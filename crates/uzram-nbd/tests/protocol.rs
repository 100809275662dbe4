//! The protocol, message by message, over a raw socket: each option, each command, and each kind of misuse.

mod common;

use common::*;
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener, net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use uzram_nbd::{Error, Export, Listen, Server};

fn be<const N: usize>(bytes: &[u8]) -> u64 {
    bytes[..N].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[test]
fn greeting_offers_fixed_newstyle_without_zeroes() {
    let fixture = Fixture::new(MIB);
    assert_eq!(fixture.haggling().server_flags, 3);
    let mut unknown_flag = Client::greeted(UnixStream::connect(&fixture.path).unwrap().into(), 4);
    assert!(unknown_flag.is_closed());
}

#[test]
fn export_name_ends_the_negotiation_with_and_without_zeroes() {
    let fixture = Fixture::new(MIB);
    for (flags, padding) in [(1, 124), (3, 0)] {
        for name in ["zram0", ""] {
            let mut client =
                Client::greeted(UnixStream::connect(&fixture.path).unwrap().into(), flags);
            client.send_option(opt::EXPORT_NAME, name.as_bytes());
            assert_eq!(client.u64(), MIB);
            assert_eq!(client.u16() & 1, 1);
            assert!(client.bytes(padding).iter().all(|b| *b == 0));
            assert_eq!(client.write(0, b"abc").error, 0);
        }
    }
    let mut client = fixture.haggling();
    client.send_option(opt::EXPORT_NAME, b"other");
    assert!(client.is_closed());
}

#[test]
fn info_tells_what_was_asked_for_and_go_begins() {
    let fixture = Fixture::new(3 * MIB);
    let mut client = fixture.haggling();
    for option in [opt::INFO, opt::GO] {
        let mut replies = client.option(option, &info_request("", &[3, 1, 2, 99]));
        assert_eq!(replies.pop_if(|_| true).unwrap().0, rep::ACK);
        assert!(replies.iter().all(|(kind, _)| *kind == rep::INFO));
        let infos: HashMap<u64, &[u8]> =
            replies.iter().map(|(_, d)| (be::<2>(d), &d[2..])).collect();
        assert_eq!(infos.len(), 4);
        assert_eq!(be::<8>(infos[&0]), 3 * MIB);
        // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO; no DF without structured replies.
        assert_eq!(be::<2>(&infos[&0][8..]), 0b1101_0110_1101);
        assert_eq!(infos[&1], b"zram0");
        assert_eq!(infos[&2], b"a test");
        let sizes = infos[&3];
        assert_eq!(
            (be::<4>(sizes), be::<4>(&sizes[4..]), be::<4>(&sizes[8..])),
            (1, 4096, 32 << 20)
        );
    }
    assert_eq!(client.read(0, 10).data, [0; 10]);
}

#[test]
fn info_refuses_what_is_unknown_or_malformed_and_goes_on() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    assert_eq!(
        client.verdict(opt::GO, &info_request("other", &[])),
        rep::ERR_UNKNOWN
    );
    let good = info_request("zram0", &[3]);
    for cut in 0..good.len() {
        assert_eq!(
            client.verdict(opt::INFO, &good[..cut]),
            rep::ERR_INVALID,
            "{cut} bytes"
        );
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(client.verdict(opt::INFO, &long), rep::ERR_INVALID);
    assert_eq!(client.verdict(opt::INFO, &[0xff; 6]), rep::ERR_INVALID);
    client.go("zram0");
}

#[test]
fn list_names_every_export() {
    let fixture = Fixture::with(MIB, |b| b.export(Export::new("second", device(2 * MIB))));
    let mut client = fixture.haggling();
    let replies = client.option(opt::LIST, &[]);
    let expected: [(u32, &[u8]); 3] = [
        (rep::SERVER, b"\0\0\0\x05zram0a test"),
        (rep::SERVER, b"\0\0\0\x06second"),
        (rep::ACK, b""),
    ];
    assert!(
        replies
            .iter()
            .map(|(kind, data)| (*kind, &data[..]))
            .eq(expected)
    );
    assert_eq!(client.verdict(opt::LIST, b"x"), rep::ERR_INVALID);
    let replies = client.option(opt::GO, &info_request("second", &[]));
    assert_eq!(be::<8>(&replies[0].1[2..]), 2 * MIB);
}

#[test]
fn other_options_are_refused_and_abort_is_acknowledged() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ERR_UNSUP);
    assert_eq!(client.verdict(opt::STARTTLS, b"x"), rep::ERR_INVALID);
    assert_eq!(client.verdict(0xdead_beef, &[7; 65536]), rep::ERR_UNSUP);
    assert_eq!(
        client.verdict(opt::STRUCTURED_REPLY, b"x"),
        rep::ERR_INVALID
    );
    assert_eq!(client.verdict(opt::ABORT, &[]), rep::ACK);
    assert!(client.is_closed());
}

#[test]
fn huge_or_bad_options_end_the_connection() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    let mut header = IHAVEOPT.to_be_bytes().to_vec();
    header.extend([0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
    client.send(&header);
    assert_eq!(
        (client.u64(), client.u32(), client.u32()),
        (REPLY_MAGIC, opt::GO, rep::ERR_TOO_BIG)
    );
    let len = client.u32() as usize;
    client.bytes(len);
    assert!(client.is_closed());
    let mut client = fixture.haggling();
    client.send(&[b'G'; 16]);
    assert!(client.is_closed());
    fixture.simple();
}

#[test]
fn meta_contexts_are_listed_and_selected() {
    let fixture = Fixture::with(MIB, |b| b.export(Export::new("second", device(MIB))));
    let mut client = fixture.haggling();
    let all = context_request("zram0", &[]);
    for option in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        assert_eq!(
            client.verdict(option, &all),
            rep::ERR_INVALID,
            "structured replies come first"
        );
    }
    assert_eq!(client.verdict(opt::STRUCTURED_REPLY, &[]), rep::ACK);
    for (option, queries, found) in [
        (opt::LIST_META_CONTEXT, &[][..], true),
        (opt::LIST_META_CONTEXT, &["base:"], true),
        (opt::LIST_META_CONTEXT, &["x-foo:bar"], false),
        (opt::SET_META_CONTEXT, &[], false),
        (opt::SET_META_CONTEXT, &["base:"], false),
        (
            opt::SET_META_CONTEXT,
            &["qemu:dirty-bitmap:x", "base:allocation"],
            true,
        ),
    ] {
        let replies = client.option(option, &context_request("", queries));
        assert_eq!(
            replies.len(),
            1 + usize::from(found),
            "{option} {queries:?}"
        );
        if found {
            assert_eq!(replies[0].0, rep::META_CONTEXT);
            assert_eq!(replies[0].1[4..], *b"base:allocation");
        }
    }
    assert_eq!(
        client.verdict(opt::SET_META_CONTEXT, &context_request("none", &[])),
        rep::ERR_UNKNOWN
    );
    let good = context_request("zram0", &["base:allocation"]);
    for cut in 0..good.len() {
        assert_eq!(
            client.verdict(opt::SET_META_CONTEXT, &good[..cut]),
            rep::ERR_INVALID,
            "{cut} bytes"
        );
    }
    // A count that the data cannot hold must not make the server work for it.
    let mut many = good[..9].to_vec();
    many.extend([0xff; 4]);
    assert_eq!(
        client.verdict(opt::SET_META_CONTEXT, &many),
        rep::ERR_INVALID
    );
    // A failed selection leaves none.
    client.go("zram0");
    assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 4096).error, EINVAL);

    // A selection for one export does not hold for another.
    let mut client = fixture.haggling();
    client.negotiate_structured("zram0");
    client.go("second");
    assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 4096).error, EINVAL);
}

#[test]
fn commands_do_what_they_say() {
    let fixture = Fixture::new(4 * MIB);
    for mut client in [fixture.simple(), fixture.structured(), fixture.extended()] {
        for flags in [0, FUA] {
            let data = noise(1, 9999);
            assert_eq!(client.write_with(flags, 5001, &data).error, 0);
            assert_eq!(client.read_with(flags, 5001, 9999).data, data);
            assert_eq!(client.read(5000, 10001).data[0], 0);
            assert_eq!(client.command(flags, cmd::WRITE_ZEROES, 5001, 100).error, 0);
            assert_eq!(
                client
                    .command(flags | NO_HOLE | FAST_ZERO, cmd::WRITE_ZEROES, 8000, 1999)
                    .error,
                0
            );
            let mut expected = data;
            expected[..100].fill(0);
            expected[2999..4998].fill(0);
            assert_eq!(client.read(5001, 9999).data, expected);
            assert_eq!(client.command(flags, cmd::CACHE, 0, 4096).error, 0);
            assert_eq!(client.command(flags, cmd::FLUSH, 0, 0).error, 0);
            assert_eq!(client.command(flags, cmd::TRIM, 0, 4 << 20).error, 0);
            assert!(client.read(0, 4 << 20).data.iter().all(|b| *b == 0));
        }
        for kind in [
            cmd::READ,
            cmd::WRITE,
            cmd::TRIM,
            cmd::CACHE,
            cmd::WRITE_ZEROES,
        ] {
            assert_eq!(
                client.command(0, kind, 0, 0).error,
                0,
                "nothing to do is no error"
            );
        }
        assert_eq!(client.read(7, 0).error, 0);
    }
    for mut client in [fixture.structured(), fixture.extended()] {
        assert_eq!(client.read_with(DF, 7, 0).error, 0);
    }
}

#[test]
fn requests_larger_than_any_buffer_are_streamed() {
    let fixture = Fixture::new(40 * MIB);
    let sizes = [
        (0, 262_144),
        (1, 600_001),
        (4096, 3 << 20),
        (12345, 32 << 20),
    ];
    for (offset, len) in sizes {
        let data = noise(offset, len);
        let mut simple = fixture.simple();
        assert_eq!(simple.write_with(FUA, offset, &data).error, 0);
        assert!(simple.read(offset, len as u32).data == data);
        for mut client in [fixture.structured(), fixture.extended()] {
            assert_eq!(client.write_with(FUA, offset, &data).error, 0);
            assert!(client.read(offset, len as u32).data == data);
            let unfragmented = client.read_with(DF, offset, len as u32);
            assert!(unfragmented.data == data);
            assert_eq!(unfragmented.chunks, (1, 0));
            assert_eq!(
                client.read(offset, 1).data,
                data[..1],
                "the stream is still in step"
            );
            assert_eq!(client.command(0, cmd::TRIM, 0, 40 << 20).error, 0);
        }
    }
}

#[test]
fn holes_are_not_sent_as_data() {
    let fixture = Fixture::new(MIB);
    holes(fixture.structured());
    fixture.device.reset();
    holes(fixture.extended());
}

fn holes(mut client: Client) {
    assert_eq!(client.read(0, 1 << 20).chunks, (0, 1));
    client.write(8192, &noise(1, 4096));
    client.command(NO_HOLE, cmd::WRITE_ZEROES, 16384, 4096);
    let answer = client.read(100, 65536);
    assert_eq!(answer.chunks, (1, 2));
    assert_eq!(answer.data[8092..12188], noise(1, 4096));
    let whole = client.read_with(DF, 100, 65536);
    assert_eq!(whole.chunks, (1, 0));
    assert_eq!(whole.data, answer.data);
}

#[test]
fn block_status_tells_holes_zeros_and_data() {
    let fixture = Fixture::new(32 * MIB);
    status(fixture.structured());
    fixture.device.reset();
    status(fixture.extended());
}

fn status(mut client: Client) {
    assert_eq!(
        client.command(0, cmd::BLOCK_STATUS, 0, 32 << 20).status,
        [(32 << 20, 3)]
    );
    client.write(8192, &noise(1, 8192));
    client.write(16384, &[0; 4096]);
    let expected = [(8192 - 1, 3), (8192, 0), (4096, 2), (100, 3)];
    assert_eq!(
        client.command(0, cmd::BLOCK_STATUS, 1, 20479 + 100).status,
        expected
    );
    assert_eq!(
        client.command(REQ_ONE, cmd::BLOCK_STATUS, 1, 20579).status,
        expected[..1]
    );
    assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 0).error, EINVAL);
    // A chequered device has more runs than one reply may carry: the reply is shorter, never longer.
    for page in (0..8192).step_by(2) {
        client.write(page * 4096, &[page as u8 | 1]);
    }
    let status = client.command(0, cmd::BLOCK_STATUS, 0, 32 << 20).status;
    assert_eq!(status.len(), 4096);
    assert_eq!(status[4095], (4096, 3));
    let next = client
        .command(0, cmd::BLOCK_STATUS, 16 << 20, 16 << 20)
        .status;
    assert_eq!(next[0], (4096, 0));
}

fn misuse(mut client: Client) {
    let end = MIB;
    for (kind, error) in [
        (cmd::READ, EINVAL),
        (cmd::TRIM, EINVAL),
        (cmd::CACHE, EINVAL),
        (cmd::BLOCK_STATUS, EINVAL),
        (cmd::WRITE_ZEROES, ENOSPC),
    ] {
        for (offset, len) in [
            (end - 1, 2),
            (end, 1),
            (u64::MAX, 1),
            (u64::MAX - 3, 8),
            (0, u32::MAX),
        ] {
            let answer = client.command(0, kind, offset, len);
            let error = match len > 32 << 20 && kind == cmd::READ && client.extended {
                true => EOVERFLOW,
                false => error,
            };
            assert_eq!(answer.error, error, "{kind} {offset} {len}");
            assert!(!answer.message.is_empty());
        }
    }
    for offset in [end - 1, end, u64::MAX, u64::MAX - 2] {
        assert_eq!(client.write(offset, b"xyz").error, ENOSPC);
    }
    for (flags, kind) in [
        (0, 8),
        (0, 0xffff),
        (NO_HOLE, cmd::READ),
        (1 << 9, cmd::READ),
        (REQ_ONE, cmd::TRIM),
        (DF, cmd::FLUSH),
        (DF, cmd::CACHE),
        (REQ_ONE, cmd::WRITE_ZEROES),
        (FAST_ZERO, cmd::BLOCK_STATUS),
    ] {
        assert_eq!(
            client.command(flags, kind, 0, 1).error,
            EINVAL,
            "{flags:#x} {kind}"
        );
    }
    assert_eq!(
        client.write_with(DF, 0, b"payload is skipped").error,
        EINVAL
    );
    assert_eq!(
        client.read(0, 18).data,
        [0; 18],
        "a refused write has no effect"
    );
}

#[test]
fn misuse_gets_the_error_the_protocol_names() {
    let fixture = Fixture::new(MIB);
    misuse(fixture.structured());
    misuse(fixture.extended());
    let end = MIB;
    let mut client = fixture.simple();
    assert_eq!(
        client.command(DF, cmd::READ, 0, 1).error,
        EINVAL,
        "DF needs structured replies"
    );
    assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 1).error, EINVAL);
    assert_eq!(client.command(0, cmd::READ, end, 1).error, EINVAL);
    assert_eq!(
        client.write(end, &noise(1, 2 << 20)).error,
        ENOSPC,
        "a streamed write, refused and skipped"
    );
    assert_eq!(client.read(0, 4).data, [0; 4]);
}

#[test]
fn oversized_requests_are_refused_in_bounded_memory() {
    let fixture = Fixture::new(80 * MIB);
    let mut client = fixture.simple();
    assert_eq!(
        client.command(0, cmd::READ, 0, (32 << 20) + 1).error,
        EINVAL
    );
    assert_eq!(
        client.write(0, &vec![1; (32 << 20) + 1]).error,
        EINVAL,
        "skipped"
    );
    assert_eq!(client.read(0, 1).data, [0]);
    client.request(0, cmd::WRITE, 1, 0, u32::MAX);
    assert!(client.is_closed(), "too large to be skipped");
}

#[test]
fn read_only_exports_refuse_changes() {
    let dir = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(dir.path().join("s"));
    let export = Export::new("ro", device(MIB)).read_only(true);
    let handle = Server::builder()
        .export(export)
        .bind(&listen)
        .unwrap()
        .start()
        .unwrap();
    let mut client = Client::greeted(UnixStream::connect(dir.path().join("s")).unwrap().into(), 3);
    let replies = client.option(opt::GO, &info_request("ro", &[]));
    assert_eq!(be::<2>(&replies[0].1[10..]) & 2, 2);
    assert_eq!(client.write(0, b"x").error, EPERM);
    for kind in [cmd::TRIM, cmd::WRITE_ZEROES] {
        assert_eq!(client.command(0, kind, 0, 4096).error, EPERM);
    }
    assert_eq!(client.command(0, cmd::FLUSH, 0, 0).error, 0);
    assert_eq!(client.read(0, 1).data, [0]);
    handle.shutdown().unwrap();
}

#[test]
fn many_requests_in_flight_are_answered_in_any_order() {
    let fixture = Fixture::new(16 * MIB);
    let mut client = fixture.simple();
    for round in 0..20 {
        let count = 200;
        let mut messages = Vec::new();
        for i in 0..count {
            // Sizes around the inline limit and some that share buffers with the next.
            let len = [4096, 512, 20_000, 50_000][i as usize % 4];
            messages.extend(request(0, cmd::WRITE, i, i * 65536, len));
            messages.extend(noise(i + round, len as usize));
        }
        let mut writer = match &client.stream {
            Stream::Unix(stream) => stream.try_clone().unwrap(),
            _ => unreachable!(),
        };
        let sender = thread::spawn(move || writer.write_all(&messages).unwrap());
        let mut seen: Vec<u64> = (0..count)
            .map(|_| match client.message() {
                Message::Simple { error: 0, cookie } => cookie,
                other => panic!("{other:?}"),
            })
            .collect();
        sender.join().unwrap();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..count), "each cookie once");
        let reads: Vec<u8> = (0..count)
            .flat_map(|i| request(0, cmd::READ, i, i * 65536, 512))
            .collect();
        client.send(&reads);
        for _ in 0..count {
            let Message::Simple { error: 0, cookie } = client.message() else {
                panic!()
            };
            assert!(
                client.bytes(512) == noise(cookie + round, 512),
                "the data of request {cookie}"
            );
        }
    }
}

#[test]
fn replies_of_all_sizes_stay_whole() {
    let fixture = Fixture::new(8 * MIB);
    let data = noise(5, 8 << 20);
    fixture.device.write_at(&data, 0).unwrap();
    // The length is in the cookie: what follows a simple reply can be told by nothing else.
    let lens = [1 << 20, 512, 300_000, 4096, 3 << 20, 65536, 262_144];
    let reads: Vec<u8> = (0..70)
        .flat_map(|i| {
            let len = lens[i as usize % lens.len()];
            request(0, cmd::READ, i << 32 | u64::from(len), i * 1000, len)
        })
        .collect();
    let mut client = fixture.simple();
    for _ in 0..4 {
        client.send(&reads);
        for _ in 0..70 {
            let Message::Simple { error: 0, cookie } = client.message() else {
                panic!()
            };
            let (at, len) = ((cookie >> 32) as usize * 1000, cookie as u32 as usize);
            assert!(
                client.bytes(len) == data[at..at + len],
                "{len} bytes at {at}"
            );
        }
    }
}

#[test]
fn requests_may_arrive_byte_by_byte_and_disc_lets_the_rest_finish() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.simple();
    let mut bytes = request(0, cmd::WRITE, 1, 0, 5);
    bytes.extend(b"hello");
    bytes.extend(request(0, cmd::READ, 2, 0, 5));
    for byte in &bytes {
        client.send(&[*byte]);
    }
    assert_eq!(client.answer(0, 0).cookie, 1);
    assert_eq!(client.answer(0, 5).data.len(), 5);
    let mut bytes: Vec<u8> = (0..100)
        .flat_map(|i| request(0, cmd::READ, i, 0, 5))
        .collect();
    bytes.extend(request(0, cmd::DISC, 0, 0, 0));
    bytes.extend(request(0, cmd::WRITE, 0, 0, 1));
    client.send(&bytes);
    for _ in 0..100 {
        assert_eq!(client.answer(0, 5).data, b"hello");
    }
    assert!(client.is_closed());
    assert_eq!(
        fixture.simple().read(0, 1).data,
        b"h",
        "nothing after DISC counts"
    );
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.simple();
    client.send(
        &(0..50)
            .flat_map(|i| request(0, cmd::READ, i, 0, 9))
            .collect::<Vec<_>>(),
    );
    if let Stream::Unix(stream) = &client.stream {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(client.answer(0, 9).data, [0; 9]);
    }
    assert!(client.is_closed());
}

#[test]
fn broken_clients_end_alone() {
    let fixture = Fixture::new(MIB);
    let mut bystander = fixture.structured();
    bystander.write(0, b"bystander");
    let mut garbage = fixture.simple();
    garbage.send(&[0x55; 100]);
    assert!(garbage.is_closed());
    let mut behind = fixture.simple();
    behind.send(&[request(0, cmd::READ, 1, 0, 4), vec![0; 28]].concat());
    let _ = behind.stream.read_to_end(&mut Vec::new());
    // The client dies in the middle of a header, a payload, a streamed payload, and with unread replies.
    let mut truncated = fixture.simple();
    truncated.send(&request(0, cmd::READ, 1, 0, 4)[..20]);
    drop(truncated);
    for len in [100, 1 << 20] {
        let mut truncated = fixture.simple();
        truncated.send(&request(0, cmd::WRITE, 1, 0, len));
        truncated.send(&[1; 50]);
        drop(truncated);
    }
    let mut unread = fixture.simple();
    unread.send(
        &(0..50)
            .flat_map(|i| request(0, cmd::READ, i, 0, 65536))
            .collect::<Vec<_>>(),
    );
    drop(unread);
    while fixture.handle.as_ref().unwrap().connections() > 1 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(bystander.read(0, 9).data, b"bystander");
    fixture.stop();
}

#[test]
fn silent_clients_are_dropped_and_the_number_of_clients_is_limited() {
    let fixture = Fixture::with(MIB, |b| {
        b.handshake_timeout(Duration::from_millis(200))
            .max_connections(2)
    });
    let mut silent = UnixStream::connect(&fixture.path).unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 18, "the greeting and the end");
    while fixture.handle.as_ref().unwrap().connections() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let (mut first, mut second) = (fixture.simple(), fixture.simple());
    let mut third = fixture.haggling();
    let verdict = third.verdict(opt::GO, &info_request("zram0", &[]));
    assert_eq!(verdict, rep::ERR_POLICY);
    assert!(third.is_closed());
    // The time limit is over with the negotiation.
    thread::sleep(Duration::from_millis(400));
    assert_eq!(first.read(0, 1).data, [0]);
    assert_eq!(second.read(0, 1).data, [0]);
}

#[test]
fn shutdown_serves_what_has_arrived() {
    for size in [512, 4096, 200_000] {
        let mut fixture = Fixture::new(16 * MIB);
        let mut client = fixture.simple();
        let count = 180_000 / (size as u64 + 28) + 1;
        let mut bytes = Vec::new();
        for i in 0..count {
            bytes.extend(request(0, cmd::WRITE, i, i * u64::from(size), size));
            bytes.extend(noise(i, size as usize));
        }
        client.send(&bytes);
        let handle = fixture.handle.take().unwrap();
        let stopper = thread::spawn(move || handle.shutdown());
        for _ in 0..count {
            assert_eq!(client.answer(0, 0).error, 0);
        }
        assert!(client.is_closed());
        stopper.join().unwrap().unwrap();
        for i in 0..count {
            let mut stored = vec![0; size as usize];
            fixture
                .device
                .read_at(&mut stored, i * u64::from(size))
                .unwrap();
            assert!(stored == noise(i, size as usize), "write {i} of {size}");
        }
        assert!(!fixture.path.exists(), "the socket file is removed");
    }
}

#[test]
fn shutdown_sends_the_replies_of_what_is_in_flight() {
    let mut fixture = Fixture::new(16 * MIB);
    let data = noise(1, 4 << 20);
    fixture.device.write_at(&data, 0).unwrap();
    let mut client = fixture.simple();
    // More replies than a socket holds, so that the server is sending when it is stopped.
    client.send(
        &(0..64)
            .flat_map(|i| request(0, cmd::READ, i, i * 65536, 65536))
            .collect::<Vec<_>>(),
    );
    let handle = fixture.handle.take().unwrap();
    let stopper = thread::spawn(move || handle.shutdown());
    while fixture.path.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    for _ in 0..64 {
        let Message::Simple { error: 0, cookie } = client.message() else {
            panic!()
        };
        let at = cookie as usize * 65536;
        assert!(
            client.bytes(65536) == data[at..at + 65536],
            "the data of request {cookie}"
        );
    }
    assert!(client.is_closed());
    stopper.join().unwrap().unwrap();
}

#[test]
fn shutdown_does_not_wait_for_clients_that_go_on() {
    let builder = Server::builder().export(Export::new("zram0", device(MIB)));
    let limit = Duration::from_secs(50);
    let server = builder
        .shutdown_timeout(limit)
        .bind(&"tcp:127.0.0.1:0".parse().unwrap())
        .unwrap();
    let Listen::Tcp(addr) = server.local() else {
        panic!()
    };
    let handle = server.start().unwrap();
    let mut client = Client::greeted(TcpStream::connect(addr).unwrap().into(), 3);
    client.go("");
    let Stream::Tcp(mut reader) = client.stream else {
        panic!()
    };
    let mut writer = reader.try_clone().unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let read = thread::spawn(move || {
        let mut buf = vec![0; 65536];
        while let Ok(n @ 1..) = reader.read(&mut buf) {
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
    });
    // Reading takes longer than asking, so a request is always waiting.
    let reads: Vec<u8> = (0..100)
        .flat_map(|i| request(0, cmd::READ, i, 0, 32768))
        .collect();
    let write = thread::spawn(move || while writer.write_all(&reads).is_ok() {});
    while received.load(Ordering::Relaxed) < 100_000 {
        thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    handle.shutdown().unwrap();
    assert!(
        begun.elapsed() < limit,
        "a client that never pauses is not served for ever"
    );
    read.join().unwrap();
    write.join().unwrap();
}

#[test]
fn shutdown_does_not_wait_for_clients_that_do_not_read() {
    let mut fixture = Fixture::with(MIB, |b| b.shutdown_timeout(Duration::from_millis(100)));
    let mut stuck = fixture.simple();
    stuck.send(
        &(0..64)
            .flat_map(|i| request(0, cmd::READ, i, 0, 1 << 20))
            .collect::<Vec<_>>(),
    );
    let idle = fixture.simple();
    let haggling = fixture.haggling();
    let handle = fixture.handle.take().unwrap();
    handle.shutdown().unwrap();
    drop((stuck, idle, haggling));
}

#[test]
fn unix_sockets_are_private_and_stale_ones_replaced() {
    let fixture = Fixture::new(MIB);
    let mode = std::fs::metadata(&fixture.path)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let server = || Server::builder().export(Export::new("x", device(MIB)));
    let listen = Listen::Unix(fixture.path.clone());
    assert!(matches!(server().bind(&listen), Err(Error::InUse { .. })));
    assert_eq!(
        fixture.simple().read(0, 1).data,
        [0],
        "the living server is unharmed"
    );

    let stale = fixture.dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let replaced = server().bind(&Listen::Unix(stale.clone())).unwrap();
    drop(replaced);
    assert!(!stale.exists());

    let file = fixture.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(
        server().bind(&Listen::Unix(file.clone())),
        Err(Error::NotASocket { .. })
    ));
    assert_eq!(std::fs::read(file).unwrap(), b"precious");
    let nowhere = Listen::Unix(fixture.dir.path().join("no/such/dir"));
    assert!(matches!(server().bind(&nowhere), Err(Error::Bind { .. })));
}

#[test]
fn tcp_is_served_and_limited_to_loopback() {
    let server = || Server::builder().export(Export::new("zram0", device(MIB)));
    let anywhere: Listen = "tcp:0.0.0.0:0".parse().unwrap();
    assert!(matches!(
        server().bind(&anywhere),
        Err(Error::NotLoopback { .. })
    ));
    let bound = server().bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let Listen::Tcp(addr) = bound.local() else {
        panic!()
    };
    assert_ne!(addr.port(), 0);
    assert_eq!(
        bound.uri("zram0"),
        format!("nbd://127.0.0.1:{}/zram0", addr.port())
    );
    let handle = bound.start().unwrap();
    let mut client = Client::greeted(TcpStream::connect(addr).unwrap().into(), 3);
    client.negotiate_structured("");
    client.go("");
    let data = noise(3, 700_000);
    assert_eq!(client.write(1, &data).error, 0);
    assert!(client.read(1, 700_000).data == data);
    assert_eq!(handle.connections(), 1);
    handle.shutdown().unwrap();
    assert!(client.is_closed());
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn export_names_are_checked() {
    let bind = |names: &[&str]| {
        let builder = names.iter().fold(Server::builder(), |b, n| {
            b.export(Export::new(*n, device(MIB)))
        });
        builder.bind(&"tcp:127.0.0.1:0".parse().unwrap())
    };
    assert!(matches!(bind(&[]), Err(Error::NoExport)));
    for name in ["", "a\0b", "x".repeat(4097).as_str()] {
        let refused = bind(&[name]);
        assert!(matches!(refused, Err(Error::ExportName { .. })), "{name:?}");
    }
    let twice = bind(&["a", "a"]);
    assert!(matches!(twice, Err(Error::DuplicateExport { name }) if name == "a"));
    assert!(bind(&["a", "b"]).is_ok());
    let described = Export::new("a", device(MIB)).description("x".repeat(4097));
    let refused = Server::builder().export(described).adopter();
    assert!(matches!(refused, Err(Error::Description { .. })));
}

#[test]
fn a_full_device_says_enospc_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let device = uzram::Device::builder(16 * MIB)
        .mem_limit_bytes(MIB)
        .build()
        .unwrap();
    let export = Export::new("small", Arc::new(device));
    let listen = Listen::Unix(dir.path().join("s"));
    let handle = Server::builder()
        .export(export)
        .bind(&listen)
        .unwrap()
        .start()
        .unwrap();
    let mut client = Client::greeted(UnixStream::connect(dir.path().join("s")).unwrap().into(), 3);
    client.negotiate_structured("small");
    client.go("small");
    let data = noise(1, 65536);
    assert_eq!(client.write(0, &data).error, 0);
    // In one piece that fits in the receive buffer, and streamed.
    for len in [300_000, 8 << 20] {
        let mut full = (0..12).map(|i| client.write(65536 + i * 300_000, &noise(i + 2, len)));
        let refused = full
            .find(|answer| answer.error != 0)
            .expect("more than the limit was stored");
        assert_eq!(refused.error, ENOSPC);
        assert!(refused.message.contains("mem_limit"), "{}", refused.message);
    }
    assert!(client.read(0, 65536).data == data);
    assert_eq!(client.command(0, cmd::TRIM, 65536, 15 << 20).error, 0);
    assert_eq!(client.write(65536, &data).error, 0, "there is room again");
    handle.shutdown().unwrap();
}

/// With a slow algorithm the second large write of a lone client is divided among workers, wherever it begins and ends. One
/// reply covers all of it.
#[test]
fn large_writes_are_divided_and_replied_to_once() {
    let dir = tempfile::tempdir().unwrap();
    let slow = uzram::Choice::new("zstd").param("level", "19");
    let device = uzram::Device::builder(16 * MIB)
        .choose(slow)
        .mem_limit_bytes(4 * MIB)
        .build()
        .unwrap();
    let device = Arc::new(device);
    let listen = Listen::Unix(dir.path().join("s"));
    let handle = Server::builder()
        .export(Export::new("slow", Arc::clone(&device)))
        .workers(4)
        .bind(&listen)
        .unwrap()
        .start()
        .unwrap();
    let mut client = Client::greeted(UnixStream::connect(dir.path().join("s")).unwrap().into(), 3);
    client.negotiate_structured("slow");
    client.go("slow");
    for (seed, (offset, len)) in [
        (0, 128 << 10),
        (0, 128 << 10),
        (4096, 256 << 10),
        (12345, 100_000),
        (7, 500_001),
        (4095, 65_537),
        (0, 32_769),
    ]
    .into_iter()
    .enumerate()
    {
        let data = noise(seed as u64, len);
        assert_eq!(client.write(offset, &data).error, 0);
        assert!(
            client.read(offset, len as u32).data == data,
            "{offset} {len}"
        );
        assert_eq!(client.write_with(FUA, offset, &data).error, 0);
    }
    let mut full = (0..20).map(|i| client.write(i << 19, &noise(i + 100, 500_000)));
    let refused = full.find(|answer| answer.error != 0);
    assert_eq!(
        refused.expect("more than the limit was stored").error,
        ENOSPC
    );
    // A second reply would be taken for this one's.
    assert_eq!(client.command(0, cmd::TRIM, 0, 16 << 20).error, 0);
    assert_eq!(client.write(0, &noise(1, 400_000)).error, 0);
    assert!(client.read(0, 400_000).data == noise(1, 400_000));
    handle.shutdown().unwrap();
}

#[test]
fn connections_share_one_device() {
    let fixture = Fixture::new(MIB);
    let handles: Vec<_> = (0..8)
        .map(|i| {
            let mut client = if i % 2 == 0 {
                fixture.simple()
            } else {
                fixture.structured()
            };
            thread::spawn(move || {
                for round in 0..50 {
                    let data = noise(round * 8 + i, 5000);
                    assert_eq!(client.write(i * 100_000, &data).error, 0);
                    assert!(client.read(i * 100_000, 5000).data == data);
                }
            })
        })
        .collect();
    for handle in handles {
        handle.join().unwrap();
    }
    let device = Arc::clone(&fixture.device);
    fixture.stop();
    let mut last = vec![0; 5000];
    device.read_at(&mut last, 0).unwrap();
    assert!(last == noise(49 * 8, 5000));
}
