//! Another program in the place of this one, while the device is in use: the keeper executes it and lets the server hand over;
//! if the new one does not serve, the old one comes back.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use uzram_control::{Request, Response};
use uzram_spec::Result;

use super::{Keeper, KeeperState, UPGRADE};
use crate::logging;
use crate::process::{pidfd, reap, wait_for_end, wait_for_end_within};

/// How long a server that hands over may take to end.
const HAND_OVER: Duration = Duration::from_secs(10);

impl Keeper {
    /// Lets a server go, so that another can take its place. Where the server refuses it goes on: somebody uses a node that
    /// would go with it.
    pub(super) fn end_server(&mut self, pid: u32) -> Result {
        let end = pidfd(pid);
        let asked = self.ask_server(&Request::HandOver);
        if let Ok(Response::Error(error)) = asked {
            return Err(error.into());
        }
        let ended = |end: &OwnedFd| wait_for_end_within(end, HAND_OVER);
        if let Some(end) = end
            && (!matches!(asked, Ok(Response::Done)) || !ended(&end))
        {
            // Nothing that was acknowledged is lost by this.
            tracing::warn!("the old server does not hand over: killing it");
            let _ = rustix::process::pidfd_send_signal(&end, Signal::KILL);
            wait_for_end(&end);
        }
        reap(pid);
        self.server = None;
        Ok(())
    }

    /// Executes another program in this process's place. It was checked to know the image.
    pub(super) fn become_program(&mut self, program: &Path) {
        tracing::info!(program = %program.display(), "upgrading");
        let standby = self.standby.take().is_some();
        // Kept open across the execution, so that there is a way back even if the file is gone.
        let own = File::open("/proc/self/exe");
        let rollback = own.as_ref().ok().and_then(|file| {
            rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).ok()?;
            Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
        });
        let state = KeeperState {
            hand_over: self.server.is_some(),
            rollback,
            ..self.state()
        };
        logging::flush();
        let error = Command::new(program).args(state.arguments()).exec();
        self.upgrade_failed(&format!("cannot execute {}: {error}", program.display()));
        if standby {
            self.start_standby();
        }
    }

    pub(super) fn upgrade_done(&self) {
        let word = self.claim.file(UPGRADE);
        if self.server.is_some() && std::fs::read(&word).is_ok_and(|why| why.is_empty()) {
            let _ = std::fs::remove_file(word);
        }
    }

    /// Leaves word for who asked for it: the answer was given before the attempt.
    pub(super) fn upgrade_failed(&self, why: &str) {
        tracing::error!("{why}");
        if let Err(error) = std::fs::write(self.claim.file(UPGRADE), why) {
            tracing::error!(%error, "cannot leave word of it");
        }
    }

    /// Goes back to the old program: this one's server does not start, or the old one's, which lives, does not hand over.
    pub(super) fn roll_back(mut self, state: &KeeperState, why: &str) -> Result {
        self.upgrade_failed(why);
        if let Some(old) = &state.rollback {
            tracing::warn!("going back to the old program");
            let back = self.state();
            logging::flush();
            let error = Command::new(old)
                .arg0("uzram")
                .args(back.arguments())
                .exec();
            tracing::error!(%error, "the old program cannot be executed");
        }
        match self.server {
            Some(pid) => self.watch_server(pid),
            None => {
                self.failures = 1;
                self.start_again();
            }
        }
        self.watch()
    }
}
