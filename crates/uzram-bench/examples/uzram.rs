//! The program `uzram`, for the tests of this crate, which need it beside `uzram-bench`.

fn main() -> std::process::ExitCode {
    uzram_cli::main()
}
