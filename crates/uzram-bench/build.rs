//! What figures belong to: the commit and the compiler of this build, not of wherever it is run.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let describe = ["describe", "--always", "--dirty", "--abbrev=12"];
    let commit = first_line("git", &describe);
    let compiler = first_line(&rustc, &["--version"]);
    println!("cargo:rustc-env=UZRAM_COMMIT={commit}");
    println!("cargo:rustc-env=UZRAM_COMPILER={compiler}");
    // Whatever makes it another commit, or no commit any more.
    println!("cargo:rerun-if-changed=..");
    for file in ["HEAD", "index"] {
        let path = first_line(
            "git",
            &["rev-parse", "--path-format=absolute", "--git-path", file],
        );
        if std::path::Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}
