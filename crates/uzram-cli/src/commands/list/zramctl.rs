//! What zramctl does beside listing: set up, find, reset. All through zram's own interface.

use uzram_control::zram::{AttributeOwner, View};
use uzram_control::{RunDir, size};

use super::super::print;
use super::super::view::{failed, id, view};
use crate::commands::find_daemon;
use crate::exit::{Failure, Result};

/// zramctl's other options
#[derive(clap::Args)]
#[command(next_help_heading = "To set devices up, as zramctl does")]
pub(super) struct Setup {
    /// Find a free device, or add one; with --size set it up. Prints its path; without a size, which needs uzramd, the name
    /// under which it is known here
    #[arg(long, short, conflicts_with_all = ["reset", "devices"])]
    find: bool,
    /// Size of the device that is set up
    #[arg(long, short, value_name = "SIZE", value_parser = size::parse_share)]
    size: Option<u64>,
    /// Its compression algorithm
    #[arg(long, short, value_name = "NAME", requires = "size")]
    algorithm: Option<String>,
    /// The algorithm's parameters: level=1, dict=FILE, deflate.winbits=12
    #[arg(long, short = 'p', value_name = "PARAMS", requires = "size")]
    algorithm_params: Option<String>,
    /// Number of compression streams: taken and ignored, as by Linux since 4.7; there is one for each CPU
    #[arg(long, short = 't', value_name = "N", requires = "size")]
    streams: Option<u32>,
    /// Reset and remove the devices
    #[arg(long, short, requires = "devices", conflicts_with = "size")]
    reset: bool,
}

impl Setup {
    /// Does what was asked for; `None` where devices are to be listed.
    pub(super) fn run(&self, devices: &[String]) -> Option<Result> {
        if self.reset {
            return Some(reset(devices));
        }
        let Some(size) = self.size else {
            return self.find.then(print_free);
        };
        Some(match devices {
            [] if self.find => self.find_one(size),
            [device] => view().and_then(|view| {
                let id = id(&*view, device)?;
                self.set_up(&*view, id, size)
            }),
            _ => Err(Failure::usage("--size is for one device, or for --find")),
        })
    }

    fn find_one(&self, size: u64) -> Result {
        let view = view()?;
        let id = free(&*view)?;
        self.set_up(&*view, id, size)?;
        let shown = view.devices().map_err(|errno| failed("listing", errno))?;
        let path = shown.into_iter().find(|device| device.id == id);
        print(&format!("{}\n", path.map_or(String::new(), |d| d.path)))
    }

    fn set_up(&self, view: &dyn View, id: u32, size: u64) -> Result {
        let store = |attribute: &str, value: &str| {
            let stored = view.store(AttributeOwner::Device(id), attribute, value.as_bytes());
            stored.map_err(|errno| failed(&format!("zram{id}: {attribute} = {value}"), errno))
        };
        store("reset", "1")?;
        if let Some(streams) = self.streams {
            store("max_comp_streams", &streams.to_string())?;
        }
        if let Some(algorithm) = &self.algorithm {
            store("comp_algorithm", algorithm)?;
        }
        if let Some(params) = &self.algorithm_params {
            store("algorithm_params", params)?;
        }
        store("disksize", &size.to_string())
    }
}

/// A device without a size, added if there is none.
fn free(view: &dyn View) -> Result<u32> {
    let shown = view.devices().map_err(|errno| failed("listing", errno))?;
    if let Some(free) = shown.iter().find(|device| device.disksize == 0) {
        return Ok(free.id);
    }
    let added = view.show(AttributeOwner::Control, "hot_add");
    let added = added.map_err(|errno| failed("hot_add", errno))?;
    let text = String::from_utf8_lossy(&added);
    let id = text.trim().parse();
    id.map_err(|_| Failure::failed(format!("hot_add said '{text}'")))
}

fn print_free() -> Result {
    let Some(daemon) = find_daemon(&RunDir::of_user())? else {
        let message = "without uzramd, which would keep it, a device is found with its --size only";
        return Err(Failure::usage(message));
    };
    print(&format!("/dev/zram{}\n", free(&daemon)?))
}

fn reset(devices: &[String]) -> Result {
    let view = view()?;
    for device in devices {
        let id = id(&*view, device)?;
        let stored = view.store(AttributeOwner::Device(id), "reset", b"1");
        stored.map_err(|errno| failed(&format!("{device}: reset"), errno))?;
        // As zramctl: whether it also goes is not asked.
        let _ = view.store(
            AttributeOwner::Control,
            "hot_remove",
            id.to_string().as_bytes(),
        );
    }
    Ok(())
}
