//! `uzram daemon`, known as `uzramd`.

use std::path::PathBuf;

use uzram_daemon::Run;

use crate::exit::Result;

/// Run uzramd, the daemon that owns the devices
///
/// It answers an API (HTTP and JSON) on a unix socket, makes the devices of its configuration, lets devices be
/// hot-added and hot-removed through zram's own interface, and holds every device's memory: the contents outlive the
/// death of server and keeper at once. `uzram create` makes devices through it while it runs. When it ends the devices
/// stay, and a new daemon finds them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzramd
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/openapi.json
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices -d '{\"size\":\"4G\",\"algorithm\":\"zstd\"}'")]
pub(crate) struct Args {
    /// The configuration [default: /etc/uzram.toml, if there is one]. SIGHUP has it read again: devices that are new in it are
    /// made
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration: uzram.toml, and zram-generator.conf where that says so
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        let run = Run {
            config: self.config,
            check: self.check,
            log: log.into(),
        };
        run.run()
    }
}
