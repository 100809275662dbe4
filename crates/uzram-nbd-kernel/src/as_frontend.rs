//! [`KernelNbd`] as a frontend: `nbd-kernel`. It survives its server as long as a keeper starts another.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use uzram_frontend::{
    BLOCK_DEVICE, CapabilitySet, Front, Frontend, FrontendOption, Handover, NUMBER, Need, PARTSCAN,
    POLL, Serving, kind_of_node, poll_time,
};
use uzram_nbd::{Adopter, Export};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

use crate::{Error, KernelNbd, KernelNbdOptions};

/// The frontend `nbd-kernel`.
pub struct NbdKernelFrontend;

/// How long the kernel keeps requests while there is no server: far longer than a keeper takes to start one.
const DEAD_CONN_TIMEOUT: Duration = Duration::from_secs(600);

/// The name that the kernel keeps with the device.
fn kernel_name(dir: &Path) -> String {
    dir.display().to_string()
}

fn adopter(serving: &Serving<'_>) -> Result<Adopter> {
    let export = Export::new(serving.name, serving.device.clone()).honour_no_hole(false);
    Ok(uzram_nbd::server_builder(serving.spec)
        .export(export)
        .adopter()?)
}

fn options(serving: &Serving<'_>) -> KernelNbdOptions {
    let mut options = KernelNbdOptions::new(kernel_name(serving.dir));
    options.index = serving.spec.small(NUMBER.name);
    options.dead_conn_timeout = DEAD_CONN_TIMEOUT;
    options
}

impl Frontend for NbdKernelFrontend {
    fn name(&self) -> &'static str {
        "nbd-kernel"
    }

    fn about(&self) -> &'static str {
        "/dev/nbdN, the kernel's NBD client; survives its server, too"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[POLL, NUMBER, PARTSCAN]
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn handover(&self) -> Handover {
        Handover::Survives
    }

    fn poll(&self, spec: &FrontendSpec) -> Option<Duration> {
        Some(poll_time(spec))
    }

    fn capabilities(&self, _spec: &FrontendSpec) -> CapabilitySet {
        BLOCK_DEVICE
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        crate::probe().map_err(Need::new)
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        let most = std::fs::read_to_string("/sys/module/nbd/parameters/max_part");
        if serving.spec.flag(PARTSCAN.name) && most.is_ok_and(|most| most.trim() == "0") {
            let message = "the module nbd was loaded with max_part=0 and makes no partitions";
            return Err(Failure::impossible(message));
        }
        let front = KernelNbd::attach(adopter(serving)?, &options(serving))?;
        Ok(Box::new(front))
    }

    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>> {
        let index = word
            .parse::<u32>()
            .map_err(|_| Failure::failed(format!("no number of an nbd node: '{word}'")))?;
        let front = KernelNbd::reattach(adopter(serving)?, index, &options(serving))?;
        Ok(Box::new(front))
    }

    fn clear(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        let name = kernel_name(dir);
        match crate::find(&name) {
            Some(index) => crate::clear_stale(index, &name).map_err(|error| error.to_string()),
            None => Ok(Vec::new()),
        }
    }
}

impl Front for KernelNbd {
    fn path(&self) -> String {
        self.node().display().to_string()
    }

    fn resume_word(&self) -> String {
        self.index().to_string()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        Ok(self.exclusive()?)
    }

    fn remove(&mut self) -> Result {
        Ok(KernelNbd::remove(self)?)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::NoClient | Error::NeedsRoot => FailureKind::Impossible,
            Error::Taken { .. } => FailureKind::Busy,
            Error::Node(error) => kind_of_node(error),
            Error::System(step) => FailureKind::from_io(&step.source),
            Error::Refused { source, .. } => FailureKind::from_io(&(*source).into()),
            _ => FailureKind::Failed,
        };
        Failure::new(kind, error)
    }
}
