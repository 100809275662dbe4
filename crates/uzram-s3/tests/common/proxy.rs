//! A slow way to a store, so that something can happen in the middle of an upload.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that are handed on at a time.
const PIECE: usize = 64 << 10;

/// Listens on loopback, and hands on what comes.
pub(crate) struct Proxy {
    port: u16,
    sent: Arc<AtomicU64>,
    /// Bytes a second; 0: without a bound.
    rate: Arc<AtomicU64>,
}

impl Proxy {
    /// A way to `to` that lets so many bytes a second through, to the store.
    pub(crate) fn start(to: &str, rate: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sent, rate) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(rate)));
        let (to, own_sent, own_rate) = (to.to_owned(), sent.clone(), rate.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there: the client sees that.
                let Ok(server) = TcpStream::connect(&to) else {
                    continue;
                };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (sent, rate) = (own_sent.clone(), own_rate.clone());
                std::thread::spawn(move || hand_on(client, server, &sent, &rate));
                std::thread::spawn(move || {
                    hand_on(back.0, back.1, &AtomicU64::new(0), &AtomicU64::new(0));
                });
            }
        });
        Proxy { port, sent, rate }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes that went to the store.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, sent: &AtomicU64, rate: &AtomicU64) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let rate = rate.load(Ordering::Relaxed);
        if rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        sent.fetch_add(count as u64, Ordering::Relaxed);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
