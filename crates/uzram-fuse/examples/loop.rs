//! Serves a new device as a loop device until standard input ends: `loop SIZE_MIB MOUNT_DIR`. Needs root.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use uzram_fuse::{FuseLoop, LoopOptions, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, dir] = &args[..] else {
        return Err("usage: loop SIZE_MIB MOUNT_DIR".into());
    };
    probe()?;
    let device = Arc::new(uzram::Device::builder(size.parse::<u64>()? << 20).build()?);
    let mut front = FuseLoop::create(
        device.clone(),
        "example",
        Path::new(dir),
        &LoopOptions::default(),
    )?;
    println!("{}", front.node().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    front.remove()?;
    println!("{:?}", device.stats());
    Ok(())
}
