//! zram-generator's own library against the one here, over its own tests' inputs and over random configurations.
//!
//! Where it makes something of a configuration, the same must come of it here, to the last field. Where it fails, over
//! whatever line, here each section comes out as it would have alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use uzram_daemon::generator::{Generated, Section, read};
use uzram_testkit::Random;
use zram_generator::config::{Device, kernel_zram_option, read_all_devices};

/// What both make of a section.
#[derive(Debug, Clone, PartialEq)]
struct Made {
    disksize: u64,
    mem_limit: u64,
    algorithms: Vec<(String, String)>,
    recompression: String,
    writeback: Option<PathBuf>,
    priority: i32,
    mount_point: Option<PathBuf>,
    fs_type: Option<String>,
    options: String,
    limit: Option<u64>,
    swap: bool,
}

type All = BTreeMap<String, Made>;

fn theirs(root: &Path) -> Result<All, String> {
    let by_kernel = kernel_zram_option(root);
    if by_kernel == Some(false) {
        return Ok(All::new());
    }
    let devices = read_all_devices(root, by_kernel == Some(true));
    let devices = devices.map_err(|error| format!("{error:#}"))?;
    let made = |device: Device| {
        let swap = device.is_swap();
        let made = Made {
            disksize: device.disksize,
            mem_limit: device.mem_limit,
            algorithms: device.compression_algorithms.compression_algorithms,
            recompression: device.compression_algorithms.recompression_global,
            writeback: device.writeback_dev,
            priority: device.swap_priority,
            mount_point: device.mount_point,
            fs_type: device.fs_type,
            options: device.options.into_owned(),
            limit: device.host_memory_limit_mb,
            swap,
        };
        (device.name, made)
    };
    Ok(devices.into_iter().map(made).collect())
}

fn ours(root: &Path) -> (All, Generated) {
    let generated = read(root);
    let made = |section: &Section| {
        let made = Made {
            disksize: section.disksize,
            mem_limit: section.mem_limit,
            algorithms: section.compression_algorithms.clone(),
            recompression: section.recompression_global.clone(),
            writeback: section.writeback_dev.clone(),
            priority: section.swap_priority,
            mount_point: section.mount_point.clone(),
            fs_type: section.fs_type.clone(),
            options: section.options.clone(),
            limit: section.host_memory_limit_mb,
            swap: section.is_swap(),
        };
        (section.name.clone(), made)
    };
    (generated.sections.iter().map(made).collect(), generated)
}

fn said(generated: &Generated) -> String {
    let problems = generated.problems.iter().map(|problem| problem.to_string());
    problems.collect::<Vec<_>>().join("\n")
}

/// Demands that both make the same of it.
fn assert_same(root: &Path) -> All {
    let (all, generated) = ours(root);
    assert_eq!(theirs(root).as_ref(), Ok(&all), "{}", root.display());
    assert_eq!(said(&generated), "", "{}", root.display());
    all
}

fn write(root: &Path, file: &str, text: impl AsRef<[u8]>) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/meminfo", "MemTotal:        8013220 kB\n");
    for (file, text) in files {
        write(root.path(), file, text);
    }
    root
}

#[test]
fn interop_zram_generator_over_its_own_tests() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zram-generator");
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(&inputs).unwrap().flatten() {
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let mut root = entry.path();
        let example = tempfile::tempdir().unwrap();
        if name == "10-example" {
            // Its program is not on the path.
            let program = root.join("bin/xenstore-read").display().to_string();
            let file = "etc/systemd/zram-generator.conf";
            let text = fs::read_to_string(root.join(file)).unwrap();
            let text = text.replace("xenstore-read", &format!("sh {program}"));
            write(example.path(), file, text);
            write(
                example.path(),
                "proc/meminfo",
                fs::read(root.join("proc/meminfo")).unwrap(),
            );
            root = example.path().into();
        }
        seen.insert(name, assert_same(&root).len());
    }
    let counts: Vec<usize> = seen.values().copied().collect();
    assert_eq!(counts, [1, 1, 0, 2, 0, 1, 4, 1, 1, 1, 2, 2], "{seen:?}");
}

const ETC: &str = "etc/systemd/zram-generator.conf";

/// What an earlier parser here had otherwise.
#[test]
fn what_is_written_in_odd_ways_is_read_as_there() {
    for text in [
        "\u{feff}[zram0]\nzram-size = 100\n",
        "[zram0]\nzram-size = \"100\"\nfs-type = 'ext4'\n",
        "[zram0]\noptions=\n",
        "[zram0]\noptions=\"a b\" # c\n",
        "[zram0]\nzram-fraction = 0.25\nzram-size = 7\n",
        "[zram0]\nmax-zram-size = none\n",
        "[zram0]\nmax-zram-size = 10\nzram-size = ram\n",
        "[zram0]\nzram-fraction = 2\nmax-zram-size = none\n",
        "[zram0]\nfs-type = ext4\n",
        "[zram0]\nfs-type = swap\n",
        "[zram0]\nfs-type = swap\nmount-point = /a//b/./c/\n",
        "[zram0]\nfs-type =\n",
        "[zram0]\nzram-size = 1k + 2 * ram^0.5 - max(3, e(), log(10, 100))\n",
        "[zram0]\nzram-size = 1/0\n",
        "[zram0]\nhost-memory-limit = 100\nhost-memory-limit = none\n",
        "[zram0]\ncompression-algorithm = zstd(level=3,x=y) lz4 (type=idle) (other,one)\n",
        "[zram0]\ncompression-algorithm = zstd( lz4) (\n",
        "[zram0]\ncompression-algorithm = zstd(level=3, dict=/x)\n",
        "[zram0]\nswap-priority = -1\n[zram0]\nswap-priority = +7\n",
        "[zram007]\n[zram+5]\n[zramx]\n[other]\nx = y\n",
        "set!a = echo 3\nset!b = echo a+2\n[zram0]\nzram-size = a + b\n",
        "set!a = echo 3\nset!a = echo a + 1\n[zram0]\nzram-size = a\n",
        "set!a = echo 3; exit 7\nset!ram = echo 1\n[zram0]\nzram-size = a\nzram-resident-limit = ram\n",
        "x = y\nget!a = 1\n[zram0]\n",
        "; c\n# c\n[zram0]\nzram-size = 5\n",
        "[zram0]\nzram-size = 5 \\\n + 6\n",
        "[zram0]\nwriteback-device = /dev/./x\n",
        // A name without a value swallows the next section, and so does a bracket that is not closed.
        "[zram0]\nzram-size = 10\n[zram1]\nnonsense\n[zram2]\nzram-size = 12\n",
        "[zram0]\n[zram1\nzram-size = 5\n[zram2]\n[zram3]\n",
    ] {
        let root = root_with(&[(ETC, text)]);
        let (all, generated) = ours(root.path());
        assert_eq!(
            theirs(root.path()).as_ref(),
            Ok(&all),
            "{text}\n{}",
            said(&generated)
        );
        assert_eq!(said(&generated), "", "{text}");
    }
}

#[test]
fn files_count_as_there() {
    let size = |mb: u32| format!("[zram0]\nzram-size = {mb}\n");
    let (one, two) = (size(1), size(2));
    // The main file of the strongest directory, and fragments of all by name, which are no links.
    let root = root_with(&[
        ("usr/lib/systemd/zram-generator.conf", one.as_str()),
        ("run/systemd/zram-generator.conf", two.as_str()),
        ("etc/systemd/zram-generator.conf", "[zram3]\n"),
        (
            "usr/lib/systemd/zram-generator.conf.d/20.conf",
            "[zram1]\nzram-size = 3\n",
        ),
        (
            "usr/local/lib/systemd/zram-generator.conf.d/20.conf",
            "[zram1]\nzram-size = 4\n",
        ),
        (
            "run/systemd/zram-generator.conf.d/10.conf",
            "[zram1]\nzram-size = 5\nswap-priority = 6\n",
        ),
        (
            "etc/systemd/zram-generator.conf.d/.hidden.conf",
            "[zram4]\n",
        ),
        ("etc/systemd/zram-generator.conf.d/no-ending", "[zram5]\n"),
        ("etc/systemd/zram-generator.conf.d/a.conf.bak", "[zram6]\n"),
        ("etc/systemd/zram-generator.conf.d/dir.conf/x", "[zram7]\n"),
        (
            "usr/lib/systemd/zram-generator.conf.d/masked.conf",
            "[zram8]\n",
        ),
        ("elsewhere", "[zram9]\nzram-size = 9\n"),
    ]);
    let fragments = root.path().join("etc/systemd/zram-generator.conf.d");
    symlink("/dev/null", fragments.join("masked.conf")).unwrap();
    symlink(root.path().join("elsewhere"), fragments.join("link.conf")).unwrap();
    symlink("/no/such/file", fragments.join("dangling.conf")).unwrap();
    let all = assert_same(root.path());
    assert_eq!(all.keys().collect::<Vec<_>>(), ["zram0", "zram1"]);
    // A main file that is a link, also to nothing.
    let root = root_with(&[
        ("usr/lib/systemd/zram-generator.conf", &one),
        ("real", &two),
    ]);
    fs::create_dir_all(root.path().join("etc/systemd")).unwrap();
    symlink("/no/such/file", root.path().join(ETC)).unwrap();
    assert_same(root.path());
    fs::remove_file(root.path().join(ETC)).unwrap();
    symlink(root.path().join("real"), root.path().join(ETC)).unwrap();
    assert_same(root.path());
    for line in [
        "systemd.zram",
        "a systemd.zram=0",
        "systemd.zram=1 systemd.zram=no",
        "systemd.zram=?",
        "systemd.zramx",
    ] {
        let root = root_with(&[("proc/cmdline", line)]);
        assert_same(root.path());
        let root = root_with(&[
            ("proc/cmdline", line),
            (ETC, "[zram0]\nzram-size=5\n[zram1]\n"),
        ]);
        assert_same(root.path());
    }
}

/// Where it fails as a whole, here the rest is made, and what is wrong is named with its file and its section.
#[test]
fn one_bad_section_costs_no_other() {
    for (bad, section, word) in [
        ("[zram1]\nzram-size = ram +\n", "[zram1]", "zram-size"),
        ("[zram1]\nzram-size = 0 - 5\n", "[zram1]", "zram-size"),
        (
            "[zram1]\nzram-size = (ram - ram) / 0\n",
            "[zram1]",
            "zram-size",
        ),
        ("[zram1]\nzram-size = nothing\n", "[zram1]", "nothing"),
        (
            "[zram1]\nzram-resident-limit = 0 - 1\n",
            "[zram1]",
            "zram-resident-limit",
        ),
        (
            "[zram1]\nhost-memory-limit = x\n",
            "[zram1]",
            "host-memory-limit",
        ),
        (
            "[zram1]\nswap-priority = 40000\n",
            "[zram1]",
            "swap-priority",
        ),
        ("[zram1]\nmount-point = tmp\n", "[zram1]", "mount-point"),
        ("[zram1]\nmount-point = /a/../b\n", "[zram1]", "mount-point"),
        (
            "[zram1]\nwriteback-device = sda\n",
            "[zram1]",
            "writeback-device",
        ),
        ("[zram1]\nzram-fraction = -1\n", "[zram1]", "zram-fraction"),
        ("[zram1]\nmax-zram-size = 1.5\n", "[zram1]", "max-zram-size"),
        (
            "[zram1] # c\nzram-size = 5\n",
            "[zram1] # c",
            "inline comment",
        ),
    ] {
        // With a byte order mark, which must not cost the first section.
        let text = format!("\u{feff}[zram0]\nzram-size = 10\n{bad}[zram2]\nzram-size = 12\n");
        let root = root_with(&[(ETC, text.as_str())]);
        assert!(theirs(root.path()).is_err(), "{text}");
        let (all, generated) = ours(root.path());
        assert_eq!(all.keys().collect::<Vec<_>>(), ["zram0", "zram2"], "{text}");
        assert_eq!(generated.problems.len(), 1, "{text}: {}", said(&generated));
        let problem = &generated.problems[0];
        assert_eq!(problem.origin.section, section, "{text}");
        assert_eq!(problem.origin.file, root.path().join(ETC), "{text}");
        assert!(problem.to_string().contains(word), "{text}: {problem}");
    }
    // A variable costs what uses it; a file that cannot be read costs what is in it.
    let root = root_with(&[(
        ETC,
        "set!bad = echo\nset!good = echo 4\n[zram0]\nzram-size = good\n[zram1]\nzram-size = bad\n",
    )]);
    write(
        root.path(),
        "etc/systemd/zram-generator.conf.d/10.conf",
        b"[zram2]\nfs-type = \xff\n",
    );
    write(
        root.path(),
        "etc/systemd/zram-generator.conf.d/20.conf",
        "[zram3]\n",
    );
    assert!(theirs(root.path()).is_err());
    let (all, generated) = ours(root.path());
    assert_eq!(all.keys().collect::<Vec<_>>(), ["zram0", "zram3"]);
    assert_eq!(generated.problems.len(), 3, "{}", said(&generated));
}

/// A configuration: for each file its directives, and its sections with their lines.
type Files = Vec<(String, Vec<String>, Vec<(String, Vec<String>)>)>;

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn random_files(random: &mut Random) -> Files {
    const DIRS: &[&str] = &["usr/lib", "usr/local/lib", "etc", "run"];
    const NAMES: &[&str] = &["", ".d/10-a.conf", ".d/20-b.conf", ".d/a.conf"];
    const DIRECTIVES: &[&str] = &[
        "set!a = echo 3",
        "set!a = echo ram / 10",
        "set!b = echo a + 1",
        "set!b = echo 2 && exit 3",
        "set!c = true",
        "set!c = echo nonsense",
        "set!d = echo 1k",
        "other = 1",
    ];
    const LINES: &[&str] = &[
        "zram-size = ram / 2",
        "zram-size = a * 2",
        "zram-size = min(b, ram)",
        "zram-size = c",
        "zram-size = 0",
        "zram-size = ram *",
        "zram-size = 512",
        "zram-size = -1",
        "zram-resident-limit = ram / 4",
        "zram-resident-limit = d",
        "zram-fraction = 0.1",
        "zram-fraction = x",
        "max-zram-size = 100",
        "max-zram-size = none",
        "host-memory-limit = none",
        "host-memory-limit = 100",
        "host-memory-limit = 100000",
        "memory-limit = 9000",
        "swap-priority = 5",
        "swap-priority = 99999",
        "compression-algorithm = zstd",
        "compression-algorithm = lz4 zstd(level=3) (type=huge)",
        "compression-algorithm =",
        "mount-point = /var/tmp",
        "mount-point = /a//b/",
        "mount-point = relative",
        "fs-type = ext4",
        "fs-type = swap",
        "options =",
        "options = \"a,b\"",
        "options = 'x' # y",
        "unknown = 5",
        "writeback-device = /dev/sdx",
        "writeback-device = x",
    ];
    const SECTIONS: &[&str] = &["zram0", "zram1", "zram2", "zram10", "sda"];
    let mut files = Files::new();
    for _ in 0..1 + random.below(3) {
        let file = format!(
            "{}/systemd/zram-generator.conf{}",
            pick(random, DIRS),
            pick(random, NAMES)
        );
        if files.iter().any(|(known, ..)| *known == file) {
            continue;
        }
        let directives = (0..random.below(3))
            .map(|_| pick(random, DIRECTIVES).into())
            .collect();
        let mut sections = Vec::new();
        for _ in 0..random.below(4) {
            let lines = (0..random.below(4))
                .map(|_| pick(random, LINES).into())
                .collect();
            sections.push((pick(random, SECTIONS).to_owned(), lines));
        }
        files.push((file, directives, sections));
    }
    files
}

/// The files with these of their sections and directives.
fn written(
    files: &Files,
    section_wanted: impl Fn(&str) -> bool,
    directive_wanted: impl Fn(&str, &str) -> bool,
) -> tempfile::TempDir {
    let root = root_with(&[]);
    for (file, directives, sections) in files {
        let mut text = String::new();
        for directive in directives
            .iter()
            .filter(|line| directive_wanted(file, line))
        {
            text += &format!("{directive}\n");
        }
        for (name, lines) in sections.iter().filter(|(name, _)| section_wanted(name)) {
            text += &format!("[{name}]\n{}\n", lines.join("\n"));
        }
        write(root.path(), file, text);
    }
    root
}

#[test]
fn prop_random_configurations_come_out_as_there() {
    let seed = 48;
    let mut random = Random::new(seed);
    let (mut whole, mut broken) = (0, 0);
    for round in 0..150 {
        let files = random_files(&mut random);
        let root = written(&files, |_| true, |_, _| true);
        let (all, generated) = ours(root.path());
        let context = || {
            format!(
                "seed {seed}, round {round}: {files:#?}\n{}",
                said(&generated)
            )
        };
        match theirs(root.path()) {
            Ok(theirs) => {
                whole += 1;
                assert_eq!(theirs, all, "{}", context());
                assert_eq!(generated.problems.len(), 0, "{}", context());
            }
            Err(_) => {
                broken += 1;
                assert!(!generated.problems.is_empty(), "{}", context());
                // Directives that fail set nothing, and each section is as it would be alone.
                let sets = |file: &str, line: &str| {
                    let (key, command) = line.split_once(" = ").unwrap();
                    !generated.problems.iter().any(|problem| {
                        problem.origin.file.ends_with(file)
                            && problem.origin.section == key
                            && problem.failure.message.contains(&format!("'{command}'"))
                    })
                };
                for name in ["zram0", "zram1", "zram2", "zram10"] {
                    let alone = written(&files, |section| section == name, sets);
                    let expected = theirs(alone.path())
                        .ok()
                        .and_then(|all| all.get(name).cloned());
                    assert_eq!(all.get(name), expected.as_ref(), "{name}: {}", context());
                }
            }
        }
    }
    assert!(whole > 30 && broken > 30, "{whole} whole, {broken} broken");
}
