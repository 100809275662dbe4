//! A step of `cargo xtask test`: the RPM spec and the PKGBUILD, by which others make packages, are ones that their programs
//! understand and their linters like, and have the files that the Debian package has.
//!
//! Both are carried out, with the programs of the tests and a `cargo` that builds nothing: what lays the files out is the same as
//! where somebody packs. A package of Debian's form is not made here; what would be in it is read from cargo-deb's list.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::tree::{Place, Tree};
use super::{dir, emptied, version};
use crate::sh;

/// What it needs, of the packages of the same names and util-linux.
const TOOLS: &[&str] = &[
    "rpm",
    "rpmbuild",
    "rpmlint",
    "makepkg",
    "setpriv",
    "shellcheck",
];
const SPEC: &str = "dist/rpm/uzram.spec";
const RPMLINT: &str = "dist/rpm/rpmlint.toml";
const PKGBUILD: &str = "dist/arch/PKGBUILD";
const INSTALL: &str = "dist/arch/uzram.install";
/// Debian's list of files.
const MANIFEST: &str = "crates/uzram-cli/Cargo.toml";

/// Stands for cargo where a recipe is carried out.
const CARGO: &str = r#"#!/bin/sh
case "$1" in
fetch | build) ;;
xtask)
    shift
    exec "$RECIPES_XTASK" "$@" --programs "$RECIPES_PROGRAMS"
    ;;
*)
    echo "cargo $1 is not expected in a recipe" >&2
    exit 1
    ;;
esac
"#;

/// What systemd-rpm-macros has where packages of this form are made, as far as the spec uses it.
const MACROS: &[&str] = &[
    "_unitdir /usr/lib/systemd/system",
    "_presetdir /usr/lib/systemd/system-preset",
    "systemd_post() true %*",
    "systemd_preun() true %*",
    "systemd_postun_with_restart() true %*",
    // Compressed soon, not well.
    "_binary_payload w1.gzdio",
    // Pages of the manual are compressed already, and Debian's script for that is one of another shell.
    "__brp_compress %{nil}",
];

/// What shellcheck is not asked about in a PKGBUILD: variables that makepkg reads, variables that it sets, and `cd`, which it has
/// fail.
const OF_PKGBUILDS: &str = "SC2034,SC2154,SC2164";

/// Files of a package: their paths without the `/` before them, and their permissions.
type PackedFiles = BTreeMap<String, u32>;

/// The programs that are not here.
pub(crate) fn missing_tools() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &&&str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let missing = TOOLS.iter().filter(|tool| !is_there(tool));
    missing.copied().collect()
}

/// Checks both, with the programs of the tests, which are there.
pub(crate) fn recipes() -> Result<()> {
    let work = dir().join("recipes");
    emptied(&work)?;
    let cargo = work.join("cargo/cargo");
    fs::create_dir_all(work.join("cargo"))?;
    fs::write(&cargo, CARGO)?;
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755))?;
    let rpm = rpm(&work)?;
    let arch = arch(&work)?;
    let deb = deb(&work)?;
    let mut wrong = Vec::new();
    compare("RPM package", &deb, &rpm, Place::Rpm, &mut wrong);
    compare(
        "package of Arch Linux",
        &deb,
        &arch,
        Place::Arch,
        &mut wrong,
    );
    ensure!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
    let (deb, rpm, arch) = (deb.len(), rpm.len(), arch.len());
    eprintln!("recipes: the same files but for those known: Debian {deb}, RPM {rpm}, Arch {arch}");
    Ok(())
}

/// A command that finds the other cargo.
fn recipe(program: &str, work: &Path) -> Result<Command> {
    let mut command = sh::command(program, &[]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![work.join("cargo")];
    dirs.extend(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs)?);
    // For what xtask asks the real one.
    let mut known = std::env::split_paths(&path).map(|dir| dir.join("cargo"));
    let real = std::env::var_os("CARGO").map(PathBuf::from);
    let real = real.or_else(|| known.find(|file| file.is_file()));
    command.env("CARGO", real.context("no cargo")?);
    // This very program may have been built anew since it began.
    let own = sh::target().join("debug/xtask");
    command.env("RECIPES_XTASK", own);
    command.env("RECIPES_PROGRAMS", sh::target().join("debug"));
    // No settings of whoever runs this.
    command.env("HOME", work);
    let home = std::env::home_dir().context("no home directory")?;
    for (variable, default) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let default = home.join(default).into();
        command.env(variable, std::env::var_os(variable).unwrap_or(default));
    }
    command.stdout(std::io::stderr());
    Ok(command)
}

/// What a recipe calls the directory of the sources. It is empty: nothing is built.
fn sources(dir: &Path) -> Result<PathBuf> {
    let sources = dir.join(format!("uzram-{}", version()));
    fs::create_dir_all(&sources)?;
    Ok(sources)
}

/// Checks the spec, and makes a package by it.
fn rpm(work: &Path) -> Result<PackedFiles> {
    let lint = |what: &str| {
        let mut rpmlint = sh::command("rpmlint", &["--strict", "--config", RPMLINT, what]);
        rpmlint.stdout(std::io::stderr());
        sh::run(rpmlint)
    };
    lint(SPEC)?;
    let top = work.join("rpm");
    sources(&top.join("BUILD"))?;
    let mut rpmbuild = recipe("rpmbuild", work)?;
    // What it builds with is another distribution's.
    rpmbuild.args(["-bb", "--quiet", "--noprep", "--nodeps"]);
    let of_top = format!("_topdir {}", top.display());
    for define in MACROS.iter().copied().chain([of_top.as_str()]) {
        rpmbuild.args(["--define", define]);
    }
    sh::run({
        rpmbuild.arg(SPEC);
        rpmbuild
    })?;
    let name = format!("uzram-{}-1.x86_64.rpm", version());
    let package = top.join("RPMS/x86_64").join(name);
    let package = package.display().to_string();
    lint(&package)?;
    let format = r"[%{FILEMODES:octal} %{FILENAMES}\n]";
    let query = ["--query", "--package", "--queryformat", format, &package];
    let listed = sh::output(sh::command("rpm", &query))?;
    Ok(listed.lines().filter_map(packed_by_rpm).collect())
}

/// A regular file of rpm's list: `0100644 /path`.
fn packed_by_rpm(line: &str) -> Option<(String, u32)> {
    let (mode, path) = line.split_once(" /")?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    (mode & 0o170_000 == 0o100_000).then(|| (path.to_owned(), mode & 0o777))
}

/// Checks the PKGBUILD, and does what it says.
fn arch(work: &Path) -> Result<PackedFiles> {
    let lint = |file: &str, without: &[&str]| {
        let mut shellcheck = sh::command("shellcheck", &["--shell", "bash"]);
        shellcheck.args(without).arg(file);
        shellcheck.stdout(std::io::stderr());
        sh::run(shellcheck)
    };
    lint(PKGBUILD, &["--exclude", OF_PKGBUILDS])?;
    lint(INSTALL, &[])?;
    srcinfo()?;
    let (src, pkg) = (work.join("arch/src"), work.join("arch/pkg"));
    sources(&src)?;
    fs::create_dir_all(&pkg)?;
    let mut bash = recipe("bash", work)?;
    // As makepkg does it: each in a shell of its own.
    let all = "umask 022; source \"$0\"; srcdir=$1 pkgdir=$2; for f in prepare build package; do (cd \"$srcdir\"; $f); done";
    bash.args(["-euc", all, PKGBUILD]).arg(src).arg(&pkg);
    sh::run(bash)?;
    listed(&pkg)
}

/// Has makepkg read the PKGBUILD. It does nothing for root, and looks for pacman, which it does not need for that.
fn srcinfo() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("uzram-recipes-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
    let read = || {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        for file in [PKGBUILD, INSTALL] {
            let name = Path::new(file).file_name().unwrap_or_default();
            let copy = dir.join(name);
            fs::copy(sh::root().join(file), &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        }
        let is_root = sh::output(sh::command("id", &["-u"]))?.trim() == "0";
        let as_nobody: &[&str] = match is_root {
            true => &["setpriv", "--reuid", "nobody", "--clear-groups"],
            false => &["env"],
        };
        let mut makepkg = sh::command(as_nobody[0], &as_nobody[1..]);
        makepkg.args(["makepkg", "--printsrcinfo"]);
        makepkg.env("PACMAN", "true").env("BUILDDIR", &dir);
        makepkg.current_dir(&dir);
        let said = sh::output(makepkg)?;
        let wanted = format!("\tpkgver = {}\n", version());
        ensure!(
            said.contains(&wanted),
            "makepkg reads another version: {said}"
        );
        Ok(())
    };
    let done = read();
    fs::remove_dir_all(&dir)?;
    done
}

/// What cargo-deb would pack.
fn deb(work: &Path) -> Result<PackedFiles> {
    let tree = Tree::lay_out(work.join("deb"), Place::Debian, &sh::target().join("debug"))?;
    let all = listed(tree.root())?;
    let manifest = fs::read_to_string(sh::root().join(MANIFEST))?;
    let mut packed = PackedFiles::new();
    for asset in assets(&manifest)? {
        for path in asset.found_in(&all) {
            packed.insert(path, asset.mode);
        }
    }
    Ok(packed)
}

/// A line of cargo-deb's list of files.
#[derive(Debug, PartialEq)]
struct Asset {
    /// Below the tree: a file, or all of a directory, whose name then ends with `/`. None: it is not of the tree.
    from: Option<String>,
    to: String,
    mode: u32,
}

impl Asset {
    fn found_in(&self, tree: &PackedFiles) -> Vec<String> {
        match &self.from {
            None => vec![self.to.clone()],
            Some(from) => {
                let name_in = |path: &String| {
                    let name = path.strip_prefix(from.as_str())?;
                    (!name.contains('/')).then(|| name.to_owned())
                };
                let names = tree.keys().filter_map(name_in);
                let is_directory = self.to.ends_with('/') && !from.ends_with('/');
                let to = |name: String| match is_directory {
                    true => format!("{}{}", self.to, from.rsplit('/').next().unwrap_or_default()),
                    false => format!("{}{name}", self.to),
                };
                names.map(to).collect()
            }
        }
    }
}

/// Reads cargo-deb's list from the manifest.
fn assets(manifest: &str) -> Result<Vec<Asset>> {
    let list = manifest.split_once("\nassets = [\n");
    let (_, list) = list.context("the manifest has no list of assets")?;
    let (list, _) = list.split_once("\n]").context("the list has no end")?;
    let mut all = Vec::new();
    for line in list.lines() {
        let line = line.trim().trim_end_matches(',');
        let (from, to, mode): (String, String, String) =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        let from = from.strip_prefix("target/release/tree/");
        let from = from.map(|from| from.strip_suffix('*').unwrap_or(from).to_owned());
        let mode = u32::from_str_radix(&mode, 8).with_context(|| mode.clone())?;
        all.push(Asset { from, to, mode });
    }
    match all.is_empty() {
        true => bail!("the list of assets is empty"),
        false => Ok(all),
    }
}

/// The regular files below a directory.
fn listed(root: &Path) -> Result<PackedFiles> {
    let mut files = PackedFiles::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                todo.push(entry.path());
                continue;
            }
            let path = entry.path().strip_prefix(root)?.display().to_string();
            files.insert(path, meta.permissions().mode() & 0o777);
        }
    }
    Ok(files)
}

/// Where another package has what Debian's has at that path; `None`: it has no use for it.
fn elsewhere(path: &str, place: Place) -> Option<String> {
    let moved = |from: &str, to: &str| {
        let rest = path.strip_prefix(&format!("usr/{from}/"))?;
        Some(format!("usr/{to}/{rest}"))
    };
    let debian = Place::Debian;
    if path.starts_with("usr/share/lintian/") {
        return None;
    }
    moved(debian.zsh_completions(), place.zsh_completions())
        .or_else(|| moved(debian.helpers(), place.helpers()))
        .or_else(|| Some(path.to_owned()))
}

/// What only that package has: licences, which Debian has in a file of another form, and what scripts of Debian's do.
fn own(place: Place) -> Vec<&'static str> {
    let mut own = vec![
        "usr/share/licenses/uzram/LICENSE-APACHE",
        "usr/share/licenses/uzram/LICENSE-MIT",
    ];
    own.extend((place == Place::Arch).then_some("usr/share/libalpm/hooks/uzram.hook"));
    own
}

/// Says each file that one of them lacks, or has with other permissions.
fn compare(
    name: &str,
    deb: &PackedFiles,
    other: &PackedFiles,
    place: Place,
    wrong: &mut Vec<String>,
) {
    let wanted = deb
        .iter()
        .filter_map(|(path, mode)| Some((elsewhere(path, place)?, *mode)));
    let own = own(place).into_iter().map(|path| (path.to_owned(), 0o644));
    let wanted: PackedFiles = wanted.chain(own).collect();
    for (path, mode) in &wanted {
        match other.get(path) {
            None => wrong.push(format!("the {name} has no {path}")),
            Some(other) if other != mode => wrong.push(format!(
                "{path} has the permissions {other:o} in the {name}, not {mode:o}"
            )),
            Some(_) => {}
        }
    }
    for path in other.keys().filter(|path| !wanted.contains_key(*path)) {
        wrong.push(format!("the {name} has {path}, which Debian's has not"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, u32)]) -> PackedFiles {
        let files = files.iter().map(|(path, mode)| ((*path).to_owned(), *mode));
        files.collect()
    }

    #[test]
    fn assets_are_read_as_cargo_deb_does() {
        let manifest = "x\nassets = [\n    [\"target/release/tree/usr/bin/*\", \"usr/bin/\", \"755\"],\n    \
                        [\"target/release/tree/etc/a.toml\", \"etc/\", \"644\"],\n    [\"../b\", \"usr/c\", \"644\"],\n]\n";
        let tree = packed(&[
            ("usr/bin/a", 0o700),
            ("usr/bin/x/b", 0o755),
            ("etc/a.toml", 0o644),
        ]);
        let found: Vec<_> = assets(manifest)
            .unwrap()
            .iter()
            .flat_map(|asset| asset.found_in(&tree))
            .collect();
        assert_eq!(found, ["usr/bin/a", "etc/a.toml", "usr/c"]);
        assert!(assets("assets").is_err() && assets("\nassets = [\n]").is_err());
        let manifest = fs::read_to_string(sh::root().join(MANIFEST)).unwrap();
        assert!(assets(&manifest).unwrap().len() > 10);
    }

    #[test]
    fn what_one_package_lacks_is_said() {
        let deb = packed(&[
            ("usr/bin/uzram", 0o755),
            ("usr/lib/uzram/none-served", 0o755),
            ("usr/share/zsh/vendor-completions/_uzram", 0o644),
            ("usr/share/lintian/overrides/uzram", 0o644),
        ]);
        let mut rpm = packed(&[
            ("usr/bin/uzram", 0o755),
            ("usr/libexec/uzram/none-served", 0o755),
            ("usr/share/zsh/site-functions/_uzram", 0o644),
            ("usr/share/licenses/uzram/LICENSE-APACHE", 0o644),
            ("usr/share/licenses/uzram/LICENSE-MIT", 0o644),
        ]);
        let said = |rpm: &PackedFiles| {
            let mut wrong = Vec::new();
            compare("RPM", &deb, rpm, Place::Rpm, &mut wrong);
            wrong
        };
        assert_eq!(said(&rpm), [""; 0]);
        rpm.insert("usr/bin/uzram".into(), 0o644);
        rpm.remove("usr/share/zsh/site-functions/_uzram");
        rpm.insert("usr/bin/more".into(), 0o755);
        assert_eq!(
            said(&rpm),
            [
                "usr/bin/uzram has the permissions 644 in the RPM, not 755",
                "the RPM has no usr/share/zsh/site-functions/_uzram",
                "the RPM has usr/bin/more, which Debian's has not",
            ]
        );
    }

    #[test]
    fn rpms_list_is_read() {
        let file = packed_by_rpm("0100644 /etc/uzram.toml");
        assert_eq!(file, Some(("etc/uzram.toml".into(), 0o644)));
        assert_eq!(packed_by_rpm("040755 /usr/share/doc/uzram"), None);
    }

    /// The version is said in four places, for programs that read nothing else.
    #[test]
    fn recipes_have_the_version_of_the_workspace() {
        let read = |name: &str| fs::read_to_string(sh::root().join(name)).unwrap();
        let (spec, pkgbuild) = (read(SPEC), read(PKGBUILD));
        assert!(spec.contains(&format!("\nVersion:        {}\n", version())));
        assert!(spec.contains(&format!(" - {}-1\n", version())));
        assert!(pkgbuild.contains(&format!("\npkgver={}\n", version())));
    }

    /// Both call cargo without saying of what.
    #[test]
    fn recipes_build_what_packages_have() {
        let manifest = fs::read_to_string(sh::root().join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("\ndefault-members = [").unwrap();
        let (members, _) = rest.split_once(']').unwrap();
        for (package, _) in super::super::PROGRAMS {
            assert!(
                members.contains(&format!("\"crates/{package}\"")),
                "{package}"
            );
        }
    }
}
