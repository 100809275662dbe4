//! What a server does with requests that concern only its device: it has them carried out, tells the log of those that
//! change something, and lets no path be a backing that could come to wait for the device itself.

use std::ops::ControlFlow;
use std::path::Path;

use rustix::fs::Access;
use uzram::Device;
use uzram_control::{ControlError, Request, Response, execute_paced};

use crate::privileges;

/// Carries a request out. `dir` is the device's directory; `foreign` says whether its description allows files of other
/// users.
pub(crate) fn handle(
    device: &Device,
    dir: &Path,
    foreign: bool,
    request: &Request,
    pace: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Response, ControlError> {
    if let Request::SetBacking {
        path: Some(path),
        allow_foreign,
        ..
    } = request
    {
        let wrong = |message| ControlError { errno: 22, message };
        if !path.is_absolute() {
            return Err(wrong(format!("backing {path:?}: an absolute path")));
        }
        crate::files::check_one("backing", path, *allow_foreign || foreign)?;
        crate::backing::check(path, Some(dir)).map_err(wrong)?;
        if privileges::is_closed(path, Access::READ_OK | Access::WRITE_OK) {
            let path = path.display();
            return Err(wrong(format!(
                "{path}: only its owner may use it, and the server of a device has given up CAP_DAC_OVERRIDE: give its \
                 user access to the file and its directory, or name it when the device is created"
            )));
        }
    }
    let answer = execute_paced(device, request, pace)?;
    match request {
        Request::Ping
        | Request::Stat
        | Request::Policy { .. }
        | Request::Inspect { .. }
        | Request::BlockState { .. }
        | Request::PoolClasses => {}
        Request::SetAlgorithm {
            priority,
            algorithm,
            dictionary,
        } => {
            let dictionary = dictionary.len() / 2;
            tracing::info!(priority, algorithm, dictionary, "algorithm set");
        }
        other => tracing::info!(?other, ?answer, "done"),
    }
    Ok(answer)
}
