//! `tests/differential.rs` as a program, for a kernel that is not this machine's: `zram-differential KERNELS-BACKING
//! OUR-BACKING [SEED] [STEPS]`, where each side has a block device of its own for backing.
#![allow(missing_docs)]

#[path = "../tests/beside_kernel/mod.rs"]
#[allow(dead_code)]
mod beside_kernel;

use std::process::ExitCode;

use beside_kernel::sides::{Kernel, Model};
use beside_kernel::{directed, random};

/// How many seeds random sequences start from.
const SEEDS: u64 = 4;

fn run(kernels: &str, ours: &str, first: u64, steps: usize) -> Result<Vec<String>, String> {
    let (mut kernel, facts) = Kernel::take(kernels)?;
    println!("{facts:?}");
    let mut ours = Model::new(ours, &facts);
    let mut wrong = directed(&mut kernel, &mut ours, &facts);
    for seed in first..first + SEEDS {
        wrong.extend(random(&mut kernel, &mut ours, &facts, seed, steps).err());
    }
    Ok(wrong)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernels, ours, rest @ ..] = &args[..] else {
        eprintln!("zram-differential KERNELS-BACKING OUR-BACKING [SEED] [STEPS]");
        return ExitCode::from(2);
    };
    let number = |at: usize, default| rest.get(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    match run(kernels, ours, number(0, 1), number(1, 1000) as usize) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            eprintln!("{}", wrong.join("\n\n"));
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
