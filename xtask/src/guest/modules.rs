//! Kernel modules: which file holds a module, what else it needs, and the lists that modprobe reads. The kernel package
//! does not ship those lists (its installation makes them), so they are made here from the modules' own `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The modules of an unpacked kernel package.
pub(crate) struct Modules {
    root: PathBuf,
    /// Module name to path below `root`.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module with all that goes before it.
pub(crate) struct Module {
    /// Path below the modules' directory, uncompressed: `kernel/fs/x.ko`.
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

impl Modules {
    /// `root` is `lib/modules/RELEASE`.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        find(root, &root.join("kernel"), &mut files)?;
        let list = root.join("modules.builtin");
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let builtin = text.lines().filter_map(module_name).collect();
        let root = root.to_owned();
        Ok(Self {
            root,
            files,
            builtin,
        })
    }

    /// Whether it can be loaded or need not be.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.files.contains_key(name)
    }

    /// The files of `wanted` and of all they need, and modprobe's lists for them.
    pub(crate) fn closure(&self, wanted: &BTreeSet<String>) -> Result<Vec<Module>> {
        let mut loaded: BTreeMap<String, (Module, Info)> = BTreeMap::new();
        let mut todo: Vec<String> = wanted.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            if loaded.contains_key(&name) || self.builtin.contains(&name) {
                continue;
            }
            let Some(path) = self.files.get(&name) else {
                bail!("this kernel has no module {name}");
            };
            let bytes = unpack(&self.root.join(path))?;
            let info = Info::of(&bytes);
            todo.extend(info.needs.iter().cloned());
            // What would be good to have may be missing.
            todo.extend(
                info.wants
                    .iter()
                    .filter(|name| self.files.contains_key(*name))
                    .cloned(),
            );
            let path = path.to_string_lossy().trim_end_matches(".xz").to_owned();
            loaded.insert(name, (Module { path, bytes }, info));
        }
        let mut dependencies = String::new();
        let mut aliases = String::new();
        for (name, (module, info)) in &loaded {
            let mut before = Vec::new();
            order(name, &loaded, &mut before);
            // modprobe loads from the end of the line to its beginning.
            let before: Vec<_> = before.iter().rev().filter(|n| *n != name).collect();
            let paths: Vec<_> = before.iter().map(|n| loaded[*n].0.path.as_str()).collect();
            dependencies += &format!("{}: {}\n", module.path, paths.join(" "));
            for alias in &info.aliases {
                aliases += &format!("alias {alias} {name}\n");
            }
        }
        let list = |name: &str, text: String| Module {
            path: name.into(),
            bytes: text.into_bytes(),
        };
        let lists = [
            list("modules.dep", dependencies),
            list("modules.alias", aliases),
        ];
        let files = loaded.into_values().map(|(module, _)| module);
        Ok(files.chain(lists).collect())
    }
}

/// `name` after all it needs.
fn order(name: &str, modules: &BTreeMap<String, (Module, Info)>, done: &mut Vec<String>) {
    if done.iter().any(|other| other == name) {
        return;
    }
    if let Some((_, info)) = modules.get(name) {
        for need in info.needs.iter().chain(&info.wants) {
            order(need, modules, done);
        }
        done.push(name.to_owned());
    }
}

/// What a module says of itself.
struct Info {
    needs: Vec<String>,
    wants: Vec<String>,
    aliases: Vec<String>,
}

impl Info {
    /// `.modinfo` is a run of `key=value` strings, each ended by a zero byte.
    fn of(module: &[u8]) -> Self {
        let mut info = Self {
            needs: Vec::new(),
            wants: Vec::new(),
            aliases: Vec::new(),
        };
        for string in module.split(|byte| *byte == 0) {
            let Some((key, value)) = std::str::from_utf8(string)
                .ok()
                .and_then(|s| s.split_once('='))
            else {
                continue;
            };
            match key {
                "depends" => info
                    .needs
                    .extend(value.split(',').filter(|s| !s.is_empty()).map(normal)),
                // "pre: a b post: c"
                "softdep" => {
                    let before = value
                        .split_once("pre:")
                        .map_or("", |(_, rest)| rest.split("post:").next().unwrap_or(""));
                    info.wants.extend(before.split_whitespace().map(normal));
                }
                "alias" => info.aliases.push(value.to_owned()),
                _ => {}
            }
        }
        info
    }
}

/// modprobe takes - and _ for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/fs/x-y.ko.xz` holds `x_y`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    Some(normal(file.trim_end_matches(".xz").strip_suffix(".ko")?))
}

fn find(root: &Path, dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(root, &path, files)?;
        } else if let Some(name) = module_name(&path.to_string_lossy()) {
            files.insert(name, path.strip_prefix(root)?.to_owned());
        }
    }
    Ok(())
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|e| e != "xz") {
        return fs::read(path).with_context(|| path.display().to_string());
    }
    let output = Command::new("xz").arg("-dc").arg(path).output();
    let output = output.context("cannot run xz")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "xz -dc {}: {error}",
        path.display()
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_is_read() {
        let info = Info::of(
            b"\x7fELF\0\xffx=\0alias=fs-x\0depends=a-b,c\0softdep=pre: d post: e\0depends=\0",
        );
        assert_eq!(info.needs, ["a_b", "c"]);
        assert_eq!(info.wants, ["d"]);
        assert_eq!(info.aliases, ["fs-x"]);
        assert_eq!(module_name("kernel/lib/a-b.ko.xz").as_deref(), Some("a_b"));
        assert_eq!(module_name("modules.order"), None);
    }

    #[test]
    fn needs_come_before_what_needs_them() {
        let module = |needs: &[&str]| {
            let needs = needs.iter().map(|s| s.to_string()).collect();
            let info = Info {
                needs,
                wants: Vec::new(),
                aliases: Vec::new(),
            };
            let empty = Module {
                path: String::new(),
                bytes: Vec::new(),
            };
            (empty, info)
        };
        let modules = [
            ("top", module(&["b", "a"])),
            ("a", module(&["base"])),
            ("b", module(&["a"])),
            ("base", module(&["missing"])),
        ];
        let modules = modules.map(|(n, m)| (n.to_owned(), m)).into();
        let mut done = Vec::new();
        order("top", &modules, &mut done);
        assert_eq!(done, ["base", "a", "b", "top"]);
    }
}
