//! A peer on a unix socket that says anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that a server may be silent: nothing that an input asks for takes so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an input: what a socket takes while nobody reads it, so that a target needs one thread.
pub const MOST: usize = 32 << 10;

/// A socket's directory, which goes with the value. In memory where that is to be had.
pub struct ScratchDir {
    dir: tempfile::TempDir,
}

impl Default for ScratchDir {
    fn default() -> ScratchDir {
        ScratchDir::new()
    }
}

impl ScratchDir {
    /// Makes a directory.
    #[expect(
        clippy::expect_used,
        reason = "a target without a directory can do nothing"
    )]
    pub fn new() -> ScratchDir {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        ScratchDir {
            dir: dir.expect("a temporary directory"),
        }
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Connects, says all, and returns what is answered until the server hangs up. `ends`: says that nothing more will come.
///
/// Panics where the server is silent for long: a hang is a finding, too.
#[expect(clippy::panic, clippy::expect_used, reason = "a panic is a finding")]
pub fn talk(socket: &Path, said: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("the server accepts");
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .expect("a timeout");
    // A server that has heard enough hangs up, which is no fault.
    let _ = stream.write_all(&said[..said.len().min(MOST)]);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("silent for {PATIENCE:?} after {} bytes", heard.len())
        }
        // Hung up while there was more to hear.
        _ => heard,
    }
}
