//! Pages of processes: those that swapping would store, which are private or shared memory without a file behind it and
//! are present now. Read through `/proc`, while the processes run on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::{Reservoir, Sample, check_count};
use crate::{Error, PAGE};

/// A page of a process: the process's place in the list, and the page's address.
type PageAddress = (usize, u64);

/// Bits of an entry of `/proc/PID/pagemap`.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
/// Entries read at a time.
const ENTRIES: usize = 4096;

/// At most `count` pages of these processes together.
pub fn from_processes(pids: &[u32], count: usize) -> Result<Sample, Error> {
    check_count(count)?;
    let names: Vec<_> = pids.iter().map(|pid| name_of(*pid)).collect();
    sample(pids, count, names.join(", "))
}

pub(super) fn sample(pids: &[u32], count: usize, what: String) -> Result<Sample, Error> {
    let mut reservoir = Reservoir::new(count);
    let mut memories = Vec::new();
    for (index, pid) in pids.iter().enumerate() {
        find_pages(*pid, index, &mut reservoir).map_err(gone(*pid))?;
        let memory = File::open(format!("/proc/{pid}/mem"));
        memories.push(memory.map_err(gone(*pid))?);
    }
    let mut sample = Sample::new(what, reservoir.seen);
    reservoir.kept.sort_unstable();
    let mut page = [0; PAGE];
    for (index, address) in reservoir.kept {
        // The process goes on: what it has given back meanwhile is left out.
        if memories[index].read_exact_at(&mut page, address).is_ok() {
            sample.add(&page);
        }
    }
    sample.finish()
}

/// A file of a process that ended is not found, or not a process any more.
fn gone(pid: u32) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.raw_os_error() {
        Some(2 | 3) => Error::Read {
            what: format!("process {pid}"),
            source: io::Error::new(io::ErrorKind::NotFound, "no such process"),
        },
        _ => Error::read(name_of(pid))(error),
    }
}

/// A file of a process in which names stand that need not be text.
pub(super) fn read_text(pid: u32, name: &str) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/{name}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn name_of(pid: u32) -> String {
    match read_text(pid, "comm") {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

fn find_pages(pid: u32, index: usize, found: &mut Reservoir<PageAddress>) -> io::Result<()> {
    let maps = read_text(pid, "maps")?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut bytes = vec![0; ENTRIES * 8];
    for mapping in maps.lines().filter_map(Mapping::parse) {
        let mut address = mapping.start;
        while address < mapping.end {
            let entries = ((mapping.end - address) / PAGE as u64).min(ENTRIES as u64) as usize;
            let part = &mut bytes[..entries * 8];
            pagemap.read_exact_at(part, address / PAGE as u64 * 8)?;
            for (at, entry) in part.as_chunks::<8>().0.iter().enumerate() {
                let entry = u64::from_ne_bytes(*entry);
                if entry & PRESENT != 0 && (mapping.swapped_whole || entry & OF_FILE == 0) {
                    found.offer((index, address + (at * PAGE) as u64));
                }
            }
            address += (entries * PAGE) as u64;
        }
    }
    Ok(())
}

/// A line of `/proc/PID/maps`, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// Shared memory: the kernel counts it as of a file, but it goes to swap.
    swapped_whole: bool,
}

impl Mapping {
    /// `None`: nothing of it would go to swap.
    fn parse(line: &str) -> Option<Mapping> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?;
        let path = words.nth(3).unwrap_or_default();
        if path.starts_with("[v") {
            // vvar, vdso, vsyscall: the kernel's.
            return None;
        }
        let shared = ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"];
        let swapped_whole = shared.iter().any(|prefix| path.starts_with(prefix));
        let private = rights.ends_with('p');
        let mapping = Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            swapped_whole,
        };
        (private || swapped_whole).then_some(mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_swap_is_told_from_what_does_not() {
        let mapping = |line| Mapping::parse(line).map(|m| (m.start, m.end, m.swapped_whole));
        for (line, expected) in [
            (
                "1000-3000 rw-p 00000000 00:00 0 ",
                Some((0x1000, 0x3000, false)),
            ),
            (
                "1000-3000 rw-p 00000000 00:00 0    [heap]",
                Some((0x1000, 0x3000, false)),
            ),
            (
                "1000-3000 r--p 00000000 fe:00 12   /usr/bin/x",
                Some((0x1000, 0x3000, false)),
            ),
            (
                "1000-3000 rw-s 00000000 00:01 12   /memfd:x (deleted)",
                Some((0x1000, 0x3000, true)),
            ),
            ("1000-3000 r--s 00000000 fe:00 12   /usr/lib/locale", None),
            ("7ffe-7fff r-xp 00000000 00:00 0    [vdso]", None),
            ("", None),
            ("x-y rw-p 0 0 0", None),
        ] {
            assert_eq!(mapping(line), expected, "{line}");
        }
    }

    #[test]
    fn this_process_is_sampled_and_its_memory_comes_back() {
        // More than anything else here, and each page recognisable.
        let mut memory = vec![[0u8; PAGE]; 4096];
        for (number, page) in memory.iter_mut().enumerate() {
            for (at, byte) in page.iter_mut().enumerate() {
                *byte = (at / 16) as u8 ^ number as u8;
            }
            page[..4].copy_from_slice(b"SAMP");
        }
        std::hint::black_box(&memory);
        let sample = from_processes(&[std::process::id()], 1000).unwrap();
        // The allocator need not have put it at a page's beginning.
        let ours = |page: &&[u8; PAGE]| page.windows(4).any(|word| word == b"SAMP");
        let pages = sample.measured().iter().chain(sample.training());
        let found = pages.filter(ours).count();
        // Other tests of this process have memory, too; of ours at least half of its share.
        let share = sample.sampled as u64 * 4096 / sample.population;
        assert!(
            found as u64 * 2 > share,
            "{found} of {}, {share} expected",
            sample.sampled
        );
        assert!(sample.population >= 4096);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = from_processes(&[u32::MAX / 2], 1000).unwrap_err();
        assert_eq!(error.to_string(), "process 2147483647: no such process");
    }
}
