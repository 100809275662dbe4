//! Serves a new device as `/dev/ublkbN` until standard input ends: `ublk SIZE_MIB`. Needs the ublk driver (Linux 6.5 or
//! newer) and root.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use uzram_ublk::{OnDeath, Tag, Ublk, UblkOptions, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size] = &args[..] else {
        return Err("usage: ublk SIZE_MIB".into());
    };
    probe()?;
    let device = Arc::new(uzram::Device::builder(size.parse::<u64>()? << 20).build()?);
    let options = UblkOptions::new(Tag::from_path(Path::new("/run/ublk-example")));
    let on_death: OnDeath = Arc::new(|error| {
        eprintln!("a queue cannot go on: {error}");
        std::process::abort();
    });
    let mut disk = Ublk::create(device.clone(), &options, &on_death)?;
    println!("{}", disk.node().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    disk.remove()?;
    println!("{:?}", device.stats());
    Ok(())
}
