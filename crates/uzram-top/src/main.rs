//! The `uzram-top` program: see the library's docs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    uzram_top::main()
}
