//! Adopted sockets, on which a client begins with requests, as the kernel's NBD client does.

mod common;

use common::*;
use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
    time::Duration,
};
use uzram::Device;
use uzram_nbd::{Adopter, Error, Export, Server};

fn adopter(device: &Arc<Device>) -> Adopter {
    let export = Export::new("zram0", Arc::clone(device));
    let builder = Server::builder().export(export).workers(4);
    builder.max_connections(1).adopter().unwrap()
}

/// A client on a socket that the server has adopted, and a channel that reports the connection's end.
fn adopted(server: &Adopter) -> (Client, mpsc::Receiver<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ended, end) = mpsc::channel();
    let tell = move || ended.send(()).unwrap();
    server.adopt(ours.into(), "zram0", tell).unwrap();
    let client = Client {
        stream: theirs.into(),
        server_flags: 0,
        extended: false,
    };
    (client, end)
}

#[test]
fn every_command_of_the_kernel_is_served_without_a_handshake() {
    let device = device(64 * MIB);
    let server = adopter(&device);
    let (mut client, end) = adopted(&server);
    let data = noise(1, 40_960);
    assert_eq!(client.write_with(FUA, 4096, &data).error, 0);
    let answer = client.read(4096, 40_960);
    assert!(answer.data == data && answer.chunks == (0, 0), "simple");
    assert_eq!(client.command(0, cmd::FLUSH, 0, 0).error, 0);
    assert_eq!(client.command(0, cmd::TRIM, 4096, 8192).error, 0);
    let keep = client.command(NO_HOLE | FUA, cmd::WRITE_ZEROES, 12_288, 4096);
    assert_eq!(keep.error, 0);
    let mut expected = vec![0; 12_288];
    expected.extend(&data[12_288..]);
    assert!(client.read(4096, 40_960).data == expected);
    // Far above the largest request that the kernel makes of its own accord.
    let large = noise(2, 32 << 20);
    assert_eq!(client.write(MIB, &large).error, 0);
    assert!(client.read(MIB, 32 << 20).data == large);
    assert_eq!(client.write(64 * MIB, &data).error, ENOSPC);
    assert_eq!(
        client.command(0, cmd::BLOCK_STATUS, 0, 4096).error,
        EINVAL,
        "nothing was negotiated"
    );
    client.request(0, cmd::DISC, 0, 0, 0);
    assert!(client.is_closed());
    end.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(server.connections(), 0);
}

#[test]
fn many_requests_in_flight_on_more_sockets_than_clients_are_allowed() {
    let device = device(16 * MIB);
    let server = adopter(&device);
    let mut clients: Vec<_> = (0..4).map(|_| adopted(&server).0).collect();
    assert_eq!(server.connections(), 4, "the limit is for accepted clients");
    for (i, client) in clients.iter_mut().enumerate() {
        let mut message = Vec::new();
        for n in 0..128_u64 {
            let at = (i as u64 * 128 + n) * 4096;
            message.extend(request(0, cmd::WRITE, n, at, 4096));
            message.extend(noise(at, 4096));
        }
        client.send(&message);
        let mut seen = [false; 128];
        for _ in 0..128 {
            let answer = client.answer(0, 0);
            assert_eq!(answer.error, 0);
            assert!(!std::mem::replace(&mut seen[answer.cookie as usize], true));
        }
    }
    // Every socket sees what was written through any other: CAN_MULTI_CONN.
    for at in (0..512).map(|page| page * 4096) {
        assert!(clients[3].read(at, 4096).data == noise(at, 4096));
    }
}

#[test]
fn the_flags_are_those_of_the_handshake() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    let replies = client.option(opt::INFO, &info_request("zram0", &[]));
    let told = u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap());
    let server = adopter(&fixture.device);
    let export = server.export("").unwrap();
    assert_eq!(export.transmission_flags(), told);
    assert_eq!((export.size_bytes(), export.block_size()), (MIB, 4096));
    let read_only = Export::new("r", Arc::clone(&fixture.device)).read_only(true);
    assert_eq!(read_only.transmission_flags(), told | 2);
}

#[test]
fn a_broken_client_ends_its_own_connection_only() {
    let device = device(MIB);
    let server = adopter(&device);
    let (mut bad, bad_end) = adopted(&server);
    let (mut good, good_end) = adopted(&server);
    bad.stream.write_all(&[0xee; 64]).unwrap();
    assert!(bad.is_closed());
    bad_end.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(good.write(0, b"abc").error, 0);
    assert!(good_end.try_recv().is_err(), "it lives");
}

#[test]
fn shutdown_serves_what_has_arrived_and_tells_of_each_end() {
    let device = device(MIB);
    let server = adopter(&device);
    let (mut client, end) = adopted(&server);
    let mut message = request(0, cmd::WRITE, 5, 0, 4096);
    message.extend(noise(5, 4096));
    client.send(&message);
    server.shutdown().unwrap();
    assert_eq!(client.answer(0, 0).cookie, 5);
    assert!(client.is_closed());
    end.recv_timeout(Duration::from_secs(10)).unwrap();
    let mut page = vec![0; 4096];
    device.read_at(&mut page, 0).unwrap();
    assert!(page == noise(5, 4096));
}

#[test]
fn an_export_that_is_not_there_is_refused() {
    let server = adopter(&device(MIB));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let refused = server.adopt(ours.into(), "other", || panic!("it never began"));
    assert!(matches!(refused, Err(Error::UnknownExport { name }) if name == "other"));
    assert!(theirs.write_all(b"x").is_err(), "the socket is closed");
    assert!(matches!(
        Server::builder().adopter().err().unwrap(),
        Error::NoExport
    ));
}
