//! Extended headers: how they are agreed on, requests of 64 bits, and payloads where there may be one and where not.
//!
//! What a command does is the same with any headers: `protocol.rs` asks for it with each.

mod common;

use common::*;
use std::os::unix::net::UnixStream;

/// So large that half of it is more than 32 bits can say.
const LARGE: u64 = 64 << 30;
/// The id of base:allocation.
const ID: u32 = 1;

/// The payload of a BLOCK_STATUS.
fn status_payload(len: u64, ids: &[u32]) -> Vec<u8> {
    let mut payload = len.to_be_bytes().to_vec();
    payload.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
    payload
}

/// Sends a request with a payload, and receives the answer.
fn ask(client: &mut Client, flags: u16, kind: u16, offset: u64, payload: &[u8]) -> Answer {
    let len = payload.len() as u64;
    let header = extended_request(flags | PAYLOAD_LEN, kind, 80, offset, len);
    client.send(&[&header[..], payload].concat());
    let answer = client.answer(offset, 0);
    assert_eq!(answer.cookie, 80);
    answer
}

/// The transmission flags that an export is announced with.
fn flags(client: &mut Client, option: u32) -> u16 {
    let replies = client.option(option, &info_request("zram0", &[]));
    u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap())
}

#[test]
fn they_are_agreed_on_before_or_after_structured_replies_and_again() {
    let fixture = Fixture::new(MIB);
    let (structured, extended) = (opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS);
    for options in [
        &[extended][..],
        &[structured, extended],
        &[extended, extended],
        &[structured, structured, extended],
    ] {
        let mut client = fixture.haggling();
        assert_eq!(client.verdict(extended, b"x"), rep::ERR_INVALID);
        for option in options {
            assert_eq!(client.verdict(*option, &[]), rep::ACK, "{options:?}");
        }
        let late = client.verdict(structured, &[]);
        assert_eq!(late, rep::ERR_EXT_HEADER_REQD, "there is no way back");
        client.extended = true;
        client.go("zram0");
        assert_eq!(client.write(5, b"hello").error, 0);
        assert_eq!(client.read(4, 7).data, b"\0hello\0");
        assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 1).error, EINVAL);
        assert_eq!(client.command(0, cmd::TRIM, 0, 1 << 20).error, 0);
    }
    // Refused, it leaves what was agreed on.
    let mut client = fixture.haggling();
    assert_eq!(client.verdict(structured, &[]), rep::ACK);
    assert_eq!(client.verdict(extended, b"x"), rep::ERR_INVALID);
    client.go("zram0");
    assert_eq!(client.read(0, 4096).chunks, (0, 1), "structured");
}

#[test]
fn a_context_that_was_selected_before_them_is_reported_with_them() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    client.negotiate_structured("zram0");
    assert_eq!(client.verdict(opt::EXTENDED_HEADERS, &[]), rep::ACK);
    client.extended = true;
    client.go("zram0");
    let status = client.command(0, cmd::BLOCK_STATUS, 0, 1 << 20).status;
    assert_eq!(status, [(MIB, 3)]);
}

/// The option has no way to say no.
#[test]
fn export_name_after_them_ends_the_connection() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    assert_eq!(client.verdict(opt::EXTENDED_HEADERS, &[]), rep::ACK);
    client.send_option(opt::EXPORT_NAME, b"zram0");
    assert!(client.is_closed());
}

#[test]
fn the_flag_of_status_payloads_is_set_where_they_can_be_used() {
    const DF_AND_PAYLOAD: u16 = 1 << 7 | 1 << 12;
    const DF_ONLY: u16 = 1 << 7;
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    assert_eq!(flags(&mut client, opt::INFO) & DF_AND_PAYLOAD, 0);
    client.negotiate_structured("zram0");
    assert_eq!(flags(&mut client, opt::INFO) & DF_AND_PAYLOAD, DF_ONLY);
    let mut without = fixture.haggling();
    assert_eq!(without.verdict(opt::EXTENDED_HEADERS, &[]), rep::ACK);
    assert_eq!(
        flags(&mut without, opt::INFO) & DF_AND_PAYLOAD,
        DF_AND_PAYLOAD
    );
    assert_eq!(flags(&mut without, opt::GO) & DF_AND_PAYLOAD, DF_ONLY);
    client.negotiate_extended("zram0");
    assert_eq!(flags(&mut client, opt::GO) & DF_AND_PAYLOAD, DF_AND_PAYLOAD);
}

#[test]
fn one_request_covers_more_than_32_bits_can_say() {
    let fixture = Fixture::new(LARGE);
    let mut client = fixture.extended();
    let (near, far) = (MIB, LARGE - 2 * MIB);
    let data = noise(1, 8192);
    let map = |client: &mut Client| client.long_command(0, cmd::BLOCK_STATUS, 0, LARGE).status;
    assert_eq!(map(&mut client), [(LARGE, 3)]);
    for (kind, flags) in [
        (cmd::TRIM, 0),
        (cmd::WRITE_ZEROES, 0),
        (cmd::WRITE_ZEROES, FUA | FAST_ZERO),
    ] {
        for at in [0, near, far] {
            assert_eq!(client.write(at, &data).error, 0);
        }
        let between = far - near - 8192;
        let expected = [
            (8192, 0),
            (near - 8192, 3),
            (8192, 0),
            (between, 3),
            (8192, 0),
            (LARGE - far - 8192, 3),
        ];
        assert_eq!(map(&mut client), expected);
        let one = client.long_command(REQ_ONE, cmd::BLOCK_STATUS, near + 8192, between + 9);
        assert_eq!(one.status, [(between, 3)]);
        assert_eq!(client.long_command(0, cmd::CACHE, 0, LARGE).error, 0);
        // All but the first page and the last.
        let most = client.long_command(flags, kind, 4096, LARGE - 8192);
        assert_eq!(most.error, 0, "{}", most.message);
        assert_eq!(client.read(0, 8192).data[..4096], data[..4096]);
        assert_eq!(map(&mut client), [(4096, 0), (LARGE - 4096, 3)]);
        assert_eq!(client.read(far, 8192).data, [0; 8192]);
    }
    // 4 GiB and a page must not be taken for a page.
    assert_eq!(client.write(4 << 30, &data).error, 0);
    let len = (4 << 30) + 4096;
    assert_eq!(client.long_command(0, cmd::TRIM, 0, len).error, 0);
    assert_eq!(client.read(4 << 30, 8192).data[4096..], data[4096..]);
    assert_eq!(client.read(4 << 30, 4096).data, [0; 4096]);
    let (zeroes, flags) = (cmd::WRITE_ZEROES, NO_HOLE);
    assert_eq!(client.long_command(flags, zeroes, 0, len).error, 0);
    assert_eq!(map(&mut client)[0], (len, 2));
}

#[test]
fn lengths_past_the_end_are_refused_up_to_the_last_bit() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.extended();
    for (kind, error) in [
        (cmd::TRIM, EINVAL),
        (cmd::CACHE, EINVAL),
        (cmd::BLOCK_STATUS, EINVAL),
        (cmd::WRITE_ZEROES, ENOSPC),
        (cmd::READ, EOVERFLOW),
    ] {
        for (offset, len) in [
            (0, 1 << 32),
            (0, (1 << 32) + 1),
            (1, u64::MAX),
            (u64::MAX, u64::MAX),
            (0, u64::MAX),
        ] {
            let answer = client.long_command(0, kind, offset, len);
            assert_eq!(answer.error, error, "{kind} {offset} {len}");
            assert!(!answer.message.is_empty());
        }
    }
}

/// Requests that wait together are shared out by what they cost, which is added up. A fuzzer found that the sum could overflow.
#[test]
fn many_impossible_lengths_at_once_are_refused_each() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.extended();
    let kinds = [cmd::READ, cmd::WRITE, cmd::TRIM, 59, cmd::WRITE_ZEROES];
    let requests = (0..200).map(|i| {
        let kind = kinds[i as usize % kinds.len()];
        extended_request(0, kind, i, 0, u64::MAX - i)
    });
    client.send(&requests.collect::<Vec<_>>().concat());
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(client.answer(0, 0).error != 0);
    }
    assert_eq!(refused, 200);
    assert_eq!(client.read(0, 4).data, [0; 4]);
}

#[test]
fn a_read_above_the_maximum_is_refused_and_such_a_payload_ends_the_connection() {
    let fixture = Fixture::new(80 * MIB);
    let mut client = fixture.extended();
    let most: u64 = 32 << 20;
    for len in [most + 1, 1 << 32, u64::MAX] {
        assert_eq!(client.long_command(0, cmd::READ, 0, len).error, EOVERFLOW);
    }
    let data = noise(1, most as usize);
    assert_eq!(client.write(MIB, &data).error, 0);
    assert!(client.read(MIB, most as u32).data == data);
    // None of these is followed by as many bytes: whoever waited for them would wait for ever.
    for kind in [cmd::WRITE, cmd::READ, cmd::BLOCK_STATUS, 99] {
        for len in [most + 1, 1 << 32, u64::MAX] {
            let mut client = fixture.extended();
            client.send(&extended_request(PAYLOAD_LEN, kind, 1, 0, len));
            assert!(client.is_closed(), "{kind} {len}");
        }
    }
}

#[test]
fn a_payload_where_none_belongs_is_skipped_and_refused() {
    let fixture = Fixture::new(8 * MIB);
    let mut client = fixture.extended();
    client.write(0, b"as it was");
    // What is skipped looks like requests.
    let trim = extended_request(0, cmd::TRIM, 1, 0, MIB);
    for len in [0, 1, 32, 40, 300_000, 600_000, 32 << 20] {
        let payload: Vec<u8> = trim.iter().copied().cycle().take(len).collect();
        for kind in [
            cmd::READ,
            cmd::FLUSH,
            cmd::TRIM,
            cmd::CACHE,
            cmd::WRITE_ZEROES,
            8,
            0xffff,
        ] {
            let answer = ask(&mut client, 0, kind, 0, &payload);
            assert_eq!(answer.error, EINVAL, "{kind} {len}");
        }
        assert_eq!(client.read(0, 9).data, b"as it was", "still in step");
    }
}

/// Without the flag the protocol has no payload behind a WRITE, whatever its length says.
#[test]
fn a_write_without_its_flag_has_no_payload_and_is_refused() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.extended();
    for len in [0, 5, 4096, 1 << 40] {
        client.send(&extended_request(0, cmd::WRITE, 3, 0, len));
        let answer = client.answer(0, 0);
        assert_eq!((answer.cookie, answer.error), (3, EINVAL));
    }
    assert_eq!(client.read(0, 5).data, [0; 5]);
}

#[test]
fn the_flag_is_unknown_with_compact_headers() {
    let fixture = Fixture::new(MIB);
    for mut client in [fixture.simple(), fixture.structured()] {
        let answer = client.write_with(PAYLOAD_LEN, 0, b"skipped");
        assert_eq!(answer.error, EINVAL);
        // Nothing follows this one.
        let answer = client.command(PAYLOAD_LEN, cmd::BLOCK_STATUS, 0, 12);
        assert_eq!(answer.error, EINVAL);
        assert_eq!(client.read(0, 7).data, [0; 7]);
    }
}

#[test]
fn a_status_payload_names_the_contexts_that_are_reported() {
    let fixture = Fixture::new(LARGE);
    let mut client = fixture.extended();
    client.write(8192, &noise(1, 4096));
    let status = cmd::BLOCK_STATUS;
    let all = status_payload(LARGE, &[ID]);
    let answer = ask(&mut client, 0, status, 0, &all);
    let expected = [(8192, 3), (4096, 0), (LARGE - 12288, 3)];
    assert_eq!((answer.error, &answer.status[..]), (0, &expected[..]));
    let one = ask(&mut client, REQ_ONE, status, 0, &all);
    assert_eq!(one.status, expected[..1]);
    let some = ask(&mut client, 0, status, 4096, &status_payload(6000, &[ID]));
    assert_eq!(some.status, [(4096, 3), (1904, 0)]);
    // Nobody asked about any context.
    let none = ask(&mut client, 0, status, 0, &status_payload(LARGE, &[]));
    assert_eq!((none.error, none.status.len()), (0, 0));

    for (len, ids) in [
        (4096, &[0][..]),
        (4096, &[2]),
        (4096, &[u32::MAX]),
        (4096, &[ID, ID]),
        (4096, &[ID, 2]),
        (4096, &[7; 2000]),
        (4096, &[ID; 200_000]),
        (0, &[ID]),
        (0, &[]),
        (LARGE + 1, &[ID]),
        (LARGE + 1, &[]),
        (u64::MAX, &[ID]),
    ] {
        let answer = ask(&mut client, 0, status, 0, &status_payload(len, ids));
        let shown = &ids[..ids.len().min(3)];
        assert_eq!(answer.error, EINVAL, "{len} {shown:?}");
        assert!(!answer.message.is_empty());
    }
    for len in (0..8).chain([9, 10, 11, 13]) {
        let long = [&all[..], &[0]].concat();
        let answer = ask(&mut client, 0, status, 0, &long[..len]);
        assert_eq!(answer.error, EINVAL, "{len} bytes");
    }
    let past = ask(&mut client, 0, status, LARGE, &status_payload(1, &[ID]));
    assert_eq!(past.error, EINVAL);
    let flags = ask(&mut client, DF, status, 0, &all);
    assert_eq!(flags.error, EINVAL);
    assert_eq!(ask(&mut client, FUA, status, 0, &all).status, expected);

    // Without a context that was selected there is none to name.
    let mut client = fixture.haggling();
    assert_eq!(client.verdict(opt::EXTENDED_HEADERS, &[]), rep::ACK);
    client.extended = true;
    client.go("zram0");
    for ids in [&[ID][..], &[]] {
        let answer = ask(&mut client, 0, status, 0, &status_payload(4096, ids));
        assert_eq!(answer.error, EINVAL);
    }
}

#[test]
fn the_magic_of_the_other_headers_ends_the_connection() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.extended();
    // Long enough for either header.
    client.send(&request(0, cmd::READ, 1, 0, 1).repeat(2));
    assert!(client.is_closed());
    for mut client in [fixture.simple(), fixture.structured()] {
        client.send(&extended_request(0, cmd::READ, 1, 0, 1));
        assert!(client.is_closed());
    }
}

#[test]
fn requests_come_in_pieces_and_many_at_once() {
    let fixture = Fixture::new(16 * MIB);
    let mut client = fixture.extended();
    let data = noise(1, 4096);
    let mut message = Vec::new();
    for i in 0..500 {
        message.extend(client.header(0, cmd::WRITE, i, i * 4096, 4096));
        message.extend(&data);
        message.extend(client.header(0, cmd::TRIM, 1000 + i, i * 4096 + (8 << 20), 1 << 12));
    }
    for piece in message.chunks(1021) {
        client.send(piece);
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        match client.message() {
            Message::Chunk {
                done: true,
                kind: 0,
                cookie,
                offset,
                payload,
            } if payload.is_empty() => {
                let offset = offset.unwrap();
                let expected = match cookie {
                    1000.. => (cookie - 1000) * 4096 + (8 << 20),
                    _ => cookie * 4096,
                };
                assert_eq!(offset, expected);
                assert!(seen.insert(cookie), "{cookie} has one reply");
            }
            other => panic!("{other:?}"),
        }
    }
    for i in 0..500 {
        assert!(client.read(i * 4096, 4096).data == data);
    }
    client.send(&client.header(0, cmd::DISC, 0, 0, 0));
    assert!(client.is_closed());
}

/// A client may have agreed on them in the open before it asks for TLS; what was said then does not count. `tls.rs` has
/// TLS; here the option is refused, and then everything counts.
#[test]
fn they_stay_when_another_option_is_refused() {
    let fixture = Fixture::new(MIB);
    let mut client = Client::greeted(UnixStream::connect(&fixture.path).unwrap().into(), 3);
    client.negotiate_extended("zram0");
    assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ERR_UNSUP);
    assert_eq!(client.verdict(0xdead_beef, &[]), rep::ERR_UNSUP);
    client.go("zram0");
    assert_eq!(
        client.command(0, cmd::BLOCK_STATUS, 0, 4096).status,
        [(4096, 3)]
    );
}
