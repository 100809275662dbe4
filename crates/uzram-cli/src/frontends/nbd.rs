//! An NBD socket. Clients of a server that died connect again: the socket is the same.

use std::fs::File;
use std::path::Path;

use uzram_nbd::{Export, Listen, RunningServer};

use super::{Context, Front, Kind};
use crate::exit::{Failure, Kind as FailureKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "nbd",
    about: "an NBD socket, for qemu, libnbd, nbd-client, fio",
    swap: false,
    probe: || Ok(()),
    start: |context| {
        let listen = context.settings.listen.clone();
        let listen = listen.unwrap_or_else(|| Listen::Unix(context.claim.file("nbd.sock")));
        serve(context, &listen)
    },
    resume: |context, word| serve(context, &word.parse::<Listen>()?),
    clear: |_: &Path| Ok(Vec::new()),
};

struct Nbd {
    handle: Option<RunningServer>,
    uri: String,
    listen: String,
}

fn serve(context: &Context<'_>, listen: &Listen) -> Result<Box<dyn Front>> {
    let name = &context.claim.name;
    let server = context
        .settings
        .nbd_server()
        .export(Export::new(name.as_str(), context.device.clone()))
        .bind(listen)?;
    let (uri, listen) = (server.uri(name), server.local().to_string());
    Ok(Box::new(Nbd {
        handle: Some(server.start()?),
        uri,
        listen,
    }))
}

impl Front for Nbd {
    fn path(&self) -> String {
        self.uri.clone()
    }

    fn resume(&self) -> String {
        self.listen.clone()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        let uri = &self.uri;
        let clients = match self.handle.as_ref().map_or(0, RunningServer::connections) {
            0 => return Ok(None),
            1 => "1 NBD client is".into(),
            n => format!("{n} NBD clients are"),
        };
        let message = format!("{uri} is in use: {clients} connected");
        Err(Failure::new(FailureKind::Busy, message))
    }

    /// The protocol tells clients the size when they connect: who is connected keeps the one that he knows.
    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn remove(&mut self) -> Result {
        self.hold_idle()?;
        self.shut_down()
    }

    fn hand_over(&mut self) {
        // What was received is answered first.
        if let Err(failure) = self.shut_down() {
            tracing::warn!("ending the NBD server: {failure}");
        }
    }
}

impl Nbd {
    fn shut_down(&mut self) -> Result {
        match self.handle.take() {
            Some(handle) => Ok(handle.shutdown()?),
            None => Ok(()),
        }
    }
}
