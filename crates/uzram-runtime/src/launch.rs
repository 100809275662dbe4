//! [`launch`]: from a description to a device that works, in processes of its own.

use std::io::{BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use uzram_control::RunDir;
use uzram_spec::{DeviceSpec, Failure, FailureKind, Result};

use crate::report::Report;
use crate::{client, process, swap};

/// A device that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its name.
    pub name: String,
    /// Its node or URI.
    pub path: String,
}

/// What a new keeper reads from its stdin.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// The run directory.
    pub(crate) run: PathBuf,
    /// The device to make.
    pub(crate) spec: DeviceSpec,
}

/// Makes a device in that run directory and returns when it can be used. `note` is told what its user should know
/// meanwhile, such as which frontend was chosen and why.
///
/// The program ([`process::serve_with`]) is started anew as the device's keeper (`uzram keep`), which starts the server. A swap device is
/// also switched on. Fails with what keeper or server say; then nothing is left of the device.
pub fn launch(spec: &DeviceSpec, run: &RunDir, note: &mut dyn FnMut(&str)) -> Result<Created> {
    spec.check()?;
    let order = Order {
        run: run.path(),
        spec: spec.clone(),
    };
    let order = serde_json::to_vec(&order).map_err(|e| Failure::new(FailureKind::Failed, e))?;
    let mut keeper = {
        let _alone = process::alone_to_spawn();
        // The keeper lives long: it must not keep this process's locks and pipes.
        close_fds::set_fds_cloexec(3, &[]);
        Command::new(process::program())
            .arg0("uzram")
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Failure::new(
                    FailureKind::Failed,
                    format!("cannot start a keeper: {error}"),
                )
            })?
    };
    let pid = keeper.id();
    if let Some(mut stdin) = keeper.stdin.take()
        && let Err(error) = stdin.write_all(&order)
    {
        // It has ended, and its report says why.
        tracing::debug!(%error, "the keeper did not read its order");
    }
    let reports = keeper.stdout.take().map(BufReader::new);
    let made = match reports {
        Some(mut reports) => created(&mut reports, note),
        None => Ok(None),
    };
    let created = match made {
        Ok(Some(created)) => created,
        Ok(None) => {
            let status = keeper.wait()?;
            let message = format!("the keeper ended before the device was there: {status}");
            return Err(Failure::new(FailureKind::Failed, message));
        }
        Err(failure) => {
            // It ends after this report.
            keeper.wait()?;
            return Err(failure);
        }
    };
    // A process that stays takes the keeper's remains when that ends.
    process::reap_later(keeper);
    if let Some(swap) = &spec.swap
        && let Err(failure) = swap::swap_on(&created.path, swap.priority)
    {
        // A device that is no swap is worth nothing.
        let entry = run.find(&created.name)?;
        client::remove(&entry)?;
        return Err(failure);
    }
    tracing::debug!(keeper = pid, path = created.path, "made");
    Ok(created)
}

/// Reads reports up to the one that decides. `None`: they ended before.
pub(crate) fn created(
    reports: &mut impl std::io::BufRead,
    note: &mut dyn FnMut(&str),
) -> Result<Option<Created>> {
    loop {
        match Report::read(reports)? {
            Some(Report::Note(text)) => note(&text),
            Some(Report::Ready { name, path }) => return Ok(Some(Created { name, path })),
            Some(Report::Failed(failure)) => return Err(failure),
            Some(Report::Forked(_) | Report::Ended(_)) => {}
            None => return Ok(None),
        }
    }
}
