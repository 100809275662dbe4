//! The configuration of a zram device: set before it is initialised, and partly kept across a reset.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uzram::PRIORITIES;
use uzram::compress::ParamKind;

use super::{Errno, algorithms};

/// Parameters of one algorithm, as `algorithm_params` sets them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlgorithmParams {
    /// `level=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// `deflate.winbits=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winbits: Option<i32>,
    /// The contents of the file of `dict=`; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex")]
    pub dictionary: Vec<u8>,
}

/// A backing device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingConfig {
    /// Its absolute path.
    pub path: PathBuf,
    /// The length to give a regular file; `None` leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// Everything that a device remembers besides its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZramConfig {
    /// The size in bytes that it was initialised with; 0 before.
    pub disksize: u64,
    /// Names of the algorithms by priority: the primary one, then those for recompression.
    pub algorithms: [Option<String>; PRIORITIES],
    /// The algorithms' parameters, by priority.
    pub params: [AlgorithmParams; PRIORITIES],
    /// Limit on the pool in bytes, whole pages; 0 for none.
    pub mem_limit: u64,
    /// The backing device.
    pub backing: Option<BackingConfig>,
    /// Pages that may still be written back, if that is limited.
    pub writeback_limit: u64,
    /// Whether the writeback limit is in force.
    pub writeback_limit_enable: bool,
    /// Writes to the backing in flight at a time. Remembered and shown, without effect.
    pub writeback_batch_size: u32,
    /// Whether objects are written to the backing compressed. Remembered and shown, without effect: they always are.
    pub compressed_writeback: bool,
    /// Whether the ages of pages are tracked, as a kernel with `CONFIG_ZRAM_TRACK_ENTRY_ACTIME` does.
    pub track_ages: bool,
}

impl Default for ZramConfig {
    fn default() -> ZramConfig {
        ZramConfig {
            disksize: 0,
            algorithms: [Some(algorithms::default_name().into()), None, None, None],
            params: Default::default(),
            mem_limit: 0,
            backing: None,
            writeback_limit: 0,
            writeback_limit_enable: false,
            writeback_batch_size: 32,
            compressed_writeback: false,
            track_ages: true,
        }
    }
}

/// An algorithm of one priority, in the form that requests take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// 0 for the primary, 1 to 3 for recompression.
    pub priority: usize,
    /// Name and parameters, such as `zstd(level=1)`.
    pub text: String,
    /// The dictionary; empty for none.
    pub dictionary: Vec<u8>,
}

impl ZramConfig {
    /// The configuration after a reset: as in the kernel, only the settings of writeback stay.
    #[must_use]
    pub fn after_reset(&self) -> ZramConfig {
        ZramConfig {
            writeback_limit: self.writeback_limit,
            writeback_limit_enable: self.writeback_limit_enable,
            writeback_batch_size: self.writeback_batch_size,
            compressed_writeback: self.compressed_writeback,
            track_ages: self.track_ages,
            ..ZramConfig::default()
        }
    }

    /// Resets all algorithms and their parameters to the defaults.
    pub(crate) fn drop_algorithms(&mut self) {
        let fresh = ZramConfig::default();
        self.algorithms = fresh.algorithms;
        self.params = fresh.params;
    }

    /// The writeback limit, if it is in force.
    pub fn limit_in_force(&self) -> Option<u64> {
        self.writeback_limit_enable.then_some(self.writeback_limit)
    }

    /// The algorithms of all priorities, with parameters fitted to ours. Values that the kernel rounds to the nearest possible
    /// one are rounded, and parameters without effect are left out. EINVAL for what the kernel refuses.
    pub fn chosen(&self) -> Result<Vec<Chosen>, Errno> {
        let mut all = Vec::new();
        for priority in 0..PRIORITIES {
            if let Some(name) = &self.algorithms[priority] {
                all.push(chosen(priority, name, &self.params[priority])?);
            }
        }
        Ok(all)
    }
}

pub(crate) fn chosen(
    priority: usize,
    name: &str,
    params: &AlgorithmParams,
) -> Result<Chosen, Errno> {
    let algorithm = algorithms::find(name).ok_or(Errno::INVAL)?;
    let range = |key: &str| {
        let found = algorithm.params().iter().find(|spec| spec.name == key);
        match found?.kind {
            ParamKind::Int { min, max, .. } => Some((min, max)),
            _ => None,
        }
    };
    let mut words = Vec::new();
    if let (Some(level), Some((min, max))) = (params.level, range("level")) {
        match (algorithm.name(), level) {
            ("deflate", -1..=9) => words.push(format!("level={level}")),
            ("deflate", _) => return Err(Errno::INVAL),
            // The kernel's lz4hc treats these as its default.
            ("lz4hc", ..=0) => {}
            _ => words.push(format!("level={}", i64::from(level).clamp(min, max))),
        }
    }
    if let (Some(winbits), Some(_)) = (params.winbits, range("winbits")) {
        if !(9..=15).contains(&winbits.unsigned_abs()) {
            return Err(Errno::INVAL);
        }
        words.push(format!("winbits={winbits}"));
    }
    let text = match words.is_empty() {
        true => name.to_owned(),
        false => format!("{name}({})", words.join(",")),
    };
    let takes = algorithm.dictionary().is_some();
    Ok(Chosen {
        priority,
        text,
        dictionary: params
            .dictionary
            .iter()
            .copied()
            .filter(|_| takes)
            .collect(),
    })
}

/// Serialises bytes as hexadecimal text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::to_hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        crate::from_hex(&text).ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_ours() {
        let text = |name: &str, level, winbits| {
            let params = AlgorithmParams {
                level,
                winbits,
                dictionary: b"words".to_vec(),
            };
            let chosen = chosen(0, name, &params)?;
            Ok((chosen.text, !chosen.dictionary.is_empty()))
        };
        for (name, level, winbits, expected) in [
            ("lzo", Some(7), None, Ok(("lzo", false))),
            ("lz4", Some(-5), None, Ok(("lz4(level=1)", true))),
            ("lz4hc", Some(0), None, Ok(("lz4hc", true))),
            ("lz4hc", Some(2), None, Ok(("lz4hc(level=3)", true))),
            ("lz4hc", Some(99), None, Ok(("lz4hc(level=16)", true))),
            ("zstd", Some(99), Some(12), Ok(("zstd(level=22)", true))),
            ("zstd", None, None, Ok(("zstd", true))),
            (
                "deflate",
                Some(9),
                Some(-11),
                Ok(("deflate(level=9,winbits=-11)", false)),
            ),
            ("deflate", Some(10), None, Err(Errno::INVAL)),
            ("deflate", None, Some(3), Err(Errno::INVAL)),
            ("nonsense", None, None, Err(Errno::INVAL)),
        ] {
            let expected = expected.map(|(text, dictionary)| (text.to_owned(), dictionary));
            assert_eq!(text(name, level, winbits), expected, "{name} {level:?}");
        }
    }

    #[test]
    fn a_configuration_reads_back_from_json() {
        let mut config = ZramConfig::default();
        config.algorithms[2] = Some("zstd".into());
        config.params[2].dictionary = vec![0, 255];
        config.writeback_limit = 7;
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ZramConfig>(&text).unwrap(), config);
        assert_eq!(
            serde_json::from_str::<ZramConfig>("{}").unwrap(),
            ZramConfig::default()
        );
        let reset = config.after_reset();
        assert_eq!(
            (reset.algorithms[2].clone(), reset.writeback_limit),
            (None, 7)
        );
    }
}
