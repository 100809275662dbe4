//! [`launch`]: from a description to a device that works, in processes of its own.

use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uzram_control::RunDir;
use uzram_spec::{DeviceSpec, Failure, Result};

use crate::report::StartReport;
use crate::{frontends, process, swap};

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

/// What tells a new keeper that its device's path is known: the line after the order. Where its stdin ends without it,
/// whoever wanted the device is gone, and so the device goes.
pub(crate) const KEEP: &str = "keep\n";
/// How long a keeper may take to take down what nobody wants.
const UNDOING: Duration = Duration::from_secs(20);

/// Makes a device in that run directory and returns when it can be used. `note` is told what its user should know
/// meanwhile, such as which frontend was chosen and why.
///
/// The program ([`process::serve_with`]) is started anew as the device's keeper (`uzram keep`), which starts the server. A swap device is
/// also switched on. Fails with what keeper or server say; then nothing is left of the device.
pub fn launch(spec: &DeviceSpec, run: &RunDir, note: &mut dyn FnMut(&str)) -> Result<Created> {
    launch_announced(spec, run, note, |_| Ok(()))
}

/// The same for a device that whoever asked for it is told of by `announce`. If that fails, or this process ends before it
/// returns, in whatever way, nothing is left of the device.
pub fn launch_announced(
    spec: &DeviceSpec,
    run: &RunDir,
    note: &mut dyn FnMut(&str),
    announce: impl FnOnce(&Created) -> Result,
) -> Result<Created> {
    spec.check()?;
    let mut spec = spec.clone();
    // A description that was a device's is another device's now.
    spec.identity.clear();
    let order = Order {
        run: run.path()?,
        spec: spec.clone(),
    };
    let mut order = serde_json::to_vec(&order).map_err(Failure::failed)?;
    order.push(b'\n');
    let mut keeper = {
        let _alone = process::alone_to_spawn();
        // The keeper lives long: it must not keep this process's locks and pipes.
        close_fds::set_fds_cloexec(3, &[]);
        process::first_process(frontends::allocates(&spec.frontend))
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start a keeper: {error}")))?
    };
    let pid = keeper.id();
    let mut orders = keeper.stdin.take();
    if let Some(orders) = &mut orders
        && let Err(error) = orders.write_all(&order)
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
            let message = match process::wait_for_child(keeper)? {
                Some(status) => {
                    format!("the keeper ended before the device was there: {status}")
                }
                None => "the keeper neither makes the device nor ends".into(),
            };
            return Err(Failure::failed(message));
        }
        Err(failure) => {
            // It ends after this report.
            process::wait_for_child(keeper)?;
            return Err(failure);
        }
    };
    let used = match &spec.swap {
        // A device that is no swap is worth nothing.
        Some(swap) => swap::swap_on(&created.path, swap.priority),
        None => Ok(()),
    };
    let announced = used.and_then(|()| announce(&created));
    if announced.is_ok()
        && let Some(orders) = &mut orders
        && let Err(error) = orders.write_all(KEEP.as_bytes())
    {
        // Another keeper is there in its place, which asks for nothing.
        tracing::debug!(%error, "the keeper was not told to keep the device");
    }
    drop(orders);
    let end = process::pidfd(pid);
    // A process that stays takes the keeper's remains when that ends.
    process::reap_later(keeper);
    if let Err(failure) = announced {
        if let Some(end) = end {
            process::wait_for_end_within(&end, UNDOING);
        }
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
        match StartReport::read(reports)? {
            Some(StartReport::Note(text)) => note(&text),
            Some(StartReport::Ready { name, path }) => return Ok(Some(Created { name, path })),
            Some(StartReport::Failed(failure)) => return Err(failure),
            Some(StartReport::Forked(_) | StartReport::Ended(_)) => {}
            None => return Ok(None),
        }
    }
}
