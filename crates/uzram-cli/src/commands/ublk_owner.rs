//! `uzram ublk-owner`: what udev asks to give a user's ublk device to its user. Not for users.

use super::print;
use crate::exit::{Failure, Result};

/// Say whose a ublk device is: user and group number, and exit code 1 for root's
#[derive(clap::Args)]
pub(crate) struct Args {
    /// ublkcN or ublkbN
    node: String,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        match uzram_runtime::frontends::owner(&self.node)? {
            Some((user, group)) => print(&format!("{user} {group}\n")),
            None => Err(Failure::failed(format!("{} is root's", self.node))),
        }
    }
}
