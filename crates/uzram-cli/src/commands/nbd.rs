//! `uzram nbd`: several devices as the exports of one NBD server.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::channel;

use clap::{ArgMatches, Command, FromArgMatches};
use uzram_control::RunDir;
use uzram_runtime::nbd_exports::{NbdExports, NbdExportsSpec, OPTIONS, parse_export};
use uzram_runtime::{logging, process};
use uzram_spec::OptionValue;

use super::print;
use crate::exit::Result;
use crate::frontend_args;

/// Offer several devices at one address, by NBD
///
/// Clients ask for a device by the name of its export, and are told of all by "nbdinfo --list". This process negotiates with
/// them, and gives each connection to the device's own server: then it has nothing more to do with it, and may end. Only
/// connections that are encrypted go through it as long as they last.
///
/// Prints a URI for each export once clients can connect, and runs until interrupted. Who may connect is decided here; how many
/// clients a device has, and how long it waits for them, by the device. A device that is read-only stays so. One that is
/// removed is not offered any more, until there is another of its name.
///
/// It needs devices of --frontend nbd, of this user. One that requires TLS of its clients is offered to clients with TLS alone, and
/// with --tls-verify-peer of its own only where the same option and the same authorities are given here. uzramd runs such servers
/// by [[nbd]] in its configuration.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram nbd --listen tcp:127.0.0.1:10809 --export zram0 --export zram1
  uzram nbd --listen unix:/run/disks.sock --export root=zram0 --export scratch=zram1 --allow-uid libvirt-qemu
  uzram nbd --listen tcp:0.0.0.0:10809 --allow-remote --tls-certificates /etc/pki/uzram --export builds=zram3 --read-only")]
pub(crate) struct Args {
    /// Offer this device, under a name of its own or under this one; repeated. The first is also the one without a name
    #[arg(long = "export", value_name = "[NAME=]DEVICE", required = true, value_parser = parse_export)]
    exports: Vec<(String, String)>,
    /// End with stdin, and begin without devices that are not there. Not for users
    #[arg(long, hide = true)]
    for_daemon: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        logging::to_stderr(log)?;
        // Before there is a socket: no signal leaves one behind.
        let (events, inbox) = channel();
        let told = events.clone();
        process::when_told_to_end(move || {
            let _ = told.send(());
        })?;
        if self.for_daemon {
            process::take_name();
            process::spawn("stdin", move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                let _ = events.send(());
            })?;
        }
        let wanted = NbdExportsSpec::new(self.server.options, self.exports);
        let server = NbdExports::start(wanted, RunDir::of_user(), self.for_daemon)?;
        print(&(server.uris().join("\n") + "\n"))?;
        let _ = inbox.recv();
        server.stop()
    }
}

/// The options of the server.
struct ServerArgs {
    options: BTreeMap<String, OptionValue>,
}

impl FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<ServerArgs, clap::Error> {
        let mut options = BTreeMap::new();
        for option in OPTIONS {
            if let Some(value) = frontend_args::value(matches, option) {
                options.insert(option.name.to_owned(), value);
            }
        }
        Ok(ServerArgs { options })
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = ServerArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|option| {
            let arg = frontend_args::arg(option);
            match option.name {
                "listen" => arg.required(true).help(
                    "Where to listen: unix:PATH or tcp:ADDRESS[:PORT]. Of a unix socket only root and this user are served; see \
                     --allow-uid. Over tcp every user of this machine who reaches ADDRESS reads and writes the disks, also on \
                     127.0.0.1",
                ),
                "read-only" => arg.help("Let clients read and not write, whatever the devices allow"),
                "max-connections" => arg.help(
                    "Most clients that negotiate at a time or are encrypted, 1 to 4096, dealt out as those of a device: see \
                     \"uzram create\". Those of a device count for its own limit [default: 64]",
                ),
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        ServerArgs::augment_args(command)
    }
}
