//! `cargo xtask acid`: does adding one thing still touch as few files as the project promises? Each row of [`PATCHES`] adds
//! one in a copy of this tree. The patch must stay within its limit, its proofs must hold, and the proof that it names
//! must fail once the patch is broken on purpose.
//!
//! All patches share the copy and one build, so they must not touch the same lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{canary, sh};

/// One thing added.
struct Patch {
    /// What `cargo xtask acid NAME` takes.
    name: &'static str,
    /// What holds when all proofs do.
    claim: &'static str,
    /// The patch, below `xtask/acid/`.
    file: &'static str,
    limit: Touched,
    proofs: &'static [Proof],
    broken: Broken,
}

/// How much of the tree a patch touches, or may touch.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Touched {
    /// Files that were not there.
    new: usize,
    /// Files that were.
    changed: usize,
    /// Lines added to and removed from the latter.
    lines: usize,
}

const fn touched_at_most(new: usize, changed: usize, lines: usize) -> Touched {
    Touched {
        new,
        changed,
        lines,
    }
}

/// What shows that the thing was taken everywhere.
#[derive(Clone, Copy)]
enum Proof {
    /// A test passes. `target` is `--lib`, or `--test` and its name.
    Test {
        package: &'static str,
        target: &'static [&'static str],
        name: &'static str,
    },
    /// `uzram ARGS` succeeds and prints the words.
    Prints {
        args: &'static [&'static str],
        words: &'static str,
    },
    /// `uzram create OPTIONS` makes a device whose path begins so, and `uzram remove` takes it down.
    Makes {
        options: &'static [&'static str],
        path: &'static str,
    },
}

const CREATE_HELP: &[&str] = &["create", "--help"];

const fn prints(args: &'static [&'static str], words: &'static str) -> Proof {
    Proof::Prints { args, words }
}

/// How a patch is broken: `from` becomes `to` in `file`, and `seen_by` fails.
struct Broken {
    file: &'static str,
    from: &'static str,
    to: &'static str,
    seen_by: Proof,
}

/// The test that the line in the backends' list expands to.
const CONFORMANCE: Proof = Proof::Test {
    package: "uzram-compress",
    target: &["--lib"],
    name: "backends::conformance::eighth",
};

const PATCHES: &[Patch] = &[
    Patch {
        name: "algorithm",
        claim: "an algorithm is one file, one line in a list, and its feature",
        file: "eighth-algorithm.patch",
        limit: touched_at_most(1, 2, 3),
        proofs: &[
            CONFORMANCE,
            prints(&["algorithms"], "eighth-inverted"),
            prints(&["man"], "eighth-inverted"),
        ],
        broken: Broken {
            file: "crates/uzram-compress/src/backends/eighth.rs",
            from: "*to = !from",
            to: "*to = !from & 0x7F",
            seen_by: CONFORMANCE,
        },
    },
    Patch {
        name: "frontend",
        claim: "a frontend is one crate, one line in a table, and its dependency",
        file: "frontend.patch",
        limit: touched_at_most(2, 3, 3),
        proofs: &[
            prints(CREATE_HELP, "a socket that answers the number of a page"),
            prints(&["help", "create"], "--perch"),
            PARROT,
        ],
        broken: Broken {
            file: "crates/uzram-parrot/src/lib.rs",
            from: "UnixListener::bind(&socket)?",
            to: "UnixListener::bind(\"/no/such/perch\")?",
            seen_by: PARROT,
        },
    },
    Patch {
        name: "option",
        claim: "an option of create is one field, one argument and its use",
        file: "option.patch",
        limit: touched_at_most(0, 4, 24),
        proofs: &[prints(CREATE_HELP, "Niceness of the server"), SCHEMA, NICE],
        broken: Broken {
            file: "crates/uzram-spec/src/device.rs",
            from: "pub nice: u8",
            to: "#[serde(rename = \"mild\")]\n    pub nice: u8",
            seen_by: SCHEMA,
        },
    },
];

/// The parrot serves, for which it takes an option of its own to be chosen by.
const PARROT: Proof = Proof::Makes {
    options: &["--size", "1M", "--perch", "shoulder"],
    path: "parrot:",
};

/// The API takes the option.
const SCHEMA: Proof = prints(&["create", "--schema"], "\"nice\"");

/// The option is taken.
const NICE: Proof = Proof::Makes {
    options: &["--size", "1M", "--frontend", "nbd", "--nice", "3"],
    path: "nbd+unix:",
};

/// Proves the patches of these names, or all.
pub(crate) fn acid(names: &[String]) -> Result<()> {
    for name in names {
        if !PATCHES.iter().any(|patch| patch.name == name) {
            let known: Vec<_> = PATCHES.iter().map(|patch| patch.name).collect();
            bail!("no patch '{name}'; there are: {}", known.join(" "));
        }
    }
    let wanted = |patch: &&Patch| names.is_empty() || names.iter().any(|name| patch.name == name);
    let patches: Vec<_> = PATCHES.iter().filter(wanted).collect();

    let tree = copy("acid")?;
    for patch in &patches {
        let file = sh::root().join("xtask/acid").join(patch.file);
        let touched = touched(&tree, &file)?;
        touched.within(patch.limit).context(patch.file)?;
        apply(&tree, &file)?;
    }
    build(&tree)?;
    for patch in &patches {
        for proof in patch.proofs {
            proof.holds(&tree).context(patch.name)?;
        }
    }
    for patch in &patches {
        patch.broken.is_seen(&tree).context(patch.name)?;
        println!("{}", patch.claim);
    }
    Ok(())
}

/// What the proofs, which take a build, would find at once: patches that no longer fit this tree, and those that touch too
/// much of it.
pub(crate) fn check_patches(wrong: &mut Vec<String>) {
    let root = sh::root();
    let fits = |file: &Path| git_apply(&root, file, &["--check"]).map(drop);
    let mut check = |file: &Path, result: Result<()>| {
        if let Err(error) = result {
            wrong.push(format!("{}: {error:#}", file.display()));
        }
    };
    for patch in PATCHES {
        let file = root.join("xtask/acid").join(patch.file);
        let within = touched(&root, &file).and_then(|touched| touched.within(patch.limit));
        check(&file, within.and_then(|()| fits(&file)));
    }
    let canaries = root.join(canary::PATCH);
    check(&canaries, fits(&canaries).context(canary::MEND));
}

impl Touched {
    /// Reads `git apply --numstat --summary`: lines `ADDED\tREMOVED\tFILE`, then ` create mode MODE FILE`.
    fn parse(text: &str) -> Result<Self> {
        let created: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(" create mode ")?.split_once(' '))
            .map(|(_, file)| file)
            .collect();
        let mut touched = Self {
            new: created.len(),
            ..Self::default()
        };
        for line in text.lines().filter(|line| !line.starts_with(' ')) {
            let mut words = line.splitn(3, '\t');
            let mut number = || words.next()?.parse::<usize>().ok();
            let (Some(added), Some(removed)) = (number(), number()) else {
                bail!("git apply --numstat said '{line}'");
            };
            if !words.next().is_some_and(|file| created.contains(&file)) {
                touched.changed += 1;
                touched.lines += added + removed;
            }
        }
        Ok(touched)
    }

    fn within(self, limit: Self) -> Result<()> {
        let within = self.new <= limit.new
            && self.changed <= limit.changed
            && self.lines <= limit.lines
            && self != Self::default();
        ensure!(within, "touches {self:?}, and may touch {limit:?}");
        Ok(())
    }
}

impl Proof {
    fn holds(self, tree: &Path) -> Result<()> {
        let (green, text) = self.try_it(tree)?;
        ensure!(green, "{}:\n{text}", self.describe());
        Ok(())
    }

    fn describe(self) -> String {
        match self {
            Self::Test { package, name, .. } => format!("{package}'s test {name}"),
            Self::Prints { args, words } => format!("'uzram {}' prints '{words}'", args.join(" ")),
            Self::Makes { options, path } => {
                format!("'uzram create {}' makes '{path}...'", options.join(" "))
            }
        }
    }

    /// Whether it holds, and what was printed.
    fn try_it(self, tree: &Path) -> Result<(bool, String)> {
        match self {
            Self::Test {
                package,
                target,
                name,
            } => {
                let select = [&["test", "--package", package][..], target].concat();
                let (passed, text) =
                    cargo(tree, &[&select[..], &["--", "--exact", name]].concat())?;
                // Neither a test that is not there nor a build that fails is an answer.
                ensure!(
                    text.contains("1 passed") || text.contains("1 failed"),
                    "{} was not run:\n{text}",
                    self.describe()
                );
                Ok((passed, text))
            }
            Self::Prints { args, words } => {
                build(tree)?;
                let program = sh::target().join("debug/uzram");
                let output = Command::new(&program).args(args).output();
                let output = output.with_context(|| program.display().to_string())?;
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                // A manual page's hyphens have a backslash.
                let printed = text.replace('\\', "").contains(words);
                Ok((output.status.success() && printed, text))
            }
            Self::Makes { options, path } => {
                build(tree)?;
                let run = tree.join("run");
                let uzram = |args: &[&str]| {
                    let mut program = Command::new(sh::target().join("debug/uzram"));
                    program.args(args).env("UZRAM_RUN_DIR", &run).output()
                };
                let made = uzram(&[&["create", "--private"], options].concat())?;
                let removed = uzram(&["remove", "--all"])?;
                let works = made.status.success()
                    && String::from_utf8_lossy(&made.stdout).starts_with(path)
                    && removed.status.success();
                let text = [made.stdout, made.stderr, removed.stderr].concat();
                Ok((works, String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }
}

impl Broken {
    /// Breaks the patch, demands that the proof fails, and mends it.
    fn is_seen(&self, tree: &Path) -> Result<()> {
        let file = tree.join(self.file);
        let source = fs::read_to_string(&file).with_context(|| self.file.to_owned())?;
        let broken = source.replace(self.from, self.to);
        ensure!(broken != source, "{} has no '{}'", self.file, self.from);
        fs::write(&file, broken)?;
        let tried = self.seen_by.try_it(tree);
        fs::write(&file, source)?;
        let (green, text) = tried?;
        ensure!(
            !green,
            "broken, it still holds: {}\n{text}",
            self.seen_by.describe()
        );
        Ok(())
    }
}

/// This tree's files as they are, in `target/NAME`, which later runs use again: what has not changed keeps its time, and
/// cargo what it built. What an earlier run's patches added is removed.
pub(crate) fn copy(name: &str) -> Result<PathBuf> {
    let tree = sh::target().join(name);
    fs::create_dir_all(&tree)?;
    let git = |index: &str, args: &[&str]| {
        let mut git = sh::command("git", args);
        // Neither changes what this tree has staged.
        git.env("GIT_INDEX_FILE", tree.with_extension(index));
        git
    };
    sh::run(git("here", &["add", "--all"]))?;
    let files = sh::output(git("here", &["write-tree"]))?;
    for args in [
        &["read-tree", "--reset", "-u", files.trim()][..],
        &["clean", "-ffdxq"],
    ] {
        let mut there = git("there", args);
        there.env("GIT_WORK_TREE", &tree);
        sh::run(there)?;
    }
    Ok(tree)
}

/// Applies a patch to a copy.
pub(crate) fn apply(tree: &Path, patch: &Path) -> Result<()> {
    let applied = git_apply(tree, patch, &[]).map(drop);
    applied.with_context(|| format!("{} no longer fits", patch.display()))
}

/// Runs cargo in a copy, with the target directory of this tree and none of its speed; whether it succeeded, and all it said.
pub(crate) fn cargo(tree: &Path, args: &[&str]) -> Result<(bool, String)> {
    let output = sh::cargo(args)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", sh::target())
        // The dependencies' profile is another one, so that what they were built to serves here, too.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .output()
        .context("cannot run cargo")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

fn build(tree: &Path) -> Result<()> {
    let args = [&["build"][..], sh::WORKSPACE, sh::PROGRAM].concat();
    let (built, text) = cargo(tree, &args)?;
    ensure!(built, "the patched tree does not build:\n{text}");
    Ok(())
}

fn touched(tree: &Path, patch: &Path) -> Result<Touched> {
    Touched::parse(&git_apply(tree, patch, &["--numstat", "--summary"])?)
}

fn git_apply(tree: &Path, patch: &Path, options: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["apply", "-C1"]).args(options).arg(patch);
    // Not as a part of the repository that the copy lies in, which would skip every file.
    git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
    git.current_dir(tree);
    sh::output(git)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_patch_touches_is_counted() {
        let text =
            "2\t0\ta/Cargo.toml\n56\t0\ta/new.rs\n1\t1\ta/list.rs\n create mode 100644 a/new.rs\n";
        let touched = Touched::parse(text).unwrap();
        let want = Touched {
            new: 1,
            changed: 2,
            lines: 4,
        };
        assert_eq!(touched, want);
        assert!(touched.within(want).is_ok());
        for less in [
            Touched { new: 0, ..want },
            Touched { changed: 1, ..want },
            Touched { lines: 3, ..want },
        ] {
            assert!(touched.within(less).is_err());
        }
        // A patch that git read as none.
        assert!(Touched::default().within(want).is_err());
        assert!(Touched::parse("nonsense").is_err());
    }
}
