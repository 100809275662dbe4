//! A store that does what no good one does: ignores conditions, loses answers, refuses without a reason. It believes every
//! signature.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What goes wrong with a request, once.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is carried out, and the connection ends without an answer.
    LosesAnswer,
    /// It is not carried out, and this is the answer.
    Answers(u16, String),
    /// Half of the object comes, then the connection ends.
    CutsBody,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, String)>,
    version: u64,
    ignores_conditions: bool,
    /// Method, end of the key, what happens, how often still.
    faults: Vec<(String, String, Fault, u32)>,
}

/// A store on loopback that has every bucket.
pub(crate) struct Fake {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct Asked {
    method: String,
    key: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Fake {
    pub(crate) fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = own.clone();
                std::thread::spawn(move || serve(&client, &state));
            }
        });
        Fake { port, state }
    }

    pub(crate) fn ignoring_conditions() -> Fake {
        let fake = Fake::start();
        fake.state.lock().unwrap().ignores_conditions = true;
        fake
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What happens to the next requests of a method for keys with this end.
    pub(crate) fn fault(&self, method: &str, key: &str, fault: Fault, times: u32) {
        let mut state = self.state.lock().unwrap();
        state.faults.push((method.into(), key.into(), fault, times));
    }

    pub(crate) fn object(&self, end: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let mut found = state.objects.iter().filter(|(key, _)| key.ends_with(end));
        found.next().map(|(_, (bytes, _))| bytes.clone())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn add(&self, key: &str, bytes: &[u8]) {
        self.state.lock().unwrap().write(key, bytes);
    }
}

impl State {
    fn write(&mut self, key: &str, bytes: &[u8]) -> String {
        self.version += 1;
        let etag = format!("\"v{}\"", self.version);
        self.objects
            .insert(key.into(), (bytes.into(), etag.clone()));
        etag
    }

    fn fault(&mut self, asked: &Asked) -> Option<Fault> {
        let is_meant = |of: &&mut (String, String, Fault, u32)| {
            of.0 == asked.method && asked.key.ends_with(&of.1) && of.3 > 0
        };
        let (_, _, fault, times) = self.faults.iter_mut().find(is_meant)?;
        *times -= 1;
        Some(fault.clone())
    }

    fn answer(&mut self, asked: &Asked) -> (u16, String, Vec<u8>) {
        let header = |name: &str| asked.headers.get(name).cloned();
        let found = self.objects.get(&asked.key).cloned();
        match asked.method.as_str() {
            "PUT" => {
                if !self.ignores_conditions {
                    let is_new = header("if-none-match").is_none() || found.is_none();
                    let etag = found.as_ref().map(|(_, etag)| etag.clone());
                    let is_same = header("if-match").is_none_or(|wanted| etag == Some(wanted));
                    if !is_new || !is_same {
                        return (412, String::new(), xml("PreconditionFailed", ""));
                    }
                }
                let etag = self.write(&asked.key, &asked.body);
                (200, format!("ETag: {etag}\r\n"), Vec::new())
            }
            "DELETE" => {
                self.objects.remove(&asked.key);
                (204, String::new(), Vec::new())
            }
            "GET" if asked.query.contains("list-type=2") => {
                (200, String::new(), self.list(&asked.query))
            }
            _ => match found {
                None => (404, String::new(), xml("NoSuchKey", "")),
                Some((bytes, etag)) => {
                    let stamp = "Last-Modified: Mon, 30 Nov 2026 08:00:00 GMT\r\n";
                    let all = bytes.len();
                    let range = header("range").and_then(|range| {
                        let (begin, end) = range.strip_prefix("bytes=")?.split_once('-')?;
                        let end = end.parse().map_or(all, |end: usize| all.min(end + 1));
                        Some((begin.parse::<usize>().ok()?, end))
                    });
                    match range {
                        Some((begin, end)) if begin < end => (
                            206,
                            format!(
                                "ETag: {etag}\r\n{stamp}Content-Range: bytes {begin}-{}/{all}\r\n",
                                end - 1
                            ),
                            bytes[begin..end].to_vec(),
                        ),
                        _ => (200, format!("ETag: {etag}\r\n{stamp}"), bytes),
                    }
                }
            },
        }
    }

    fn list(&self, query: &str) -> Vec<u8> {
        let prefix = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("prefix="));
        let prefix = decode(prefix.unwrap_or_default());
        let mut text = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (key, (bytes, etag)) in &self.objects {
            let key = key.split_once('/').map_or("", |(_, key)| key);
            if key.starts_with(&prefix) {
                let etag = etag.replace('"', "&quot;");
                text += &format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-30T08:00:00.500Z</LastModified><ETag>{etag}</ETag>\
                     <Size>{}</Size></Contents>",
                    bytes.len()
                );
            }
        }
        (text + "</ListBucketResult>").into_bytes()
    }
}

pub(crate) fn xml(code: &str, message: &str) -> Vec<u8> {
    format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>").into_bytes()
}

fn serve(client: &TcpStream, state: &Mutex<State>) {
    let mut from = BufReader::new(client);
    let mut to = client;
    while let Some(asked) = read(&mut from) {
        let (fault, answer) = {
            let mut state = state.lock().unwrap();
            let fault = state.fault(&asked);
            let answer = match &fault {
                Some(Fault::Answers(status, body)) => {
                    (*status, String::new(), body.clone().into_bytes())
                }
                _ => state.answer(&asked),
            };
            (fault, answer)
        };
        let (status, headers, body) = answer;
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {length}\r\n\r\n");
        let has_body = asked.method != "HEAD";
        let sent = match fault {
            Some(Fault::LosesAnswer) => return,
            Some(Fault::CutsBody) => {
                let _ = to
                    .write_all(head.as_bytes())
                    .and_then(|()| to.write_all(&body[..length / 2]));
                return;
            }
            _ if has_body => to
                .write_all(head.as_bytes())
                .and_then(|()| to.write_all(&body)),
            _ => to.write_all(head.as_bytes()),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn read(from: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|of| of.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Asked {
        method,
        key: decode(path.trim_start_matches('/')),
        query: query.to_owned(),
        headers,
        body,
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code =
            code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
