//! A client of NBD that does as little as possible, for tests that look at when it is served, and not at what.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A client in the transmission phase; `None` if it is refused.
pub(crate) fn connect(path: &Path, name: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(path).ok()?;
    let patience = Duration::from_secs(60);
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.read_exact(&mut [0; 18]).ok()?;
    let mut hello = vec![0, 0, 0, 3];
    hello.extend(b"IHAVEOPT\0\0\0\x01");
    hello.extend((name.len() as u32).to_be_bytes());
    hello.extend(name.as_bytes());
    stream.write_all(&hello).ok()?;
    stream.read_exact(&mut [0; 10]).ok()?;
    Some(stream)
}

/// Reads the first bytes.
pub(crate) fn read(stream: &mut UnixStream, len: u32) -> std::io::Result<Vec<u8>> {
    let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
    message.extend([0; 20]);
    message.extend(len.to_be_bytes());
    stream.write_all(&message)?;
    let mut reply = vec![0; 16 + len as usize];
    stream.read_exact(&mut reply)?;
    Ok(reply.split_off(16))
}
