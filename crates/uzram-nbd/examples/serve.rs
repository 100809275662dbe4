//! Serves a new device over NBD until standard input ends: `serve SIZE_MIB unix:PATH|tcp:HOST[:PORT]`.

use std::{error::Error, io::Read, sync::Arc};
use uzram_nbd::{Export, Server};

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, listen, options @ ..] = &args[..] else {
        return Err("usage: serve SIZE_MIB unix:PATH|tcp:HOST[:PORT] [ALGORITHM [WORKERS]]".into());
    };
    let mut builder = uzram::Device::builder(size.parse::<u64>()? << 20);
    if let Some(algorithm) = options.first() {
        builder = builder.algorithm(algorithm);
    }
    let device = Arc::new(builder.build()?);
    let mut server = Server::builder().export(Export::new("zram0", Arc::clone(&device)));
    if let Some(workers) = options.get(1) {
        server = server.workers(workers.parse()?);
    }
    let handle = server.bind(&listen.parse()?)?.start()?;
    println!("{}", handle.uri("zram0"));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    handle.shutdown()?;
    println!("{:?}", device.stats());
    Ok(())
}
