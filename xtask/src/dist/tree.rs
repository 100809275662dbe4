//! The files of a package with the paths at which they are installed, below a directory that stands for `/`.
//!
//! `dist` has units and rules as they are for programs in `/usr/local/bin`, where somebody puts them who builds them himself.
//! Packages have theirs in `/usr/bin`. Those of different distributions have the same files but for a few: see [`Place`], and the
//! module `recipes`, which compares them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{PROGRAMS, emptied, notices};
use crate::sh;

/// Who installs the files. That says where they are, and which of them a distribution has other ways for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Place {
    /// A package of Debian's form
    Debian,
    /// A package of Fedora's form
    Rpm,
    /// A package of Arch Linux's form
    Arch,
    /// An administrator, below /usr/local
    Local,
}

impl Place {
    /// Without the `/` before it.
    fn prefix(self) -> &'static str {
        match self {
            Self::Debian | Self::Rpm | Self::Arch => "usr",
            Self::Local => "usr/local",
        }
    }

    /// Where zsh looks for completions that packages bring. Debian's zsh looks in a place of its own.
    pub(super) fn zsh_completions(self) -> &'static str {
        match self {
            Self::Debian => "share/zsh/vendor-completions",
            Self::Rpm | Self::Arch | Self::Local => "share/zsh/site-functions",
        }
    }

    /// Where programs are that nobody calls by their names.
    pub(super) fn helpers(self) -> &'static str {
        match self {
            Self::Rpm => "libexec/uzram",
            Self::Debian | Self::Arch | Self::Local => "lib/uzram",
        }
    }
}

/// Manual pages that are others by another name: what the program is called, and the command that it is.
const SAME_PAGES: &[(&str, &str)] = &[("uzramd", "uzram-daemon")];

/// Which units are for which presets: those of the daemon are wanted wherever the package is, the others listen on the network.
const PRESET: &str = "\
# What systemctl preset makes of uzram's units. uzramd-persist.service saves devices that have \"persist\", and does nothing else.
enable uzramd.socket
enable uzramd.service
enable uzramd-persist.service
disable uzram-metrics.socket
";

/// A tree of files.
pub(super) struct Tree {
    root: PathBuf,
    place: Place,
}

impl Tree {
    /// Lays out everything, with the programs of the directory `programs`, in the directory `root`.
    pub(super) fn lay_out(root: PathBuf, place: Place, programs: &Path) -> Result<Self> {
        emptied(&root)?;
        let tree = Self { root, place };
        let program = programs.join("uzram");
        for (_, name) in PROGRAMS {
            tree.program(&programs.join(name))?;
        }
        tree.units()?;
        tree.pages(&program)?;
        tree.completions(&program)?;
        tree.configuration()?;
        tree.documents()?;
        tree.of_packages()?;
        Ok(tree)
    }

    /// What only a package has, or one of them.
    fn of_packages(&self) -> Result<()> {
        if self.place == Place::Local {
            return Ok(());
        }
        let read = |name: &str| fs::read(sh::root().join(name)).with_context(|| name.to_owned());
        let path = self.placed(&format!("{}/none-served", self.place.helpers()));
        self.write(&path, read("dist/none-served")?)?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.root.join(path), executable)?;
        if self.place == Place::Arch {
            let hook = "usr/share/libalpm/hooks/uzram.hook";
            self.write(hook, read("dist/arch/uzram.hook")?)?;
        }
        if matches!(self.place, Place::Rpm | Place::Arch) {
            // Debian has both in a file of its own form.
            for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
                self.write(
                    &format!("usr/share/licenses/uzram/{licence}"),
                    read(licence)?,
                )?;
            }
        }
        Ok(())
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Below the place of programs: `bin/uzram`, `share/man`.
    fn placed(&self, path: &str) -> String {
        format!("{}/{path}", self.place.prefix())
    }

    /// Writes a file. Its path is from the root.
    pub(super) fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.root.join(path);
        let dir = path.parent().context("a file of no directory")?;
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        fs::write(&path, contents).with_context(|| path.display().to_string())
    }

    /// A program without its symbols. What panics says its line all the same.
    fn program(&self, from: &Path) -> Result<()> {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = self.root.join(self.placed(&format!("bin/{name}")));
        fs::create_dir_all(to.parent().unwrap_or(&self.root))?;
        let mut strip = sh::command("strip", &["--strip-all"]);
        // What Debian's dh_strip removes besides.
        strip.args(["--remove-section=.comment", "--remove-section=.note"]);
        strip.arg("-o").arg(&to).arg(from);
        sh::run(strip)
    }

    /// systemd's units with the programs' path, and their presets.
    fn units(&self) -> Result<()> {
        for entry in fs::read_dir(sh::root().join("dist/systemd"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path)?;
            let to = self.placed(&format!("lib/systemd/system/{name}"));
            self.write(&to, self.with_paths(&text))?;
        }
        self.write(
            &self.placed("lib/systemd/system-preset/90-uzram.preset"),
            PRESET,
        )
    }

    /// A text with the paths at which programs are.
    fn with_paths(&self, text: &str) -> String {
        let prefix = self.place.prefix();
        let text = text.replace("=/usr/bin/", "=/usr/local/bin/");
        let text = text.replace("\"/usr/bin/", "\"/usr/local/bin/");
        text.replace("/usr/local", &format!("/{prefix}"))
    }

    fn pages(&self, program: &Path) -> Result<()> {
        let pages = self.root.join("pages");
        let mut man = Command::new(program);
        man.arg("man").arg(&pages);
        sh::run(man)?;
        for entry in fs::read_dir(&pages)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let section = name.rsplit('.').next().unwrap_or_default();
            let to = self.placed(&format!("share/man/man{section}/{name}.gz"));
            self.write(&to, gzip(&fs::read(&path)?)?)?;
        }
        for (name, same) in SAME_PAGES {
            let page = pages.join(format!("{same}.1"));
            ensure!(page.is_file(), "no page {} for {name}", page.display());
            let to = self.placed(&format!("share/man/man1/{name}.1.gz"));
            self.write(&to, gzip(format!(".so man1/{same}.1\n").as_bytes())?)?;
        }
        fs::remove_dir_all(pages)?;
        Ok(())
    }

    fn completions(&self, program: &Path) -> Result<()> {
        let zsh = format!("{}/_uzram", self.place.zsh_completions());
        for (shell, to) in [
            ("bash", "share/bash-completion/completions/uzram"),
            ("zsh", &zsh),
            ("fish", "share/fish/vendor_completions.d/uzram.fish"),
        ] {
            let mut completions = Command::new(program);
            completions.args(["completions", shell]);
            self.write(&self.placed(to), sh::output(completions)?)?;
        }
        Ok(())
    }

    /// What the administrator changes.
    fn configuration(&self) -> Result<()> {
        let text = fs::read_to_string(sh::root().join("dist/uzram.toml"))?;
        match self.place {
            Place::Debian | Place::Rpm | Place::Arch => {
                // It is there already.
                let copied = " Copy to /etc/uzram.toml.";
                ensure!(text.contains(copied), "dist/uzram.toml has no '{copied}'");
                self.write("etc/uzram.toml", text.replace(copied, ""))
            }
            // Whoever unpacks this has one, perhaps.
            Place::Local => self.write(&self.placed("share/doc/uzram/examples/uzram.toml"), text),
        }
    }

    /// Documents and examples. Users are not given ublk by a package: the rules are root's to copy.
    fn documents(&self) -> Result<()> {
        let root = sh::root();
        let doc = self.placed("share/doc/uzram");
        let read = |name: &str| fs::read(root.join(name)).with_context(|| name.to_owned());
        let rules = String::from_utf8(read("dist/90-uzram-ublk.rules")?)?;
        let rules = self
            .with_paths(&rules)
            .replace(" and set the path of uzram", "");
        self.write(&format!("{doc}/examples/90-uzram-ublk.rules"), rules)?;
        for (name, to) in [
            ("dist/grafana/uzram.json", "examples/grafana/uzram.json"),
            (
                "dist/prometheus/uzram.rules.yml",
                "examples/prometheus/uzram.rules.yml",
            ),
        ] {
            self.write(&format!("{doc}/{to}"), read(name)?)?;
        }
        for name in ["README.md", "SECURITY.md"] {
            self.write(&format!("{doc}/{name}"), read(name)?)?;
        }
        self.write(
            &format!("{doc}/changelog.gz"),
            gzip(&read("CHANGELOG.md")?)?,
        )?;
        let notices = notices::notices()?;
        self.write(
            &format!("{doc}/third-party-licenses.gz"),
            gzip(notices.as_bytes())?,
        )
    }
}

/// Compressed without a name and a time, as Debian wants it.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("gzip");
    command.args(["-9", "-n"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gzip = command.spawn().context("cannot run gzip")?;
    let mut stdin = gzip.stdin.take().context("gzip has no stdin")?;
    std::thread::scope(|scope| {
        let writes = scope.spawn(move || stdin.write_all(bytes));
        let output = gzip.wait_with_output()?;
        let wrote = writes.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        wrote.context("gzip")?;
        ensure!(output.status.success(), "gzip: {}", output.status);
        Ok(output.stdout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_get_the_path_of_the_programs() {
        let tree = |place| Tree {
            root: PathBuf::new(),
            place,
        };
        let text = "RequiresMountsFor=/etc /usr/local /var\nExecStart=/usr/local/bin/uzramd\nPROGRAM=\"/usr/bin/uzram x\"\n";
        assert_eq!(
            tree(Place::Debian).with_paths(text),
            "RequiresMountsFor=/etc /usr /var\nExecStart=/usr/bin/uzramd\nPROGRAM=\"/usr/bin/uzram x\"\n"
        );
        assert_eq!(
            tree(Place::Local).with_paths(text),
            "RequiresMountsFor=/etc /usr/local /var\nExecStart=/usr/local/bin/uzramd\nPROGRAM=\"/usr/local/bin/uzram x\"\n"
        );
    }

    /// What another path was put in for must not be there any more.
    #[test]
    fn no_unit_of_a_package_is_of_the_administrators_programs() {
        let tree = Tree {
            root: PathBuf::new(),
            place: Place::Debian,
        };
        for entry in fs::read_dir(sh::root().join("dist/systemd")).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!tree.with_paths(&text).contains("/usr/local"), "{text}");
        }
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let text = "text ".repeat(100_000);
        let packed = gzip(text.as_bytes()).unwrap();
        assert!(packed.len() < text.len() / 100);
        // Neither a name nor a time: bytes 3 and 4 to 7 of the header.
        assert_eq!(packed[3..8], [0; 5]);
    }
}
