//! What figures belong to: the machine, the kernels, the commit and the compiler.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::sh;

/// This machine, and the guest that ran on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) guest: String,
    pub(crate) guest_kernel: String,
    pub(crate) commit: String,
    pub(crate) compiler: String,
}

impl Machine {
    /// This machine with the guest whose run saved files to `saved`.
    pub(crate) fn this(saved: &Path) -> Machine {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu
            .unwrap_or("unknown CPU")
            .trim_start_matches([' ', '\t', ':']);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let guest = fs::read_to_string(saved.join("guest")).unwrap_or_default();
        let mut guest = guest.lines().map(str::to_owned);
        let mut next = || guest.next().unwrap_or_else(|| "unknown".into());
        let (guest_kernel, size) = (next(), next());
        let qemu = first_line("qemu-system-x86_64", &["--version"]);
        Machine {
            machine: format!("{cpu}, {cores} cores"),
            kernel: first_line("uname", &["-r"]),
            guest: format!("{qemu}, TCG, {size}"),
            guest_kernel,
            commit: first_line("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            compiler: first_line("rustc", &["--version"]),
        }
    }
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = sh::command(program, args).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}
