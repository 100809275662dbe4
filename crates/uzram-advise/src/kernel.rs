//! Advice in the words of those who use the kernel's zram: what to write to sysfs, and an entry for zram-generator.

use crate::measure::Measured;
use crate::recommend::Advice;

/// Commands of a shell that set `/dev/zramN` up, up to and without the disksize; and what marks and recompresses idle
/// pages, to be run from time to time.
pub fn sysfs_lines(advice: &Advice, device: &str) -> Vec<String> {
    let attribute = |name: &str| format!("/sys/block/{device}/{name}");
    let (algorithm, path) = (&advice.writes.what.algorithm, attribute("comp_algorithm"));
    let mut lines = vec![format!("echo {algorithm} > {path}")];
    let params = |one: &Measured, priority: u32| {
        let words = one.params.replace(',', " ");
        let path = attribute("algorithm_params");
        (!words.is_empty()).then(|| format!("echo \"priority={priority} {words}\" > {path}"))
    };
    lines.extend(params(&advice.writes.what, 0));
    if let Some(idle) = &advice.idle {
        let (algorithm, path) = (&idle.what.algorithm, attribute("recomp_algorithm"));
        lines.push(format!("echo \"algo={algorithm} priority=1\" > {path}"));
        lines.extend(params(&idle.what, 1));
        lines.push("# from time to time, once the disksize is set: what was not touched since the last time".into());
        lines.push(format!("echo type=idle > {}", attribute("recompress")));
        lines.push(format!("echo all > {}", attribute("idle")));
    }
    lines
}

/// What a kernel must be for [`sysfs_lines`] to work, and what this machine's lacks; `offered` is the text of a
/// device's `comp_algorithm`, empty where there is none.
pub fn requirements(advice: &Advice, offered: &str) -> Vec<String> {
    let choices = [Some(&advice.writes), advice.idle.as_ref()];
    let choices: Vec<_> = choices.into_iter().flatten().collect();
    let mut notes = Vec::new();
    if advice.idle.is_some() {
        let needs = "recomp_algorithm and recompress need Linux 6.2 with CONFIG_ZRAM_MULTI_COMP";
        notes.push(needs.to_owned());
    }
    if choices.iter().any(|choice| !choice.what.params.is_empty()) {
        notes.push("algorithm_params needs Linux 6.12".to_owned());
    }
    let offers = |name: &str| {
        let mut words = offered.split_whitespace();
        words.any(|word| word.trim_matches(['[', ']']) == name)
    };
    let names = choices.iter().map(|choice| choice.what.algorithm.as_str());
    let mut missing: Vec<_> = names.filter(|name| !offers(name)).collect();
    missing.dedup();
    let has = offered.trim();
    if !has.is_empty() && !missing.is_empty() {
        let missing = missing.join(" and ");
        notes.push(format!("this machine's zram lacks {missing}: it has {has}"));
    }
    notes
}

/// The entry of `zram-generator.conf`.
pub fn generator_entry(advice: &Advice, device: &str) -> String {
    let mut words = vec![advice.writes.what.spec()];
    if let Some(idle) = &advice.idle {
        words.push(idle.what.spec());
        words.push("(type=idle)".into());
    }
    format!("[{device}]\ncompression-algorithm = {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recommend::Pick;

    fn choice(algorithm: &str, params: &str) -> Pick {
        let what = Measured {
            algorithm: algorithm.into(),
            driver: algorithm.into(),
            params: params.into(),
            dictionary_bytes: 0,
            ratio: 2.0,
            capacity: 2.0,
            huge_share: 0.0,
            write_mib_s: 1.0,
            read_mib_s: 1.0,
            noise: None,
            context_bytes: 0,
        };
        Pick {
            what,
            why: String::new(),
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_said() {
        let advice = Advice {
            writes: choice("lz4", ""),
            idle: Some(choice("zstd", "level=9")),
            notes: Vec::new(),
        };
        let notes = requirements(&advice, "[lzo-rle] lzo lz4 \n");
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert_eq!(
            notes[2],
            "this machine's zram lacks zstd: it has [lzo-rle] lzo lz4"
        );
        assert_eq!(requirements(&advice, "").len(), 2);
        let alone = Advice {
            idle: None,
            ..advice
        };
        assert!(requirements(&alone, "lzo [lz4]").is_empty());
    }

    #[test]
    fn lines_are_the_kernels() {
        let advice = Advice {
            writes: choice("lz4", ""),
            idle: Some(choice("zstd", "level=9")),
            notes: Vec::new(),
        };
        assert_eq!(
            sysfs_lines(&advice, "zram0")[..3],
            [
                "echo lz4 > /sys/block/zram0/comp_algorithm",
                "echo \"algo=zstd priority=1\" > /sys/block/zram0/recomp_algorithm",
                "echo \"priority=1 level=9\" > /sys/block/zram0/algorithm_params",
            ]
        );
        assert_eq!(
            generator_entry(&advice, "zram0"),
            "[zram0]\ncompression-algorithm = lz4 zstd(level=9) (type=idle)"
        );
    }
}
