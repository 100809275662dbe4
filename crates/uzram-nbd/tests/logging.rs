//! Each broken connection is logged once, as a warning with its reason and its peer; an ordinary end is not.

mod common;

use common::*;
use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex},
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a connection and takes it to some stage.
type Connect<'a> = Box<dyn Fn() -> Client + 'a>;

#[test]
fn each_broken_connection_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let fixture = Fixture::new(MIB);
    let many_reads: Vec<u8> = (0..64)
        .flat_map(|i| request(0, cmd::READ, i, 0, 512))
        .collect();
    let long = [
        &IHAVEOPT.to_be_bytes()[..],
        &[0, 0, 0, 1, 0, 0, 0xff, 0],
        &[0x1b; 0xff00],
    ];
    let escape_63_times = format!("no export is named \"{}", "\\u{1b}".repeat(63));
    let cases: [(&str, Connect<'_>, Vec<u8>); 8] = [
        (
            &escape_63_times,
            Box::new(|| fixture.haggling()),
            long.concat(),
        ),
        (
            "bad option magic 0x4747474747474747",
            Box::new(|| fixture.haggling()),
            vec![b'G'; 16],
        ),
        (
            "no export is named \"x\"",
            Box::new(|| fixture.haggling()),
            { [&IHAVEOPT.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 1], b"x"].concat() },
        ),
        (
            "bad request magic 0x47474747",
            Box::new(|| fixture.simple()),
            vec![b'G'; 28],
        ),
        (
            "bad request magic 0x47474747",
            Box::new(|| fixture.simple()),
            { [&many_reads[..], &[b'G'; 28], &many_reads].concat() },
        ),
        (
            "in the middle of a message",
            Box::new(|| fixture.simple()),
            { [&many_reads[..], &request(0, cmd::WRITE, 1, 0, 9)].concat() },
        ),
        (
            "in the middle of a message",
            Box::new(|| fixture.simple()),
            { [request(0, cmd::WRITE, 1, 0, 1 << 20), vec![1; 700_000]].concat() },
        ),
        (
            "a payload of 4294967295 bytes",
            Box::new(|| fixture.simple()),
            request(0, 1, 1, 0, u32::MAX),
        ),
    ];
    for (reason, client, bytes) in &cases {
        let mut client = client();
        let _ = client.stream.write_all(bytes);
        if let Stream::Unix(stream) = &client.stream {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let _ = client.stream.read_to_end(&mut Vec::new());
        while fixture.handle.as_ref().unwrap().connections() > 0 {
            std::thread::yield_now();
        }
        let text = String::from_utf8(std::mem::take(&mut *log.0.lock().unwrap())).unwrap();
        assert_eq!(text.lines().count(), 1, "{reason}: {text}");
        assert!(text.len() < 1000, "{} bytes", text.len());
        assert!(
            text.contains(&format!("pid {} (uid ", std::process::id())),
            "{text}"
        );
        assert!(
            text.contains("WARN") && text.contains(reason),
            "{reason}: {text}"
        );
    }
    drop(cases);
    let mut orderly = fixture.simple();
    orderly.send(&request(0, cmd::DISC, 0, 0, 0));
    assert!(orderly.is_closed());
    drop(fixture.simple());
    // A stop in the middle of a message is the server's doing.
    let (mut haggling, mut sending) = (fixture.haggling(), fixture.simple());
    haggling.send(&[b'I'; 5]);
    sending.send(&request(0, cmd::WRITE, 1, 0, 4096));
    fixture.stop();
    assert_eq!(log.0.lock().unwrap().len(), 0);

    // Who is refused is named once, whatever he does then.
    let fixture = Fixture::with(MIB, |b| b.max_connections(1));
    let _only = fixture.simple();
    let mut refused = fixture.haggling();
    let why = info_request("zram0", &[]);
    assert_eq!(refused.verdict(opt::GO, &why), rep::ERR_POLICY);
    refused.send(b"nonsense that is no option");
    let _ = refused.stream.read_to_end(&mut Vec::new());
    let text = String::from_utf8(std::mem::take(&mut *log.0.lock().unwrap())).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("refused: 1 client is connected") && text.contains("pid "));
}
