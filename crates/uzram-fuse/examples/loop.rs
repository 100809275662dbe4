//! Serves a new device as a loop device until standard input ends: `loop SIZE_MIB MOUNT_DIR [auto|on|off [POLL]]`, the last two
//! for FUSE over io_uring and how many microseconds its queues poll. Needs root.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uzram_fuse::{FuseLoop, FuseUring, LoopOptions, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, dir, rest @ ..] = &args[..] else {
        return Err("usage: loop SIZE_MIB MOUNT_DIR [auto|on|off [POLL]]".into());
    };
    let fuse_uring = match rest.first().map(String::as_str) {
        None | Some("auto") => FuseUring::Auto,
        Some("on") => FuseUring::On,
        Some("off") => FuseUring::Off,
        Some(other) => return Err(format!("'{other}' is not auto, on or off").into()),
    };
    let mut options = LoopOptions {
        fuse_uring,
        ..LoopOptions::default()
    };
    if let Some(poll) = rest.get(1) {
        options.poll = Duration::from_micros(poll.parse()?);
    }
    probe()?;
    let device = Arc::new(uzram::Device::builder(size.parse::<u64>()? << 20).build()?);
    let mut front = FuseLoop::create(device.clone(), "example", Path::new(dir), &options)?;
    println!("{}", front.node().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    front.remove()?;
    println!("{:?}", device.stats());
    Ok(())
}
