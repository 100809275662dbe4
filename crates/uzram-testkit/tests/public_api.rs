//! What the library crates show is deliberate: `tests/public_api.txt` of each lists it. `UZRAM_BLESS=1` writes the listings
//! anew.

use std::path::Path;

/// The crates that others embed or build on.
const LIBRARIES: &[&str] = &[
    "uzram",
    "uzram-backing",
    "uzram-blockdev",
    "uzram-compress",
    "uzram-frontend",
    "uzram-fuse",
    "uzram-nbd",
    "uzram-nbd-kernel",
    "uzram-pool",
    "uzram-snapshot",
    "uzram-spec",
    "uzram-tls",
    "uzram-ublk",
    "uzram-vhost-user",
];

#[test]
fn the_public_api_of_each_library_is_listed() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let check = |name: &&str| {
        let folder = crates.join(name);
        uzram_testkit::api::check_listed(folder.to_str().unwrap()).err()
    };
    let wrong: Vec<_> = LIBRARIES.iter().filter_map(check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
