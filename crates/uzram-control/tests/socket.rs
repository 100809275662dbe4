//! The control socket under clients that are silent, trickle, read nothing or go away; and callers whose server stands
//! still. Every number of seconds here is generous: what must not happen is that one client waits for another.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uzram_control::{
    ControlError, ControlServer, Deadline, Handler, Request, Response, call, call_devices,
};

/// Counts what is carried out. Jobs wait for a word each; `BlockState` has an answer that fills any buffer.
struct Counting {
    carried_out: AtomicUsize,
    go_on: Mutex<Receiver<()>>,
}

impl Handler for Counting {
    fn handle(&self, request: Request) -> Result<Response, ControlError> {
        match request {
            Request::Ping => return Ok(Response::Done),
            Request::BlockState { .. } => {
                return Ok(Response::BlockState {
                    lines: "x".repeat(4 << 20),
                    next: 0,
                });
            }
            request if request.takes_long() => {
                let _ = self.go_on.lock().unwrap().recv();
            }
            _ => {}
        }
        self.carried_out.fetch_add(1, Ordering::SeqCst);
        Ok(Response::Done)
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    handler: Arc<Counting>,
    go_on: Sender<()>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let (go_on, words) = channel();
        let handler = Arc::new(Counting {
            carried_out: AtomicUsize::new(0),
            go_on: Mutex::new(words),
        });
        ControlServer::start(&socket, handler.clone()).unwrap();
        Bench {
            _dir: dir,
            socket,
            handler,
            go_on,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn carried_out(&self) -> usize {
        self.handler.carried_out.load(Ordering::SeqCst)
    }

    /// A ping is answered before any client's deadline could have made room for it.
    fn answers(&self) {
        let begin = Instant::now();
        assert_eq!(call(&self.socket, &Request::Ping).unwrap(), Response::Done);
        assert!(begin.elapsed() < Duration::from_secs(4), "others delay it");
    }
}

#[test]
fn silent_clients_delay_nobody() {
    let bench = Bench::new();
    // Three times as many as may be there at a time.
    let silent: Vec<UnixStream> = (0..200).map(|_| bench.connect()).collect();
    bench.answers();
    drop(silent);
    bench.answers();
}

#[test]
fn who_trickles_is_let_go_and_delays_nobody() {
    let bench = Bench::new();
    let mut trickling = bench.connect();
    let mut writer = trickling.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        let begin = Instant::now();
        while writer.write_all(b" ").is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(60), "for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    bench.answers();
    let mut answer = String::new();
    let _ = trickling.read_to_string(&mut answer);
    assert!(answer.contains("no request within 5 seconds"), "{answer}");
    trickle.join().unwrap();
}

#[test]
fn a_request_without_end_is_refused() {
    let bench = Bench::new();
    let mut stream = bench.connect();
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 64 && stream.write_all(&chunk).is_ok() {
        sent += 1;
    }
    // The longest line has 3 MiB; some more lies in the socket.
    assert!(sent < 6, "{sent} MiB were taken");
    bench.answers();
}

#[test]
fn clients_have_so_much_taken_of_them_together() {
    let bench = Bench::new();
    let part = vec![b'x'; 2 << 20];
    let mut waiting = Vec::new();
    let mut taken = 0;
    for _ in 0..16 {
        let mut stream = bench.connect();
        taken += usize::from(stream.write_all(&part).is_ok());
        waiting.push(stream);
    }
    // 12 MiB of all, and what lies in the socket of one who is refused.
    assert!((4..13).contains(&taken), "{taken} of 2 MiB each were taken");
    bench.answers();
}

#[test]
fn who_reads_no_answer_delays_nobody() {
    let bench = Bench::new();
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = bench.connect();
        let ask = r#"{"version":1,"op":"block_state","from":0,"max_bytes":1}"#;
        writeln!(stream, "{ask}").unwrap();
        idle.push(stream);
        bench.answers();
    }
    // One who reads late has it all.
    let mut answer = String::new();
    idle[7].read_to_string(&mut answer).unwrap();
    assert!(answer.len() > 4 << 20 && answer.ends_with('\n'));
}

#[test]
fn what_was_given_up_is_not_carried_out() {
    let bench = Bench::new();
    let job = Request::Compact { max_bytes: 1 };
    let socket = bench.socket.clone();
    let first = {
        let job = job.clone();
        std::thread::spawn(move || call(&socket, &job).unwrap())
    };
    // It waits behind the first, hears that it does, and still ends when its whole time is over.
    let deadline = Deadline {
        silence: Duration::from_secs(10),
        whole: Some(Duration::from_secs(3)),
        restart: false,
    };
    std::thread::sleep(Duration::from_millis(500));
    let given_up = call_devices(&[(&bench.socket, "")], &job, deadline)
        .pop()
        .unwrap();
    let error = given_up.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("will not carry out"), "{error}");
    // A client that hears nothing of how it goes gives up by going.
    let mut raw = bench.connect();
    writeln!(raw, r#"{{"version":1,"op":"count_idle"}}"#).unwrap();
    drop(raw);
    for _ in 0..3 {
        bench.go_on.send(()).unwrap();
    }
    assert_eq!(first.join().unwrap(), Response::Done);
    // Jobs are done in their order: when this one is, those before it would be.
    assert_eq!(call(&bench.socket, &job).unwrap(), Response::Done);
    assert_eq!(bench.carried_out(), 2, "the first and the last");
}

#[test]
fn a_job_that_takes_longer_than_the_silence_is_waited_for() {
    let bench = Bench::new();
    let go_on = bench.go_on.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        go_on.send(()).unwrap();
    });
    let deadline = Deadline {
        silence: Duration::from_secs(3),
        ..Deadline::default()
    };
    let job = Request::Compact { max_bytes: 1 };
    let answer = call_devices(&[(&bench.socket, "")], &job, deadline)
        .pop()
        .unwrap();
    assert_eq!(answer.unwrap(), Response::Done);
    later.join().unwrap();
}

/// A socket that nobody accepts from is a stopped server's; one whose queue is full takes no connection either.
#[test]
fn many_are_asked_at_once_and_the_dead_hold_up_nobody() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let stopped = dir.path().join("stopped.sock");
    let listener = UnixListener::bind(&stopped).unwrap();
    let full = dir.path().join("full.sock");
    let listener_of_full = UnixListener::bind(&full).unwrap();
    rustix::net::listen(&listener_of_full, 0).unwrap();
    let _in_its_queue = UnixStream::connect(&full).unwrap();
    let absent = dir.path().join("absent.sock");
    let mut sockets = vec![bench.socket.clone(); 200];
    sockets.extend([stopped, full, absent]);
    let deadline = Deadline {
        silence: Duration::from_secs(1),
        whole: Some(Duration::from_secs(1)),
        restart: true,
    };
    let begin = Instant::now();
    let devices: Vec<_> = sockets.iter().map(|socket| (socket, "")).collect();
    let answers = call_devices(&devices, &Request::Reset, deadline);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(done, 200);
    let errors: Vec<String> = answers[200..]
        .iter()
        .map(|answer| answer.as_ref().unwrap_err().to_string())
        .collect();
    assert!(errors[0].contains("no sign of life"), "{errors:?}");
    assert!(errors[1].contains("nobody takes"), "{errors:?}");
    assert!(errors[2].contains("No such file"), "{errors:?}");
    // The stopped server goes on: it finds a request whose client has closed its side, and no one to tell.
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = String::new();
    stream.read_to_string(&mut request).unwrap();
    assert!(request.contains("reset"), "{request}");
}
