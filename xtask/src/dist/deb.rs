//! The Debian package: [`Tree`] as cargo-deb packs it by `package.metadata.deb` in `crates/uzram-cli/Cargo.toml`, and lintian.
//!
//! cargo-deb does not build here. It takes files from `release` of the target directory that it is told, which is one with the
//! tree of files in it. So the programs may be of any build: the tests pack those that they have.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::tools::Tool;
use super::tree::{Place, Tree, gzip};
use super::{dir, epoch, version};
use crate::sh;

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
};

/// Debian's revision of a version.
const REVISION: &str = "1";
/// The name and the address that are taken where nobody says who packs.
const NOBODY: &str = "The uzram developers <uzram@localhost.localdomain>";

/// A package that is to be built.
pub(crate) struct Deb {
    programs: PathBuf,
    version: String,
    /// Where it and what it is made of is put.
    dir: PathBuf,
    /// How cargo-deb compresses.
    speed: &'static [&'static str],
}

impl Deb {
    /// With released programs, which it builds.
    pub(super) fn released() -> Result<Self> {
        super::build(&[], &[])?;
        Ok(Self {
            programs: sh::target().join("release"),
            version: format!("{}-{REVISION}", version()),
            dir: dir(),
            speed: &[],
        })
    }

    /// With the programs that tests are done with, for a test: it has this version, and is put in that directory.
    pub(crate) fn of_tests(version: &str, dir: PathBuf) -> Self {
        Self {
            programs: sh::target().join("debug"),
            version: version.to_owned(),
            dir,
            speed: &["--fast"],
        }
    }

    /// Packs it; the path of the package.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        let work = sh::target().join("dist/deb");
        let tree = Tree::lay_out(work.join("release/tree"), Place::Debian, &self.programs)?;
        let maintainer = maintainer();
        let doc = "usr/share/doc/uzram";
        let changelog = changelog(&self.version, &maintainer)?;
        tree.write(
            &format!("{doc}/changelog.Debian.gz"),
            gzip(changelog.as_bytes())?,
        )?;
        std::fs::create_dir_all(&self.dir)?;
        let mut cargo_deb = sh::command(&CARGO_DEB.program()?.display().to_string(), &[]);
        cargo_deb.args([
            "--no-build",
            "--no-strip",
            "--quiet",
            "--offline",
            "--locked",
        ]);
        cargo_deb.args(self.speed);
        cargo_deb.args(["--package", "uzram-cli", "--maintainer", &maintainer]);
        cargo_deb.args(["--deb-version", &self.version]);
        let name = format!("uzram_{}_{}.deb", self.version, architecture()?);
        let deb = self.dir.join(name);
        cargo_deb.arg("--output").arg(&deb);
        cargo_deb.env("CARGO_TARGET_DIR", &work);
        cargo_deb.env("SOURCE_DATE_EPOCH", epoch()?);
        // It prints the path, which is known.
        sh::output(cargo_deb)?;
        ensure!(
            deb.is_file(),
            "cargo-deb made another file than {}",
            deb.display()
        );
        Ok(deb)
    }
}

/// Fails where lintian finds an error, and shows what else it finds.
pub(crate) fn lint(deb: &Path) -> Result<()> {
    let mut lintian = sh::command(
        "lintian",
        &["--fail-on", "error", "--tag-display-limit", "0"],
    );
    // As root it only warns that it should not be.
    lintian.args(["--allow-root", "--no-cfg"]).arg(deb);
    lintian.stdout(std::io::stderr());
    sh::run(lintian).with_context(|| format!("lintian on {}", deb.display()))
}

/// What Debian calls this machine's architecture.
fn architecture() -> Result<String> {
    let name = sh::output(sh::command("dpkg", &["--print-architecture"]))?;
    Ok(name.trim().to_owned())
}

/// Who packs: by Debian's variables, or by git's configuration.
fn maintainer() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let git = |key| {
        let value = sh::output(sh::command("git", &["config", key])).ok()?;
        let value = value.trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let address = variable("DEBEMAIL").or_else(|| git("user.email"));
    let name = variable("DEBFULLNAME").or_else(|| git("user.name"));
    match (name, address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        _ => NOBODY.to_owned(),
    }
}

/// Debian's changelog: what changed stands in the project's own, which lies beside it.
fn changelog(version: &str, maintainer: &str) -> Result<String> {
    let at = format!("@{}", epoch()?);
    let date = sh::output(sh::command(
        "date",
        &["--utc", "--rfc-email", "--date", &at],
    ))?;
    let date = date.trim();
    Ok(format!(
        "uzram ({version}) unstable; urgency=medium\n\n  * What changed stands in changelog.gz.\n\n -- {maintainer}  {date}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_copyright_file_has_the_words_of_the_licence() {
        let words = |text: &str| {
            let words = text.split_whitespace().filter(|word| *word != ".");
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let read = |name: &str| std::fs::read_to_string(sh::root().join(name)).unwrap();
        let (mit, debian) = (read("LICENSE-MIT"), read("dist/debian/copyright"));
        let holder = mit
            .lines()
            .find_map(|line| line.strip_prefix("Copyright (c) "));
        assert!(debian.contains(&format!("\nCopyright: {}\n", holder.unwrap())));
        let (_, text) = mit.split_once("\n\nPermission").unwrap();
        let wanted = words(&format!("Permission{text}"));
        let got = words(&debian);
        assert!(got.windows(wanted.len()).any(|part| part == wanted));
    }

    #[test]
    fn the_changelog_is_debians() {
        let text = changelog("1.2.3-1", "A <a@b.org>").unwrap();
        assert!(text.starts_with("uzram (1.2.3-1) unstable; urgency=medium\n\n  * "));
        let last = text.lines().last().unwrap();
        assert!(
            last.starts_with(" -- A <a@b.org>  ") && last.ends_with(" +0000"),
            "{last}"
        );
    }
}
