//! Checks targets before any is created: whether what they name exists, and whether memory suffices.

use std::path::Path;

use rustix::fs::{statfs, statvfs};
use uzram_control::size::human;

use super::cell::BufferContents;
use super::targets::{TMPFS, TMPFS_MAGIC, TargetKind, TargetSpec, kernel_algorithms};

/// Percent of the size that a target takes beyond the pages: tables, metadata, a server.
const OVERHEAD: u64 = 3;

impl TargetSpec {
    /// Frontend and algorithm of a uzram device, if given; `None` for another kind of target.
    pub fn device(&self) -> Option<(Option<&str>, Option<&str>)> {
        match &self.kind {
            TargetKind::Uzram {
                frontend,
                algorithm,
                ..
            } => Some((frontend.as_deref(), algorithm.as_deref())),
            _ => None,
        }
    }

    /// Refuses an algorithm that this kernel's zram lacks. Without a kernel zram nothing is refused.
    pub fn check(&self) -> Result<(), String> {
        let TargetKind::KernelZram {
            algorithm: Some(algorithm),
        } = &self.kind
        else {
            return Ok(());
        };
        let known = kernel_algorithms();
        match known.is_empty() || known.contains(algorithm) {
            true => Ok(()),
            false => Err(format!(
                "'{self}' is not possible: the kernel's zram here has {}",
                known.join(", ")
            )),
        }
    }

    /// Refuses a size that exceeds memory. Targets exist one at a time, so each may take all of it.
    pub fn fits(&self, size_bytes: u64, buffers: &[BufferContents]) -> Result<(), String> {
        let percent = self.memory_percent(buffers);
        for (has, what) in self.memory() {
            let need = (u128::from(size_bytes) * u128::from(percent) / 100) as u64;
            if need > has {
                // Rounded down: what is said to be accepted is.
                let most = (u128::from(has) * 100 / u128::from(percent)) as u64 >> 20 << 20;
                return Err(format!(
                    "--size {} is not possible: {self} takes {} of memory and {what} has {}; it takes up to {} here",
                    human(size_bytes),
                    human(need),
                    human(has),
                    human(most)
                ));
            }
        }
        Ok(())
    }

    /// Percent of its size that it may take in memory; 0 for a target that is not in memory.
    fn memory_percent(&self, buffers: &[BufferContents]) -> u64 {
        let compresses = match &self.kind {
            TargetKind::Path(path) if !is_new_on_tmpfs(path) => return 0,
            TargetKind::Path(_) | TargetKind::Tmpfs => false,
            TargetKind::NbdkitMemory { allocator } => allocator.as_deref() == Some("zstd"),
            TargetKind::KernelZram { .. } => true,
            TargetKind::Uzram { algorithm, .. } => !algorithm
                .as_deref()
                .is_some_and(|name| name.starts_with("null")),
        };
        let pages = |buffer: &BufferContents| match buffer {
            // A word for each page, or an object that is hardly more.
            BufferContents::Static if compresses => 5,
            // What is rewritten leaves holes, in nbdkit above all; what compresses little is stored as it is.
            BufferContents::Compressible(percent) if compresses => {
                (u64::from(100 - (*percent).min(100)) * 8 / 5).min(100)
            }
            _ => 100,
        };
        buffers.iter().map(pages).max().unwrap_or(100) + OVERHEAD
    }

    /// The memory available to it, with the name of each limit.
    fn memory(&self) -> Vec<(u64, &'static str)> {
        let mut memory = Vec::new();
        let place = match &self.kind {
            TargetKind::Path(path) => Some(folder(path)),
            TargetKind::Tmpfs => Some(Path::new(TMPFS)),
            _ => None,
        };
        if let Some(place) = place
            && is_tmpfs(place)
            && let Ok(there) = statvfs(place)
        {
            memory.push((there.f_bavail * there.f_frsize, "its tmpfs"));
        }
        if let Some(bytes) = available() {
            memory.push((bytes, "this machine (MemAvailable)"));
        }
        memory
    }
}

/// `MemAvailable`: memory that can be allocated without swapping.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The folder that a file would be created in.
fn folder(path: &Path) -> &Path {
    let parent = path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn is_new_on_tmpfs(path: &Path) -> bool {
    !path.exists() && is_tmpfs(folder(path))
}

fn is_tmpfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|there| there.f_type as u64 == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> TargetSpec {
        text.parse().unwrap()
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_does() {
        const HUGE: u64 = 1 << 60;
        let half = [BufferContents::Compressible(50)];
        for target in [
            "tmpfs",
            "kernel-zram",
            "uzram:nbd:zstd",
            "nbdkit-memory:allocator=malloc",
            "/dev/shm/uzram-not-there",
        ] {
            let error = spec(target).fits(HUGE, &half).unwrap_err();
            assert!(error.contains(target), "{error}");
            assert!(error.contains("--size 1E"), "{error}");
            assert!(error.contains("it takes up to"), "{error}");
            spec(target).fits(1 << 20, &half).unwrap();
        }
        // Not in memory.
        spec("/dev/null").fits(HUGE, &half).unwrap();
    }

    #[test]
    fn what_compresses_takes_less() {
        let percent = |target: &str, buffer: &str| {
            let buffers = [buffer.parse().unwrap()];
            spec(target).memory_percent(&buffers)
        };
        for target in ["tmpfs", "uzram:nbd:null", "nbdkit-memory"] {
            assert_eq!(percent(target, "50%"), 103, "{target}");
        }
        for target in ["kernel-zram", "uzram", "nbdkit-memory:allocator=zstd"] {
            let taken = ["static", "50%", "11%", "0%"].map(|buffer| percent(target, buffer));
            assert_eq!(taken, [8, 83, 103, 103], "{target}");
        }
        assert_eq!(percent("/dev/null", "50%"), 0);
    }

    #[test]
    fn a_kernel_is_asked_what_it_has() {
        let known = kernel_algorithms();
        if known.is_empty() {
            eprintln!("SKIP the kernel's algorithms: no kernel zram");
            return;
        }
        spec(&format!("kernel-zram:{}", known[0])).check().unwrap();
        let error = spec("kernel-zram:nonsense").check().unwrap_err();
        assert!(
            error.contains("nonsense") && error.contains(&known[0]),
            "{error}"
        );
    }
}
