//! The kernel's own zram as a rival: devices of our own, made through `hot_add` and removed again; those that are
//! there already are left alone. Pages go in and out past the page cache.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::corpus::PAGE;

const CONTROL: &str = "/sys/class/zram-control";

/// Opens a block device past the page cache: requests lie at multiples of a page, in memory as well.
pub(crate) fn open_direct(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlags::DIRECT.bits() as i32);
    options.open(path).with_context(|| path.to_owned())
}

/// A device, removed when dropped or when this process ends.
pub(crate) struct KernelZram {
    number: u32,
    file: Option<File>,
    guard: Child,
    /// Tells those who look at the machine's devices that some come and go: a shared lock on [`CONTROL`].
    _present: File,
}

impl KernelZram {
    /// Adds a device. Fails without a kernel zram, the algorithm, or root's rights.
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<KernelZram> {
        let present = File::open(CONTROL).context("no kernel zram")?;
        present.lock_shared()?;
        let number = fs::read_to_string(format!("{CONTROL}/hot_add")).context("no kernel zram")?;
        let number = number.trim().parse()?;
        let mut zram = KernelZram {
            number,
            file: None,
            guard: guard(number)?,
            _present: present,
        };
        zram.set("comp_algorithm", algorithm)?;
        zram.set("disksize", &(pages * PAGE).to_string())?;
        zram.file = Some(open_direct(&format!("/dev/zram{}", zram.number))?);
        Ok(zram)
    }

    fn set(&self, attribute: &str, value: &str) -> Result<()> {
        let path = format!("/sys/block/zram{}/{attribute}", self.number);
        fs::write(&path, value).with_context(|| format!("{path} = {value}"))
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().context("not open")
    }

    /// Writes pages from that number on in one request. They lie at a multiple of a page.
    pub(crate) fn write_at(&self, pages: &[u8], first: usize) -> Result<()> {
        Ok(self.file()?.write_all_at(pages, (first * PAGE) as u64)?)
    }

    /// Reads pages from that number on in one request, to a multiple of a page.
    pub(crate) fn read_at(&self, pages: &mut [u8], first: usize) -> Result<()> {
        Ok(self.file()?.read_exact_at(pages, (first * PAGE) as u64)?)
    }

    /// Bytes of the pages' objects: the second figure of `mm_stat`.
    pub(crate) fn compressed_bytes(&self) -> Result<u64> {
        self.mm_stat(1)
    }

    /// Memory in use, without its table: the third figure of `mm_stat`.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        self.mm_stat(2)
    }

    fn mm_stat(&self, figure: usize) -> Result<u64> {
        let text = fs::read_to_string(format!("/sys/block/zram{}/mm_stat", self.number))?;
        let figure = text.split_whitespace().nth(figure);
        Ok(figure.context("mm_stat is short")?.parse()?)
    }
}

/// Takes the device away when its standard input ends, and so whatever the benchmark dies of. What opened the new node to
/// probe it (udev) may hold it for a moment.
const GUARD: &str = r#"
cat >/dev/null
for try in $(seq 100); do
    echo 1 >"/sys/block/zram$1/reset" && echo "$1" >/sys/class/zram-control/hot_remove && exit
    sleep 0.02
done 2>/dev/null
echo "/dev/zram$1 could not be removed" >&2
"#;

fn guard(number: u32) -> Result<Child> {
    let guard = Command::new("sh")
        .args(["-c", GUARD, "guard", &number.to_string()])
        .stdin(Stdio::piped())
        // A group of its own: what interrupts the benchmark does not interrupt it.
        .process_group(0)
        .spawn();
    guard.context("cannot run sh")
}

impl Drop for KernelZram {
    fn drop(&mut self) {
        self.file = None;
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
