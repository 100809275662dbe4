//! Touches more memory than there is and checks every byte of it: what puts a machine under real memory pressure.
//!
//! `memhog MEBIBYTES ROUNDS`: pages of some 10 to 1, each different, are written, read back in another order, a third of
//! them changed, and so on. Ends with exit code 1 at the first wrong byte.
//!
//! `memhog watch SECONDS`: unless it is killed before, has the kernel log what it has of memory, and where each task stands: what
//! is to be known of a machine that hangs. It is locked in memory.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rustix::mm::MlockAllFlags;

const PAGE: usize = 4096;

/// What a page holds after its `generation`th change: noise in its first bytes, then a pattern of its own.
fn fill(page: &mut [u8], number: u64, generation: u64) {
    let mut state = number << 8 ^ generation.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let seed = state.to_le_bytes();
    let (noise, rest) = page.split_at_mut(192);
    for byte in noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    // Whole words: an emulated processor takes its time for each instruction.
    for word in rest.chunks_exact_mut(seed.len()) {
        word.copy_from_slice(&seed);
    }
}

/// Waits, then tells the kernel to log all that it knows.
fn watch(seconds: u64) -> std::io::Result<()> {
    std::fs::write("/proc/sys/kernel/sysrq", "1")?;
    let mut trigger = std::fs::File::options()
        .write(true)
        .open("/proc/sysrq-trigger")?;
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
    std::thread::sleep(Duration::from_secs(seconds));
    trigger.write_all(b"m")?;
    trigger.write_all(b"t")
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "watch") {
        let seconds = std::env::args().nth(2).and_then(|n| n.parse().ok());
        return match seconds.map(watch) {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(error)) => {
                eprintln!("memhog: {error}");
                ExitCode::FAILURE
            }
            None => ExitCode::from(2),
        };
    }
    let number = |at: usize| {
        std::env::args()
            .nth(at)
            .and_then(|arg| arg.parse::<usize>().ok())
    };
    let (Some(mebibytes), Some(rounds)) = (number(1), number(2)) else {
        eprintln!("usage: memhog MEBIBYTES ROUNDS, or memhog watch SECONDS");
        return ExitCode::from(2);
    };
    let pages = mebibytes * (1 << 20) / PAGE;
    // Zeroed memory is not touched before it is written.
    let mut memory = vec![0u8; pages * PAGE];
    let mut generations = vec![0u8; pages];
    for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        fill(page, number as u64, 0);
    }
    println!("memhog: {mebibytes} MiB written");
    let mut expected = [0; PAGE];
    for round in 1..=rounds {
        for step in 0..pages {
            // There and back.
            let number = match round % 2 {
                1 => step,
                _ => pages - 1 - step,
            };
            let page = &mut memory[number * PAGE..][..PAGE];
            fill(&mut expected, number as u64, generations[number].into());
            if *page != expected {
                let at = page
                    .iter()
                    .zip(&expected)
                    .position(|(got, want)| got != want);
                eprintln!("memhog: page {number} is wrong from byte {at:?}, round {round}");
                return ExitCode::FAILURE;
            }
            if (number + round) % 3 == 0 {
                generations[number] = round as u8;
                fill(page, number as u64, round as u64);
            }
        }
        println!("memhog: round {round}: every byte is right");
    }
    ExitCode::SUCCESS
}
