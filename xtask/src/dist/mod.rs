//! `cargo xtask dist`: what is given to users, in `target/dist`: a Debian package, an archive of static programs, what they
//! were made of, and checksums of all.
//!
//! Everything that is packed is first laid out as a tree of files with their final paths; what packs it only packs. So each
//! package has the same files, and what the program can say itself (manual pages, completions) is asked of the program.
//!
//! | module | its subject |
//! | --- | --- |
//! | `tree` | the files, with the paths at which they are installed |
//! | `notices` | licences of what the programs link |
//! | `deb` | the Debian package |
//! | `archive` | the archive of static programs |
//! | `sbom` | the list of components |
//! | `recipes` | the RPM spec and the PKGBUILD, by which others make packages: whether they are right |
//! | `tools` | cargo's subcommands that this needs, at versions that are known |

mod archive;
mod deb;
mod notices;
mod recipes;
mod sbom;
mod tools;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{setup, sh};
pub(crate) use deb::{Deb, lint};
pub(crate) use recipes::{missing_tools, recipes};
use tree::{Place, Tree};

/// What users get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The Debian package
    Deb,
    /// Programs that need no libraries, in an archive
    Static,
    /// The list of components, in CycloneDX's form
    Sbom,
    /// What was committed last, in an archive: what the RPM spec and the PKGBUILD build
    Source,
}

/// Options of `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct DistOptions {
    /// What to make; without a name the package and the list of components
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
    /// Make none of these: lay the files out below DIR, for another packager, with the programs in target/release, which are there
    #[arg(long, value_name = "DIR", conflicts_with = "parts")]
    tree: Option<PathBuf>,
    /// For whom the files of --tree are laid out
    #[arg(long = "for", value_enum, default_value_t = Place::Debian, requires = "tree")]
    place: Place,
    /// Take the programs from here, not from target/release
    #[arg(long, value_name = "DIR", requires = "tree")]
    programs: Option<PathBuf>,
}

/// The programs, and the packages that they are in.
const PROGRAMS: &[(&str, &str)] = &[
    ("uzram-cli", "uzram"),
    ("uzram-cli", "uzramd"),
    ("uzram-bench", "uzram-bench"),
    ("uzram-s3", "uzram-s3"),
    ("uzram-top", "uzram-top"),
];

/// The file with the checksums of the others.
const CHECKSUMS: &str = "SHA256SUMS";

pub(crate) fn dist(options: &DistOptions) -> Result<()> {
    if let Some(dir) = &options.tree {
        return lay_out(dir, options);
    }
    setup::setup(setup::PackagePurpose::Dist)?;
    fs::create_dir_all(dir()).with_context(|| dir().display().to_string())?;
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut made = Vec::new();
    if wanted(Part::Deb) {
        let deb = Deb::released()?.build()?;
        lint(&deb)?;
        made.push(deb);
    }
    if options.parts.contains(&Part::Static) {
        made.push(archive::archive()?);
    }
    if options.parts.contains(&Part::Source) {
        made.push(source()?);
    }
    if wanted(Part::Sbom) {
        made.extend(sbom::sbom()?);
    }
    for path in made {
        println!("{}", path.display());
    }
    println!("{}", checksums()?.display());
    Ok(())
}

/// The files of a package, for whoever packs them by other means. Installs nothing, and builds nothing.
fn lay_out(dir: &Path, options: &DistOptions) -> Result<()> {
    let here = std::env::current_dir()?;
    let programs = match &options.programs {
        Some(dir) => here.join(dir),
        None => sh::target().join("release"),
    };
    Tree::lay_out(here.join(dir), options.place, &programs)?;
    Ok(())
}

/// Archives the last commit; the path of the archive.
fn source() -> Result<PathBuf> {
    let name = format!("uzram-{}", version());
    let path = dir().join(format!("{name}.tar.gz"));
    let mut git = sh::command("git", &["archive", "--format=tar.gz"]);
    git.arg(format!("--prefix={name}/"));
    git.arg("--output").arg(&path).arg("HEAD");
    sh::run(git)?;
    Ok(path)
}

/// Where what is made lies.
pub(crate) fn dir() -> PathBuf {
    sh::target().join("dist")
}

/// The version of the workspace.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// What selects the programs where cargo builds.
pub(crate) fn bins() -> Vec<&'static str> {
    let bins = PROGRAMS.iter().flat_map(|(_, name)| ["--bin", name]);
    bins.collect()
}

/// Builds the programs as they are released. `args` select the target, and `variables` its compiler.
fn build(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let packages: std::collections::BTreeSet<&str> = PROGRAMS.iter().map(|(of, _)| *of).collect();
    let packages: Vec<&str> = packages.iter().flat_map(|of| ["--package", of]).collect();
    let build = ["build", "--release", "--locked"];
    let mut cargo = sh::cargo(&[&build[..], &packages, &bins(), args].concat());
    cargo.envs(variables.iter().copied());
    sh::run(cargo)
}

/// Writes the checksums of all files that were made, also by earlier runs.
fn checksums() -> Result<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && name != CHECKSUMS {
            names.push(name);
        }
    }
    names.sort();
    let mut command = sh::command("sha256sum", &["--"]);
    command.args(&names).current_dir(dir());
    let path = dir().join(CHECKSUMS);
    fs::write(&path, sh::output(command)?)?;
    Ok(path)
}

/// Seconds since 1970 of what is packed: `SOURCE_DATE_EPOCH`, or the last commit's. Two builds of one commit have the same.
fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let commit = sh::output(sh::command("git", &["log", "-1", "--format=%ct"]));
    let epoch = commit.context("when this version was made: set SOURCE_DATE_EPOCH")?;
    Ok(epoch.trim().to_owned())
}

/// An empty directory of this path.
fn emptied(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}
