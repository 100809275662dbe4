//! The program `uzram`, for the tests of this crate, which need it beside `uzram-s3`.

fn main() -> std::process::ExitCode {
    uzram_cli::main()
}
