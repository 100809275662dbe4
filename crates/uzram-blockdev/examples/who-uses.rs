//! Names who uses each block device that is given: `who-uses /dev/sda1 /dev/loop0`.

use std::path::Path;

use uzram_blockdev::busy;

fn main() {
    for node in std::env::args().skip(1) {
        match busy(Path::new(&node)) {
            Some(by) => println!("{node} is {by}"),
            None => println!("{node} is free, as far as this process may look"),
        }
    }
}
