//! The memory of a client is bounded, whatever it sends and does not read. Alone in its program, since it measures it.

mod common;

use common::*;
use std::io::Write;

/// Most workers of a connection, as in the documents: 4.
const WORKERS: usize = 4;
/// What the documents say that a client takes: buffers for receiving and for replies.
const BOUND: usize = (WORKERS + 1) * (512 << 10) + WORKERS * (260 << 10);
const CLIENTS: usize = 24;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Sends as much as the server takes at once.
fn send(client: &mut Client, mut bytes: &[u8]) {
    while let Ok(sent @ 1..) = client.stream.write(bytes) {
        bytes = &bytes[sent..];
    }
}

#[test]
fn a_client_takes_a_bounded_amount_of_memory() {
    let fixture = Fixture::with(64 * MIB, |b| b.workers(WORKERS));
    fixture.device.write_at(&noise(1, 32 << 20), 0).unwrap();
    let payload = noise(2, 256 << 10);
    let mut write = request(0, cmd::WRITE, 1, 32 << 20, payload.len() as u32);
    write.extend(&payload);
    let burst = write.repeat(2 * WORKERS);
    let before = resident_bytes();
    // One that takes its replies has its buffers used again.
    let mut busy = fixture.simple();
    for _ in 0..64 {
        busy.send(&burst);
        for _ in 0..2 * WORKERS {
            assert!(matches!(busy.message(), Message::Simple { error: 0, .. }));
        }
    }
    let taken = resident_bytes().saturating_sub(before);
    eprintln!("a busy client: {} KiB", taken >> 10);
    assert!(taken < 2 * BOUND, "{taken} bytes");
    drop(busy);
    let before = resident_bytes();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| fixture.simple()).collect();
    for client in &clients {
        let Stream::Unix(stream) = &client.stream else {
            panic!()
        };
        stream.set_nonblocking(true).unwrap();
    }
    // Nobody takes these replies, so that whoever sends one waits. Half of the clients ask for what needs streaming.
    let reads = |client: usize| {
        let len = [256 << 10, 32 << 20][client % 2];
        (0..64).map(move |n| request(0, cmd::READ, n, 0, len))
    };
    for (i, client) in clients.iter_mut().enumerate() {
        send(client, &reads(i).collect::<Vec<_>>().concat());
    }
    // Each of these is received into another buffer, which its worker keeps until its reply is sent.
    let mut burst = write;
    burst.extend(request(0, cmd::READ, 2, 0, 256 << 10));
    for _ in 0..2 * WORKERS {
        std::thread::sleep(std::time::Duration::from_millis(100));
        clients.iter_mut().for_each(|client| send(client, &burst));
    }
    // The beginning of the largest write, of which the rest does not come.
    let mut last = request(0, cmd::WRITE, 3, 0, 32 << 20);
    last.extend(&payload);
    clients.iter_mut().for_each(|client| send(client, &last));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let taken = resident_bytes().saturating_sub(before);
    eprintln!("{CLIENTS} clients: {} KiB each", (taken / CLIENTS) >> 10);
    // Stacks and lists come on top.
    assert!(taken < CLIENTS * (BOUND + (256 << 10)), "{taken} bytes");
}
