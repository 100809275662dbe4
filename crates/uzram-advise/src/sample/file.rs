//! Pages of a file or block device.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::{Reservoir, Sample, check_count};
use crate::{Error, PAGE};

/// At most `count` pages of a file, or of a block device as it is now. A last page that is not whole is left out.
pub fn from_file(path: &Path, count: usize) -> Result<Sample, Error> {
    check_count(count)?;
    let what = path.display().to_string();
    let failed = || Error::read(what.clone());
    let kind = std::fs::metadata(path).map_err(failed())?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let neither = io::Error::other("it is neither a file nor a block device");
        return Err(failed()(neither));
    }
    let mut file = File::open(path).map_err(failed())?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed())?;
    let pages = bytes / PAGE as u64;
    let mut reservoir = Reservoir::new(count);
    (0..pages).for_each(|page| reservoir.offer(page));
    let mut chosen = reservoir.kept;
    chosen.sort_unstable();
    let mut sample = Sample::new(what.clone(), pages);
    let mut page = [0; PAGE];
    for number in chosen {
        file.read_exact_at(&mut page, number * PAGE as u64)
            .map_err(failed())?;
        sample.add(&page);
    }
    sample.finish()
}
