//! The `uzram-bench` program: see the library's docs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    uzram_bench::main()
}
