//! A server in waiting, for swap devices: started while all is well, and told by the keeper when the device needs a server.
//!
//! When a server dies nothing can be read from swap until there is another. To start one from its file would be to wait for
//! pages of the program, of its libraries or of files in the run directory that are swapped out themselves (they are where
//! the root file system or `/run` is a tmpfs). The standby is locked in memory whole, and has read what a server reads; it
//! becomes the next server by a fork, and so is there for the one after it. It has one thread, and so may fork.
//!
//! It ends when the keeper does, so that it never holds the device's lock alone.
//!
//! The keeper says one word a line: `serve`, or `look`: what the record says may have changed. The standby answers with a
//! report when the server was forked and when that one ended; the server itself reports that it is ready.

use std::io::{BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::event::{PollFd, PollFlags};

use crate::process::{pidfd, reap};
use crate::report::StartReport;
use uzram_spec::{Failure, Result};

/// How long a server that is forked may take to serve. It waits 20 s for its predecessor's end itself.
const PATIENCE: Duration = Duration::from_secs(40);

/// The keeper's end.
pub(crate) struct Standby {
    process: Child,
    begin: Instant,
    commands: PipeWriter,
    answers: BufReader<PipeReader>,
}

impl Standby {
    /// Starts it from a command line that ends in [`wait`].
    pub(crate) fn start(mut command: Command) -> Result<Standby> {
        let (stdin, commands) = std::io::pipe()?;
        let (answers, stdout) = std::io::pipe()?;
        let process = command.stdin(stdin).stdout(stdout).spawn()?;
        Ok(Standby {
            process,
            begin: Instant::now(),
            commands,
            answers: BufReader::new(answers),
        })
    }

    /// Makes it a server. Returns that one's process number and the device's path.
    pub(crate) fn serve(&mut self) -> Result<(u32, String)> {
        self.say("serve")?;
        let ended = || Failure::failed("the server ended before it served");
        let mut server = None;
        loop {
            self.wait_for_answer()?;
            match StartReport::read(&mut self.answers)? {
                None => {
                    let message = "the standby server is gone";
                    return Err(Failure::failed(message));
                }
                Some(StartReport::Note(text)) => tracing::warn!("{text}"),
                Some(StartReport::Failed(failure)) => return Err(failure),
                Some(StartReport::Forked(pid)) => server = Some(pid),
                Some(StartReport::Ended(pid)) if server == Some(pid) => return Err(ended()),
                // An old one, whose end is known.
                Some(StartReport::Ended(_)) => {}
                Some(StartReport::Ready { path, .. }) => {
                    if let Some(pid) = server {
                        return Ok((pid, path));
                    }
                }
            }
        }
    }

    /// An answer that does not come is as bad as a standby that is gone: the keeper has more to do than to wait for it.
    fn wait_for_answer(&self) -> Result {
        if !self.answers.buffer().is_empty() {
            return Ok(());
        }
        let limit = rustix::event::Timespec::try_from(PATIENCE).ok();
        let mut fds = [PollFd::new(self.answers.get_ref(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            Ok(0) => Err(Failure::failed("the standby server does not answer")),
            // A signal is the business of another thread.
            _ => Ok(()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it can be told to serve once more.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// How long ago it was started.
    pub(crate) fn lived(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Lets it read the record.
    pub(crate) fn look(&mut self) -> Result {
        self.say("look")
    }

    fn say(&mut self, word: &str) -> Result {
        Ok(self.commands.write_all(format!("{word}\n").as_bytes())?)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // It waits for words, which cannot come any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the standby: waits to be needed. Returns in the process that is to serve; the standby itself ends in here. `look` is
/// called whenever the record is to be read.
pub(crate) fn wait(mut look: impl FnMut()) -> Result {
    let mut server: Option<(u32, OwnedFd)> = None;
    loop {
        let stdin = std::io::stdin();
        let ended = match &server {
            None => false,
            Some((_, end)) => {
                let mut fds = [
                    PollFd::new(&stdin, PollFlags::IN),
                    PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN),
                ];
                match rustix::event::poll(&mut fds, None) {
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(std::io::Error::from(error).into()),
                    Ok(_) => !fds[1].revents().is_empty(),
                }
            }
        };
        if ended && let Some((pid, _)) = server.take() {
            reap(pid);
            StartReport::Ended(pid).send()?;
            continue;
        }
        match next_word()?.as_str() {
            "serve" => match fork::fork()? {
                Fork::Child => return Ok(()),
                Fork::Parent(pid) => {
                    let pid = pid.unsigned_abs();
                    StartReport::Forked(pid).send()?;
                    server = pidfd(pid).map(|end| (pid, end));
                }
            },
            "look" => look(),
            // The keeper is gone.
            _ => std::process::exit(0),
        }
    }
}

/// A line of stdin, without a buffer: what is buffered, poll does not see. Empty at the end.
fn next_word() -> Result<String> {
    let mut word = Vec::new();
    let mut byte = [0];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut byte) {
            Ok(1) if byte != *b"\n" => word.push(byte[0]),
            Ok(_) => return Ok(String::from_utf8_lossy(&word).into_owned()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
}
