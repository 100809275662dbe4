//! `uzram check-image`: what a keeper asks a program before it changes to it. Not for users.

use std::fs::OpenOptions;
use std::path::PathBuf;

use uzram_runtime::frontends;
use uzram_spec::DeviceSpec;

use super::print;
use crate::exit::{Failure, Result};

/// Say whether this program can serve an image
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Descriptor of the image
    #[arg(long)]
    image: i32,
    /// The device's description
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let Some(spec) = self.spec else {
            // A keeper of uzram 0.1 asks so: what it knows of the device is a command line.
            let message =
                "the device was made by uzram 0.1, which this program (uzram {}) cannot take over";
            let message = message.replace("{}", env!("CARGO_PKG_VERSION"));
            let hint = "it goes on as it is; to change, remove it and make it anew";
            return Err(Failure::impossible(message).with_hint(hint));
        };
        let json = std::fs::read(&spec)?;
        let spec = DeviceSpec::parse(&json)?;
        frontends::check_name(&spec.frontend.kind).map_err(|why| {
            let message = format!("no frontend {}: {why}", spec.frontend.kind);
            Failure::impossible(message)
        })?;
        let path = format!("/proc/self/fd/{}", self.image);
        let file = OpenOptions::new().read(true).open(path)?.into();
        let algorithm = uzram::check_image(&file, uzram_control::zram::algorithms())?;
        print(&format!("uzram image {algorithm}\n"))
    }
}
