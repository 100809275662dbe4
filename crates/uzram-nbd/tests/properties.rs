//! Laws that hold for whatever clients send: the wire agrees with a plain vector of bytes, and bytes that are not NBD hurt
//! only their sender.

mod common;

use common::*;
use proptest::prelude::*;
use std::{
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};
use uzram_nbd::Export;

const SIZE: u64 = 4 * MIB;

#[derive(Debug, Clone)]
enum Op {
    Read {
        flags: u16,
        at: u64,
        len: u32,
    },
    Write {
        flags: u16,
        at: u64,
        len: u32,
        seed: u64,
    },
    Zero {
        flags: u16,
        at: u64,
        len: u32,
    },
    Trim {
        at: u64,
        len: u32,
    },
    Flush,
    Status {
        at: u64,
        len: u32,
    },
}

fn range() -> impl Strategy<Value = (u64, u32)> {
    let len = prop_oneof![
        4 => 1..5000_u32,
        2 => prop::sample::select(vec![512_u32, 4096, 8192, 65536]),
        1 => 1..(1_u32 << 20),
    ];
    // A few reach past the end.
    (
        prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|page| page * 4096)],
        len,
    )
}

fn op() -> impl Strategy<Value = Op> {
    let fua = prop::sample::select(vec![0, FUA]);
    prop_oneof![
        4 => (range(), prop::sample::select(vec![0, DF])).prop_map(|((at, len), flags)| Op::Read { flags, at, len }),
        4 => (range(), fua, 1..200_u64)
            .prop_map(|((at, len), flags, seed)| Op::Write { flags, at, len, seed }),
        1 => (range(), prop::sample::select(vec![0, NO_HOLE, FAST_ZERO, FUA | NO_HOLE]))
            .prop_map(|((at, len), flags)| Op::Zero { flags, at, len }),
        1 => range().prop_map(|(at, len)| Op::Trim { at, len }),
        1 => Just(Op::Flush),
        1 => range().prop_map(|(at, len)| Op::Status { at, len }),
    ]
}

fn apply(
    op: &Op,
    client: &mut Client,
    structured: bool,
    model: &mut [u8],
) -> Result<(), TestCaseError> {
    let fits = |at: u64, len: u32| at + u64::from(len) <= SIZE;
    let span = |at: u64, len: u32| at as usize..at as usize + len as usize;
    match *op {
        Op::Read { flags, at, len } => {
            let answer = client.read_with(if structured { flags } else { 0 }, at, len);
            prop_assert_eq!(answer.error, if fits(at, len) { 0 } else { EINVAL });
            if answer.error == 0 {
                prop_assert!(
                    answer.data == model[span(at, len)],
                    "read of {} at {}",
                    len,
                    at
                );
                prop_assert!(flags != DF || !structured || answer.chunks.0 + answer.chunks.1 == 1);
            }
        }
        Op::Write {
            flags,
            at,
            len,
            seed,
        } => {
            let data = if seed % 7 == 0 {
                vec![0; len as usize]
            } else {
                noise(seed, len as usize)
            };
            let answer = client.write_with(flags, at, &data);
            prop_assert_eq!(answer.error, if fits(at, len) { 0 } else { ENOSPC });
            if answer.error == 0 {
                model[span(at, len)].copy_from_slice(&data);
            }
        }
        Op::Zero { flags, at, len } => {
            let answer = client.command(flags, cmd::WRITE_ZEROES, at, len);
            prop_assert_eq!(answer.error, if fits(at, len) { 0 } else { ENOSPC });
            if answer.error == 0 {
                model[span(at, len)].fill(0);
            }
        }
        Op::Trim { at, len } => {
            let answer = client.command(0, cmd::TRIM, at, len);
            prop_assert_eq!(answer.error, if fits(at, len) { 0 } else { EINVAL });
            if answer.error == 0 {
                // NBD promises nothing about trimmed bytes; the device does: whole pages read as zeros.
                let (first, last) = (
                    at.div_ceil(4096) * 4096,
                    (at + u64::from(len)) / 4096 * 4096,
                );
                if first < last {
                    model[first as usize..last as usize].fill(0);
                }
            }
        }
        Op::Flush => prop_assert_eq!(client.command(0, cmd::FLUSH, 0, 0).error, 0),
        Op::Status { at, len } => {
            let answer = client.command(0, cmd::BLOCK_STATUS, at, len);
            prop_assert_eq!(
                answer.error,
                if structured && fits(at, len) {
                    0
                } else {
                    EINVAL
                }
            );
            let mut place = at as usize;
            for pair in answer.status.windows(2) {
                prop_assert_ne!(pair[0].1, pair[1].1, "neighbours differ");
            }
            for (run, flags) in answer.status {
                let end = place + run as usize;
                prop_assert!(run > 0 && end <= at as usize + len as usize);
                prop_assert!(flags & 2 == 0 || model[place..end].iter().all(|b| *b == 0));
                place = end;
            }
            prop_assert!(answer.error != 0 || place == at as usize + len as usize);
        }
    }
    Ok(())
}

/// Bytes that resemble NBD: pure noise, or messages with a few wrong fields.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let edge = prop::sample::select(vec![
        0,
        1,
        28,
        4096,
        65536,
        65537,
        1 << 25,
        u32::MAX - 27,
        u32::MAX,
    ]);
    let len = prop_oneof![3 => 0..64_u32, 1 => edge];
    let offset = prop_oneof![0..SIZE, Just(u64::MAX), Just(SIZE - 1)];
    let payload = prop::collection::vec(any::<u8>(), 0..80);
    let command = (
        any::<u16>(),
        0..10_u16,
        any::<u64>(),
        offset,
        len.clone(),
        payload.clone(),
    )
        .prop_map(|(flags, kind, cookie, offset, len, payload)| {
            let header = match cookie % 2 {
                0 => request(flags & 0x1f, kind, cookie, offset, len),
                _ => extended_request(flags & 0x3f, kind, cookie, offset, len.into()),
            };
            [header, payload].concat()
        });
    let option = (0..14_u32, len, payload.clone()).prop_map(|(option, len, payload)| {
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(payload);
        bytes
    });
    let good_option = prop::sample::select(vec![
        (opt::LIST, vec![]),
        (opt::STRUCTURED_REPLY, vec![]),
        (opt::EXTENDED_HEADERS, vec![]),
        (opt::INFO, info_request("zram0", &[3])),
        (
            opt::SET_META_CONTEXT,
            context_request("zram0", &["base:allocation"]),
        ),
        (opt::GO, info_request("zram0", &[])),
    ])
    .prop_map(|(option, data)| {
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    });
    let part = prop_oneof![1 => payload, 4 => command, 2 => option, 2 => good_option];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn prop_the_wire_agrees_with_a_vector(ops in prop::collection::vec((0..3_usize, op()), 1..60)) {
        let fixture = Fixture::new(SIZE);
        let mut clients = [fixture.simple(), fixture.structured(), fixture.extended()];
        let mut model = vec![0; SIZE as usize];
        for (which, op) in &ops {
            apply(op, &mut clients[*which], *which > 0, &mut model)?;
        }
        prop_assert!(clients[0].read(0, SIZE as u32).data == model);
        drop(clients);
        fixture.stop();
    }
}

#[test]
fn prop_hostile_bytes_hurt_only_their_sender() {
    let fixture = Fixture::with(SIZE, |b| {
        b.export(Export::new("bystander", device(MIB)))
            .handshake_timeout(Duration::from_secs(60))
    });
    let mut bystander = fixture.haggling();
    bystander.go("bystander");
    let data = noise(9, 9999);
    bystander.write(5, &data);
    let bystander = std::cell::RefCell::new(bystander);
    let config = ProptestConfig {
        cases: 2000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(bytes in hostile(), stage in 0..5)| {
        let stream = match stage {
            0 => Stream::from(UnixStream::connect(&fixture.path).unwrap()),
            1 => fixture.haggling().stream,
            2 => fixture.simple().stream,
            3 => fixture.extended().stream,
            _ => fixture.structured().stream,
        };
        let Stream::Unix(mut stream) = stream else { unreachable!() };
        // The server may have closed already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let ended = io::copy(&mut stream, &mut io::sink());
        prop_assert!(!matches!(&ended, Err(e) if e.kind() == io::ErrorKind::WouldBlock), "the server hangs");
        let answer = bystander.borrow_mut().read(5, 9999);
        prop_assert!(answer.data == data);
    });
    let mut newcomer = fixture.haggling();
    newcomer.go("bystander");
    assert!(newcomer.read(5, 9999).data == data);
    drop((bystander, newcomer));
    fixture.stop();
}
