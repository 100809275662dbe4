//! Serves a new device as `/dev/nbdN` until standard input ends: `attach SIZE_MIB`. Needs the nbd module and root.

use std::error::Error;
use std::io::Read;
use std::sync::Arc;

use uzram_nbd::{Export, Server};
use uzram_nbd_kernel::{KernelNbd, KernelNbdOptions, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size] = &args[..] else {
        return Err("usage: attach SIZE_MIB".into());
    };
    probe()?;
    let device = Arc::new(uzram::Device::builder(size.parse::<u64>()? << 20).build()?);
    let export = Export::new("example", device.clone());
    let server = Server::builder().export(export).adopter()?;
    let mut disk = KernelNbd::attach(server, &KernelNbdOptions::new("/run/nbd-example"))?;
    println!("{}", disk.node().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    disk.remove()?;
    println!("{:?}", device.stats());
    Ok(())
}
