//! TCP clients that vanish: their machine loses its power or its network, and says nothing.
//!
//! The tests run themselves again in a network namespace of their own, where the address of a client is taken away. From
//! then on no packet goes from or to it.

mod common;

use common::*;
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use uzram_nbd::{Export, Listen, RunningServer, Server};
use uzram_testkit::peers;

const INSIDE: &str = "UZRAM_NBD_TEST_NAMESPACE";

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// Whether this is the run in a namespace. Otherwise makes that run.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let flags = match rustix::process::geteuid().is_root() {
        true => "-n",
        false => "-rn",
    };
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, program]);
        command
    };
    let probe = || match unshare("true").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    if peers::have(test, &["unshare", "ip"]) && peers::possible(test, probe()) {
        let own = std::env::current_exe().unwrap();
        let status = unshare(own.to_str().unwrap())
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "in the namespace");
    }
    false
}

/// A network with a server and two machines.
struct Net {
    server: RunningServer,
    addr: SocketAddr,
}

impl Net {
    fn new(send_timeout: Option<Duration>) -> Self {
        ip("link set lo up");
        for host in 1..=3 {
            ip(&format!("addr add 10.99.0.{host}/32 dev lo"));
        }
        let mut builder = Server::builder()
            .export(Export::new("zram0", device(16 * MIB)))
            .allow_remote(true);
        if let Some(limit) = send_timeout {
            builder = builder.send_timeout(limit);
        }
        let server = builder.bind(&"tcp:10.99.0.1:0".parse().unwrap()).unwrap();
        let Listen::Tcp(addr) = server.local() else {
            panic!()
        };
        Net {
            server: server.start().unwrap(),
            addr,
        }
    }

    /// A client on a machine, which takes little before it reads.
    fn client(&self, host: u8) -> Client {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        net::bind(&socket, &SocketAddr::from(([10, 99, 0, host], 0))).unwrap();
        net::connect(&socket, &self.addr).unwrap();
        let mut client = Client::greeted(TcpStream::from(socket).into(), 3);
        client.go("zram0");
        client
    }

    fn cut(&self, host: u8) {
        ip(&format!("addr del 10.99.0.{host}/32 dev lo"));
        ip(&format!("route add blackhole 10.99.0.{host}"));
    }

    /// Waits until one client is left, and gives how long that took.
    fn until_one_is_left(&self, most: Duration) -> Duration {
        let begun = Instant::now();
        while self.server.connections() > 1 {
            assert!(begun.elapsed() < most, "it is still there");
            thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    }
}

#[test]
fn a_client_that_vanishes_while_it_is_sent_a_reply_is_gone_soon() {
    if !is_inside("a_client_that_vanishes_while_it_is_sent_a_reply_is_gone_soon") {
        return;
    }
    // One reply lies in the socket while the server waits for a request; and the server itself waits to send another.
    for replies in [1, 64] {
        let limit = Duration::from_secs(2);
        let net = Net::new(Some(limit));
        let (mut gone, mut other) = (net.client(2), net.client(3));
        for cookie in 0..replies {
            gone.request(0, cmd::READ, cookie, 0, 16 << 10);
        }
        thread::sleep(Duration::from_millis(200));
        net.cut(2);
        let took = net.until_one_is_left(Duration::from_secs(60));
        eprintln!("{replies} replies: gone after {took:?}, the limit being {limit:?}");
        assert_eq!(other.read(0, 1).data, [0]);
        drop(net);
        ip("route del blackhole 10.99.0.2");
        for host in [1, 3] {
            ip(&format!("addr del 10.99.0.{host}/32 dev lo"));
        }
    }
}

/// With the numbers that the documents name.
#[test]
#[ignore = "takes a minute"]
fn an_idle_client_that_vanishes_is_gone_within_two_minutes() {
    if !is_inside("an_idle_client_that_vanishes_is_gone_within_two_minutes") {
        return;
    }
    let net = Net::new(None);
    let (_gone, mut other) = (net.client(2), net.client(3));
    net.cut(2);
    let took = net.until_one_is_left(Duration::from_secs(120));
    eprintln!("gone after {took:?}");
    assert_eq!(other.read(0, 1).data, [0]);
}

/// The same while a reply is being sent.
#[test]
#[ignore = "takes a minute"]
fn a_reading_client_that_vanishes_is_gone_within_two_minutes() {
    if !is_inside("a_reading_client_that_vanishes_is_gone_within_two_minutes") {
        return;
    }
    let net = Net::new(None);
    let (mut gone, mut other) = (net.client(2), net.client(3));
    for cookie in 0..64 {
        gone.request(0, cmd::READ, cookie, 0, 1 << 20);
    }
    thread::sleep(Duration::from_millis(200));
    net.cut(2);
    let took = net.until_one_is_left(Duration::from_secs(120));
    eprintln!("gone after {took:?}");
    assert_eq!(other.read(0, 1).data, [0]);
}
