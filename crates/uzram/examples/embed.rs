//! A compressed page store inside a program: `cargo run -p uzram --example embed`.

use std::sync::Arc;

use uzram::{Device, Error};

fn main() -> Result<(), Error> {
    let device = Device::builder(1 << 30)
        .algorithm("zstd")
        .algorithm_param("level", "1")
        .mem_limit_bytes(64 << 20)
        .build()?;
    let device = Arc::new(device);

    // Any offset and length, from any thread.
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let device = &device;
            scope.spawn(move || {
                let text = format!("thread {thread} was here. ").repeat(1000);
                device.write_at(text.as_bytes(), thread * 100_000)
            });
        }
    });
    let mut bytes = [0; 17];
    device.read_at(&mut bytes, 200_000)?;
    println!("{}", String::from_utf8_lossy(&bytes));

    let before = device.stats();
    println!(
        "{} bytes of pages are {} compressed and take {} of the pool",
        before.orig_data_size_bytes, before.compr_data_size_bytes, before.mem_used_total_bytes
    );
    for extent in device.extents(0, 1 << 20)? {
        println!("{:>8} +{:<8} {:?}", extent.offset, extent.len, extent.kind);
    }
    device.discard(0, device.size_bytes())?;
    println!(
        "after discarding: {} bytes of pages",
        device.stats().orig_data_size_bytes
    );
    Ok(())
}
