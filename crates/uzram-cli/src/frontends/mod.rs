//! The frontends that this program knows, in the order in which `auto` prefers them: one file each, and one line in
//! [`KINDS`].

mod fuse_loop;
mod nbd;
mod nbd_kernel;
mod ublk;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uzram::Device;
use uzram_control::Claim;
use uzram_nbd::Listen;

use crate::exit::{Failure, Kind as FailureKind, Result};

pub(crate) use ublk::{UblkArgs, wait_for_death};

/// Best first.
const KINDS: &[&Kind] = &[&ublk::KIND, &nbd_kernel::KIND, &fuse_loop::KIND, &nbd::KIND];

/// A kind of frontend.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether the device can be swap: nothing between the kernel and this process waits for memory.
    swap: bool,
    /// Says why this machine or user cannot have it, if so.
    probe: fn() -> std::result::Result<(), String>,
    /// Begins to serve a device. When it returns the device can be used.
    start: fn(&Context<'_>) -> Result<Box<dyn Front>>,
    /// Begins to serve a device again whose server died; the word is what its [`Front::resume`] said.
    resume: fn(&Context<'_>, &str) -> Result<Box<dyn Front>>,
    /// Clears what is left of a device whose contents are lost, given its directory. Says in words what was cleared,
    /// or what stands in the way.
    clear: fn(&Path) -> std::result::Result<Vec<String>, String>,
}

impl Kind {
    /// Whether it is served by our NBD server, which looks for requests before it sleeps.
    fn polls(&self) -> bool {
        [nbd::KIND.name, nbd_kernel::KIND.name].contains(&self.name)
    }
}

/// What a frontend is started with.
pub(crate) struct Context<'a> {
    pub(crate) device: &'a Arc<Device>,
    /// Whether the device is to serve as swap.
    pub(crate) swap: bool,
    pub(crate) claim: &'a Claim,
    pub(crate) settings: &'a Settings,
}

/// What the user said that is for one frontend only.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Where to listen, unix:PATH or tcp:ADDRESS[:PORT] [default: a unix socket in the run directory]
    #[arg(long, value_name = "WHERE", help_heading = "NBD")]
    pub(crate) listen: Option<Listen>,
    /// Allow --listen on an address that other machines reach. There is no encryption or authentication
    #[arg(long, help_heading = "NBD")]
    pub(crate) allow_remote: bool,
    /// Longest time to look for a client's next request before the server sleeps, 0 to 1000 microseconds. It
    /// looks only while requests come so soon, and takes most of a CPU meanwhile. 0 is never [default: 100]
    #[arg(long, value_name = "MICROSECONDS", help_heading = "NBD",
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) poll: Option<u16>,
    /// N of /dev/ublkbN, /dev/nbdN or /dev/loopN [default: the lowest that is free]
    #[arg(
        long,
        value_name = "N",
        help_heading = "ublk, nbd-kernel and fuse-loop"
    )]
    pub(crate) number: Option<u32>,
    #[command(flatten)]
    pub(crate) ublk: UblkArgs,
}

impl Settings {
    /// Refuses what is for another frontend than `kind`.
    pub(crate) fn check(&self, kind: &Kind) -> Result {
        let not_for = |what: &str, right: &str| {
            let message = format!("{what} is for --frontend {right}, not {}", kind.name);
            Err(Failure::new(FailureKind::Usage, message))
        };
        let is = |kinds: &[&Kind]| kinds.iter().any(|k| k.name == kind.name);
        if self.listen.is_some() && !is(&[&nbd::KIND]) {
            return not_for("--listen", "nbd");
        }
        if self.allow_remote && !is(&[&nbd::KIND]) {
            return not_for("--allow-remote", "nbd");
        }
        if self.poll.is_some() && !kind.polls() {
            return not_for("--poll", "nbd or nbd-kernel");
        }
        if self.number.is_some() && is(&[&nbd::KIND]) {
            return not_for("--number", "ublk, nbd-kernel or fuse-loop");
        }
        match self.ublk.given() {
            Some(what) if !is(&[&ublk::KIND]) => not_for(what, "ublk"),
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// An NBD server with what was said of it.
    fn nbd_server(&self) -> uzram_nbd::ServerBuilder {
        uzram_nbd::Server::builder()
            .allow_remote(self.allow_remote)
            .poll(self.poll())
    }

    fn poll(&self) -> Duration {
        let given = |microseconds: u16| Duration::from_micros(microseconds.into());
        self.poll.map_or(uzram_nbd::DEFAULT_POLL, given)
    }

    /// How long a server of this kind looks for the next request, if it does that.
    pub(crate) fn poll_of(&self, kind: &Kind) -> Option<Duration> {
        kind.polls().then(|| self.poll())
    }
}

/// A device being served.
pub(crate) trait Front: Send {
    /// Where the device is: its node, or a URI.
    fn path(&self) -> String;
    /// What a new process needs to know to serve the same device again.
    fn resume(&self) -> String;
    /// Refuses with the name of who uses the device, if anybody does. A block device is held for this process
    /// alone as long as the result lives.
    fn hold_idle(&self) -> Result<Option<File>>;
    /// Takes it down, unless it is in use.
    fn remove(&mut self) -> Result;
    /// Refuses where whoever uses the device cannot be told another size while it is served.
    fn can_resize(&self) -> Result {
        let message = format!("{} cannot change its size while it is served", self.path());
        Err(Failure::new(FailureKind::Impossible, message))
    }
    /// Tells the size, which was changed, to whoever uses the device.
    fn resized(&mut self) -> Result {
        Ok(())
    }
    /// This process ends and another will serve the device: finish what can be finished.
    fn hand_over(&mut self) {}
}

/// Which frontend the user wants; `None`: the best that there is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Choice(Option<&'static Kind>);

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Choice, String> {
        if name == "auto" {
            return Ok(Choice(None));
        }
        by_name(name).map(|kind| Choice(Some(kind))).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
            format!("there are: auto, {}", names.join(", "))
        })
    }
}

impl Choice {
    /// The help text.
    pub(crate) fn help() -> String {
        let mut help =
            String::from("How the device is served:\n  auto        the best that works here\n");
        for kind in KINDS {
            help.push_str(&format!("  {:11} {}\n", kind.name, kind.about));
        }
        help
    }

    /// The frontend to use, and for `auto` why.
    pub(crate) fn resolve(
        self,
        settings: &Settings,
        swap: bool,
    ) -> Result<(&'static Kind, Option<String>)> {
        self.resolve_for(settings.listen.is_some(), swap)
    }

    /// The frontend of a device with the default settings.
    pub(crate) fn kind(self) -> Result<&'static Kind> {
        self.resolve_for(false, false).map(|(kind, _)| kind)
    }

    fn resolve_for(self, listens: bool, swap: bool) -> Result<(&'static Kind, Option<String>)> {
        if let Some(kind) = self.0 {
            if swap && !kind.swap {
                let fit: Vec<_> = KINDS.iter().filter(|k| k.swap).map(|k| k.name).collect();
                let message = format!(
                    "frontend {} cannot be swap; these can: {}",
                    kind.name,
                    fit.join(", ")
                );
                return Err(Failure::new(FailureKind::Usage, message));
            }
            (kind.probe)().map_err(|reason| {
                Failure::new(
                    FailureKind::Impossible,
                    format!("no frontend {} here: {reason}", kind.name),
                )
            })?;
            return Ok((kind, None));
        }
        if listens && !swap {
            return Ok((&nbd::KIND, Some("--listen was given".into())));
        }
        let mut missing = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.swap || !swap) {
            match (kind.probe)() {
                Ok(()) if missing.is_empty() => {
                    return Ok((kind, Some("the best there is, and it works here".into())));
                }
                Ok(()) => return Ok((kind, Some(missing.join("; ")))),
                Err(reason) => missing.push(format!("no {}: {reason}", kind.name)),
            }
        }
        Err(Failure::new(FailureKind::Impossible, missing.join("; ")))
    }
}

/// The frontend of that name.
pub(crate) fn by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name).copied()
}

impl Kind {
    pub(crate) fn start(&self, context: &Context<'_>) -> Result<Box<dyn Front>> {
        (self.start)(context)
    }

    pub(crate) fn resume(&self, context: &Context<'_>, word: &str) -> Result<Box<dyn Front>> {
        (self.resume)(context, word)
    }
}

/// For root: clears the ublk devices of users that nobody serves and their users cannot clear. Says what was cleared.
pub(crate) fn clear_users() -> Vec<String> {
    // Without the driver there is nothing to be done, nor anybody who waits for it.
    uzram_ublk::clear_users_stale().unwrap_or_default()
}

/// Clears what a device of any kind left whose contents are lost.
pub(crate) fn clear_all(dir: &Path) -> std::result::Result<Vec<String>, String> {
    let mut cleared = Vec::new();
    for kind in KINDS {
        cleared.extend((kind.clear)(dir)?);
    }
    Ok(cleared)
}
