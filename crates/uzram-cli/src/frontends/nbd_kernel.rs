//! `/dev/nbdN`: the kernel's NBD client on sockets of ours. It survives its server as long as a keeper starts another.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use uzram_nbd::{Adopter, Export};
use uzram_nbd_kernel::{KernelNbd, KernelNbdOptions};

use super::{Context, Front, Kind};
use crate::exit::{Failure, Kind as FailureKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "nbd-kernel",
    about: "/dev/nbdN, the kernel's NBD client; survives its server, too",
    swap: false,
    probe: || uzram_nbd_kernel::probe().map_err(|error| error.to_string()),
    start: |context| {
        let front = KernelNbd::attach(adopter(context)?, &options(context))?;
        Ok(Box::new(front))
    },
    resume: |context, word| {
        let index = word.parse::<u32>();
        let index = index
            .map_err(|_| Failure::new(FailureKind::Failed, format!("no nbd number: '{word}'")))?;
        let front = KernelNbd::reattach(adopter(context)?, index, &options(context))?;
        Ok(Box::new(front))
    },
    clear: |dir| {
        let name = name(dir);
        match uzram_nbd_kernel::find(&name) {
            Some(index) => {
                uzram_nbd_kernel::clear_stale(index, &name).map_err(|error| error.to_string())
            }
            None => Ok(Vec::new()),
        }
    },
};

/// How long the kernel keeps requests while there is no server: longer than a keeper takes to start one by far.
const DEAD_CONN_TIMEOUT: Duration = Duration::from_secs(600);

/// What the kernel knows the device by.
fn name(dir: &Path) -> String {
    dir.display().to_string()
}

fn adopter(context: &Context<'_>) -> Result<Adopter> {
    let export = Export::new(context.claim.name.as_str(), context.device.clone());
    Ok(context.settings.nbd_server().export(export).adopter()?)
}

fn options(context: &Context<'_>) -> KernelNbdOptions {
    let mut options = KernelNbdOptions::new(name(&context.claim.dir));
    options.index = context.settings.number;
    options.dead_conn_timeout = DEAD_CONN_TIMEOUT;
    options
}

impl Front for KernelNbd {
    fn path(&self) -> String {
        self.node().display().to_string()
    }

    fn resume(&self) -> String {
        self.index().to_string()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        Ok(self.exclusive()?)
    }

    fn remove(&mut self) -> Result {
        Ok(KernelNbd::remove(self)?)
    }
}
