//! Where the parts of snapshots are: files, or a store. A part is asked for by its kind and its name, which is a hash.

use std::io;
use std::ops::Range;

use crate::format::{Digest, Kind};
use crate::snapshot::Snapshot;

/// A place that has parts of snapshots: dictionaries, segments, index blocks and manifests, each under its name.
///
/// Calls may block, and several may be made at once. Nothing that comes from here is believed: whoever asks checks it by its
/// name or by the hash in an index. So a source need not check anything itself.
pub trait Source: Send + Sync {
    /// Bytes of a part, of a record all of it. [`io::ErrorKind::NotFound`] where the source does not have the part.
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64>;

    /// These bytes of a part. As long as the range, or an error: [`io::ErrorKind::NotFound`] where the source does not have the
    /// part, [`io::ErrorKind::UnexpectedEof`] where it is shorter. Another error may pass: the caller asks again.
    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// The files of a snapshot and its parents.
impl Source for Snapshot {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        Ok(self.locate(kind, name)?.2)
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let (from, at, size) = self.locate(kind, name)?;
        let len = range.end.checked_sub(range.start);
        let (Some(len), true) = (len, range.end <= size) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            let offset = at + range.start + filled as u64;
            match from.read_at(&mut bytes[filled..], offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}
