//! Both ways against liblzo2, the original: what either encodes the other decodes, to the byte. The library is
//! loaded at run time.
#![cfg(feature = "lzo")]

#[path = "../../uzram-bench/src/liblzo2.rs"]
mod liblzo2;

use liblzo2::Liblzo2;
use uzram_compress::{Registry, conformance::inputs};

fn library() -> Option<Liblzo2> {
    let library = Liblzo2::load();
    if library.is_none() {
        uzram_testkit::peers::skip("interop with liblzo2", "no liblzo2.so.2");
    }
    library
}

#[test]
fn interop_liblzo2_reads_and_is_read() {
    let Some(mut peer) = library() else { return };
    let none: [(&str, &str); 0] = [];
    let mut tfm = Registry::builtin()
        .prepare("lzo", 4096, none)
        .unwrap()
        .tfm()
        .unwrap();
    let (mut ours, mut theirs) = (0, 0);
    for plain in inputs(1..2000) {
        let mut object = vec![0; plain.len() * 2 + 64];
        let mut back = vec![0; plain.len()];

        let len = tfm.compress(&plain, &mut object).unwrap();
        assert_eq!(
            peer.decompress(&object[..len], &mut back),
            Some(plain.len())
        );
        assert!(
            back == plain,
            "liblzo2 reads other bytes of {} than were compressed",
            plain.len()
        );
        let page = usize::from(plain.len() == 4096);
        ours += len * page;

        let len = peer.compress(&plain, &mut object).unwrap();
        back.fill(0);
        assert_eq!(tfm.decompress(&object[..len], &mut back), Ok(plain.len()));
        assert!(
            back == plain,
            "other bytes of {} than liblzo2 compressed",
            plain.len()
        );
        theirs += len * page;
    }
    println!("pages: {ours} bytes, liblzo2 {theirs}");
    assert!(
        ours <= theirs,
        "pages are less dense than liblzo2's: {ours} bytes, {theirs}"
    );
}
