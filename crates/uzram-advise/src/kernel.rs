//! Advice in the words of those who use the kernel's zram: what to write to sysfs, and an entry for zram-generator.

use crate::measure::Measured;
use crate::recommend::Advice;

/// Commands of a shell that set `/dev/zramN` up, up to and without the disksize; and what marks and recompresses idle
/// pages, to be run from time to time.
pub fn sysfs_lines(advice: &Advice, device: &str) -> Vec<String> {
    let attribute = |name: &str| format!("/sys/block/{device}/{name}");
    let mut lines = vec![format!(
        "echo {} > {}",
        advice.writes.what.algorithm,
        attribute("comp_algorithm")
    )];
    let params = |one: &Measured, priority: u32| {
        let words = one.params.replace(',', " ");
        let path = attribute("algorithm_params");
        (!words.is_empty()).then(|| format!("echo \"priority={priority} {words}\" > {path}"))
    };
    lines.extend(params(&advice.writes.what, 0));
    if let Some(idle) = &advice.idle {
        lines.push(format!(
            "echo \"algo={} priority=1\" > {}",
            idle.what.algorithm,
            attribute("recomp_algorithm")
        ));
        lines.extend(params(&idle.what, 1));
        lines.push("# from time to time, once the disksize is set: what was not touched since the last time".into());
        lines.push(format!("echo type=idle > {}", attribute("recompress")));
        lines.push(format!("echo all > {}", attribute("idle")));
    }
    lines
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
    use crate::recommend::Choice;

    fn choice(algorithm: &str, params: &str) -> Choice {
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
            context_bytes: 0,
        };
        Choice {
            what,
            why: String::new(),
        }
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
