//! Reads and writes at random by a vhost-user-blk server: `iops SOCKET` that of whatever program listens there, `iops ALGORITHM`
//! one in this process.
//!
//! The client looks for answers all the time, as a guest does not. It needs a processor for itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram::Device;
use uzram_testkit::Random;
use uzram_testkit::data::record_page;
use uzram_testkit::virtio::{Guest, READ, WRITE};
use uzram_vhost_user::Server;

const PAGES: u64 = 16384;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut path = args.next().unwrap_or_default();
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = None;
    if !path.contains('/') {
        let device = Device::builder(PAGES * 4096).algorithm(&path).build();
        let device = Arc::new(device.expect("a device"));
        let socket = dir.path().join("s");
        let bound = Server::builder("zram0", device).bind(&socket);
        server = Some(bound.and_then(Server::start).expect("a server"));
        path = socket.display().to_string();
    }
    let mut guest = Guest::new(1);
    if let Err(error) = guest.connect(Path::new(&path)) {
        eprintln!("{path}: {error}");
        std::process::exit(1);
    }
    for page in 0..PAGES {
        assert_eq!(guest.request(0, WRITE, page * 8, &record_page(page), 0), 0);
    }
    let data: Vec<_> = (0..256).map(record_page).collect();
    for (name, kind) in [("read", READ), ("write", WRITE)] {
        for depth in [1, 32] {
            let limit = Duration::from_secs(seconds);
            let iops = run(&mut guest, kind, depth, limit, &data);
            println!("{name:5} 4 KiB at random, {depth:2} at a time: {iops:8.0} a second");
        }
    }
    drop(server);
}

fn run(guest: &mut Guest, kind: u32, depth: u16, limit: Duration, data: &[[u8; 4096]]) -> f64 {
    let mut random = Random::new(1);
    let mut submit = |guest: &mut Guest, slot| {
        let page = random.below(PAGES);
        match kind {
            READ => guest.submit(0, slot, READ, page * 8, &[], 4096),
            _ => guest.submit(
                0,
                slot,
                WRITE,
                page * 8,
                &data[page as usize % data.len()],
                0,
            ),
        }
    };
    let begin = Instant::now();
    (0..depth).for_each(|slot| submit(guest, slot));
    let mut done = 0u64;
    while begin.elapsed() < limit {
        while let Some((head, _)) = guest.answer(0) {
            let slot = Guest::slot_of(head);
            assert_eq!(guest.status(0, slot), 0);
            done += 1;
            submit(guest, slot);
        }
        std::hint::spin_loop();
    }
    let took = begin.elapsed();
    let mut left = depth;
    while left > 0 {
        left -= u16::from(guest.answer(0).is_some());
    }
    done as f64 / took.as_secs_f64()
}
