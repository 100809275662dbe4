//! The server as a frontend: `vhost-user`, a socket. A client that connects again goes on where it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uzram_frontend::{
    ALLOW_UID, Front, Frontend, FrontendOption, Handover, LISTEN, Need, POLL, READ_ONLY, Serving,
    UnixSocket, allowed_uids, check_socket_path, poll_time, unix_path,
};
use uzram_spec::{Failure, FrontendSpec, Result};

use crate::{Error, RunningServer, Server, ServerBuilder};

/// How long a client that has hung up may still be counted.
const HANGING_UP: Duration = Duration::from_millis(500);

/// The frontend `vhost-user`.
pub struct VhostUserFrontend;

/// A device behind a socket.
struct VhostUserFront {
    server: Option<RunningServer>,
    path: PathBuf,
}

fn serve(serving: &Serving<'_>, path: &Path) -> Result<Box<dyn Front>> {
    let builder = Server::builder(serving.name, serving.device.clone());
    let builder = builder
        .read_only(serving.spec.flag(READ_ONLY.name))
        .poll(poll_time(serving.spec));
    let uids = allowed_uids(serving.spec).into_iter();
    let builder = uids.fold(builder, ServerBuilder::allow_uid);
    Ok(Box::new(VhostUserFront {
        server: Some(builder.bind(path)?.start()?),
        path: path.into(),
    }))
}

impl Frontend for VhostUserFrontend {
    fn name(&self) -> &'static str {
        "vhost-user"
    }

    fn about(&self) -> &'static str {
        "a vhost-user-blk socket, for virtual machines"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[LISTEN, ALLOW_UID, READ_ONLY, POLL]
    }

    fn check(&self, spec: &FrontendSpec) -> Result {
        match spec.text(LISTEN.name).and_then(unix_path) {
            Some(path) => Ok(UnixSocket::check(path)?),
            None => Ok(()),
        }
    }

    fn has_node(&self) -> bool {
        false
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn handover(&self) -> Handover {
        Handover::Reconnects
    }

    fn poll(&self, spec: &FrontendSpec) -> Option<Duration> {
        Some(poll_time(spec))
    }

    fn opens(&self, spec: &FrontendSpec) -> Vec<PathBuf> {
        let given = spec.text(LISTEN.name).and_then(unix_path);
        given.into_iter().map(Path::to_owned).collect()
    }

    fn claims(&self, spec: &FrontendSpec) -> Vec<(&'static str, String)> {
        // However its path is written.
        let path = spec.text(LISTEN.name).and_then(unix_path);
        let path = path.map(|path| path.components().collect::<PathBuf>());
        path.map(|path| (LISTEN.name, format!("unix:{}", path.display())))
            .into_iter()
            .collect()
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        Ok(())
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        match serving.spec.text(LISTEN.name).and_then(unix_path) {
            Some(path) => serve(serving, path),
            None => {
                let path = serving.file("vhost-user.sock");
                let shorter =
                    "with --listen unix:PATH and a shorter path, or a shorter UZRAM_RUN_DIR";
                check_socket_path(&path).map_err(|why| Failure::usage(why).with_hint(shorter))?;
                serve(serving, &path)
            }
        }
    }

    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>> {
        serve(serving, Path::new(word))
    }
}

impl Front for VhostUserFront {
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn resume_word(&self) -> String {
        self.path()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        // Who has just hung up is still here until its thread has noticed.
        let begin = Instant::now();
        let mut peer = self.peer();
        while peer.is_some() && begin.elapsed() < HANGING_UP {
            std::thread::sleep(Duration::from_millis(5));
            peer = self.peer();
        }
        match peer {
            None => Ok(None),
            Some(peer) => {
                let path = self.path.display();
                let message = format!("{path} is in use: 1 vhost-user client is connected: {peer}");
                Err(Failure::busy(message))
            }
        }
    }

    fn clients(&self) -> Option<u64> {
        Some(self.peer().is_some().into())
    }

    /// A client learns the size when it connects.
    fn can_resize(&self) -> Result {
        self.hold_idle()
            .map(|_| ())
            .map_err(|busy| Failure::busy(format!("{busy}, and cannot be told another size")))
    }

    fn remove(&mut self) -> Result {
        self.hold_idle()?;
        self.server = None;
        Ok(())
    }

    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        let client = self.peer();
        self.server = None;
        Ok(client
            .into_iter()
            .map(|peer| format!("disconnected 1 vhost-user client: {peer}"))
            .collect())
    }

    fn hand_over(&mut self) {
        // What was taken is answered first.
        self.server = None;
    }
}

impl VhostUserFront {
    fn peer(&self) -> Option<String> {
        self.server.as_ref().and_then(RunningServer::peer)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Socket(error) => error.into(),
            error => Failure::failed(error),
        }
    }
}
