//! `uzram check-image`: what a keeper asks a program before it changes to it. Not for users.

use std::fs::OpenOptions;

use super::print;
use crate::exit::Result;

/// Say whether this program can serve an image
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Descriptor of the image
    #[arg(long)]
    image: i32,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let path = format!("/proc/self/fd/{}", self.image);
        let file = OpenOptions::new().read(true).open(path)?.into();
        let algorithm = uzram::check_image(&file, uzram_control::zram::algorithms())?;
        print(&format!("uzram image {algorithm}\n"))
    }
}
