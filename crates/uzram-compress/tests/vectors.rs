//! What the kernel's own encoders made is read: the files in `tests/vectors/` were compressed by lib/lzo and lib/842
//! of Linux 6.12.117, built for user space with gcc 12. `NAME.plain` is the input, `NAME.ALGORITHM` the stream.
//!
//! They are the independent witness for lzo-rle and 842, of which no library exists. lzo has liblzo2 as well
//! (`interop.rs`).

use std::path::Path;

use uzram_compress::Registry;

#[test]
fn the_kernels_streams_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let registry = Registry::builtin();
    let none: [(&str, &str); 0] = [];
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.extension().unwrap().to_str().unwrap();
        // A build without the algorithm has nothing to test.
        if kind == "plain" || registry.find(kind).is_err() {
            continue;
        }
        let stream = std::fs::read(&path).unwrap();
        let plain = std::fs::read(path.with_extension("plain")).unwrap();
        let mut tfm = registry.prepare(kind, 4096, none).unwrap().tfm().unwrap();
        let mut back = vec![0; plain.len()];
        let len = tfm.decompress(&stream, &mut back).unwrap();
        assert!(len == plain.len() && back == plain, "{}", path.display());

        // Ours is no worse, but for noise.
        let mut object = [0; 8192];
        let len = tfm.compress(&plain, &mut object).unwrap();
        println!(
            "{}: {len} bytes, the kernel's {}",
            path.display(),
            stream.len()
        );
        assert!(
            len <= stream.len() + stream.len() / 50 + 8,
            "{}",
            path.display()
        );
        read += 1;
    }
    let algorithms = ["lzo", "lzo-rle", "842"]
        .iter()
        .filter(|name| registry.find(name).is_ok());
    assert_eq!(read, 6 * algorithms.count());
}
