//! Says what is wrong with the certificates in a directory: `cargo run -p uzram-tls --example check -- DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: check DIR");
        return ExitCode::from(2);
    };
    let server = uzram_tls::Tls::from_directory(&directory, true).map(drop);
    let client = uzram_tls::client_config(&directory).map(drop);
    let mut good = false;
    for (side, checked) in [("server", server), ("client", client)] {
        match checked {
            Ok(()) => {
                good = true;
                println!("{side}: good");
            }
            Err(error) => println!("{side}: {error}"),
        }
    }
    ExitCode::from(u8::from(!good))
}
