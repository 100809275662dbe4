//! What a test's file says of the test: comments of the form `# key: value` before the first other line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

/// One test.
#[derive(Debug)]
pub(crate) struct TestSpec {
    pub(crate) name: String,
    pub(crate) about: String,
    /// When it runs without being named.
    pub(crate) ci: Ci,
    /// Whether other tests may run before and after it in the same guest.
    pub(crate) shares: bool,
    /// The guest's memory, as QEMU takes it: `512M`, `1G`.
    pub(crate) memory: String,
    pub(crate) cpus: u32,
    /// Seconds.
    pub(crate) timeout: u64,
    /// Loaded before the test.
    pub(crate) modules: Vec<String>,
    /// Kernel messages that would otherwise fail the test.
    pub(crate) allow: Vec<Regex>,
    /// Whether it has a disk that this machine serves, by vhost-user.
    pub(crate) has_host_disk: bool,
    /// Whether it boots the Debian that is on a disk, and not from the archive alone.
    pub(crate) is_debian: bool,
    /// A test of the bench itself: what it must be reported to have failed of.
    pub(crate) fails: Option<String>,
}

/// When a test runs without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ci {
    Yes,
    /// With `--slow` only.
    Slow,
    No,
}

impl TestSpec {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut spec = Self {
            name: name.to_owned(),
            about: String::new(),
            ci: Ci::Yes,
            shares: false,
            memory: "1G".into(),
            cpus: 2,
            timeout: 60,
            modules: Vec::new(),
            allow: Vec::new(),
            has_host_disk: false,
            is_debian: false,
            fails: None,
        };
        // It becomes a word of the kernel's command line and a directory.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            bail!("the name '{name}' is not of letters, digits and -");
        }
        let mut seen = BTreeSet::new();
        for line in text.lines().take_while(|line| line.starts_with('#')) {
            let Some((key, value)) = line.strip_prefix("# ").and_then(|l| l.split_once(": "))
            else {
                continue;
            };
            let value = value.trim();
            let wrong = || format!("{key}: '{value}' is not understood");
            match key {
                "about" => spec.about = value.into(),
                "ci" => {
                    spec.ci = match value {
                        "yes" => Ci::Yes,
                        "slow" => Ci::Slow,
                        "no" => Ci::No,
                        _ => bail!("{} (yes, slow or no)", wrong()),
                    }
                }
                "boot" => {
                    spec.shares = match value {
                        "shared" => true,
                        // guest/init reads which of these it is.
                        "own" | "systemd" | "debian" => false,
                        _ => bail!("{} (shared, own, systemd or debian)", wrong()),
                    };
                    spec.is_debian = value == "debian";
                }
                "memory" => {
                    let digits = value.strip_suffix(['M', 'G']).with_context(wrong)?;
                    digits.parse::<u32>().with_context(wrong)?;
                    spec.memory = value.into();
                }
                "cpus" => spec.cpus = value.parse().with_context(wrong)?,
                "timeout" => spec.timeout = value.parse().with_context(wrong)?,
                "modules" => {
                    let names = value.split_whitespace();
                    spec.modules = names.map(|name| name.replace('-', "_")).collect();
                }
                "allow-dmesg" => spec.allow.push(Regex::new(value).with_context(wrong)?),
                "disk" => {
                    spec.has_host_disk = match value {
                        "vhost-user" => true,
                        _ => bail!("{} (vhost-user)", wrong()),
                    }
                }
                "fails" => spec.fails = Some(value.into()),
                // Any other comment with a colon.
                _ => continue,
            }
            if key != "allow-dmesg" && !seen.insert(key) {
                bail!("{key} is said twice");
            }
        }
        if spec.about.is_empty() {
            bail!("no line '# about: ...' at the top");
        }
        if spec.shares && spec.has_host_disk {
            bail!("a test with a disk has a boot of its own");
        }
        if spec.ci != Ci::No && spec.fails.is_some() {
            bail!("what must fail has to be 'ci: no'");
        }
        Ok(spec)
    }
}

/// All tests of a directory, by name.
pub(crate) fn read_all(dir: &Path) -> Result<Vec<TestSpec>> {
    let mut specs = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|e| e == "sh") {
            let text = fs::read_to_string(&path)?;
            let spec = TestSpec::parse(&name, &text).with_context(|| path.display().to_string())?;
            specs.push(spec);
        }
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(specs)
}

/// The tests to run: those named, or those of CI, with its slow ones or without.
pub(crate) fn select<'a>(
    specs: &'a [TestSpec],
    names: &[&str],
    slow: bool,
) -> Result<Vec<&'a TestSpec>> {
    if names.is_empty() {
        let wanted = |spec: &&TestSpec| match spec.ci {
            Ci::Yes => true,
            Ci::Slow => slow,
            Ci::No => false,
        };
        return Ok(specs.iter().filter(wanted).collect());
    }
    let find = |name: &&str| {
        let spec = specs.iter().find(|spec| spec.name == *name);
        spec.with_context(|| {
            let known: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
            format!("no test '{name}'; there are: {}", known.join(" "))
        })
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read() {
        let text = "#!/bin/bash\n# about: it works: really\n# ci: no\n# boot: shared\n# memory: 512M\n# cpus: 3\n\
                    # timeout: 9\n# modules: ublk-drv nbd\n# allow-dmesg: I/O error, dev loop[0-9]\n\
                    # note: this\n\n# cpus: 7\n";
        let spec = TestSpec::parse("x", text).unwrap();
        assert_eq!(spec.about, "it works: really");
        assert_eq!((spec.ci, spec.shares), (Ci::No, true));
        assert_eq!(
            (spec.memory.as_str(), spec.cpus, spec.timeout),
            ("512M", 3, 9)
        );
        assert_eq!(spec.modules, ["ublk_drv", "nbd"]);
        assert!(spec.allow[0].is_match("[1.0] I/O error, dev loop3, sector 0"));
        assert!(spec.fails.is_none());
    }

    #[test]
    fn a_wrong_header_is_refused() {
        assert!(TestSpec::parse("x y", "# about: x").is_err());
        let wrong = [
            "",
            "# ci: maybe",
            "# boot: yes",
            "# memory: 1",
            "# memory: xG",
            "# cpus: two",
            "# timeout: -1",
            "# allow-dmesg: (",
            "# cpus: 1\n# cpus: 1",
            "# ci: yes\n# fails: exit",
        ];
        for lines in wrong {
            assert!(TestSpec::parse("x", lines).is_err(), "{lines}");
            let text = format!("# about: x\n{lines}");
            assert!(
                lines.is_empty() || TestSpec::parse("x", &text).is_err(),
                "{lines}"
            );
        }
    }

    #[test]
    fn tests_are_selected() {
        let spec =
            |name, text: &str| TestSpec::parse(name, &format!("# about: x\n{text}")).unwrap();
        let specs = [
            spec("a", ""),
            spec("b", "# ci: no"),
            spec("c", "# ci: slow"),
        ];
        let names = |names: &[&str], slow| -> Result<Vec<String>> {
            let chosen = select(&specs, names, slow)?;
            Ok(chosen.iter().map(|s| s.name.clone()).collect())
        };
        assert_eq!(names(&[], false).unwrap(), ["a"]);
        assert_eq!(names(&[], true).unwrap(), ["a", "c"]);
        assert_eq!(names(&["b", "a"], false).unwrap(), ["b", "a"]);
        let error = names(&["d"], false).unwrap_err().to_string();
        assert_eq!(error, "no test 'd'; there are: a b c");
    }
}
