//! Lookup by name, driver and priority, and what registration refuses.

use std::sync::Arc;

use uzram_compress::{
    Algorithm, Error, KnownAnswer, Prepared, Registry, Settings, Tfm, parse_params,
};

/// Reverses bytes; `broken` makes it lose the last one, which the self-test must notice.
struct Reverse {
    name: &'static str,
    driver: &'static str,
    priority: i32,
    broken: bool,
}

impl Algorithm for Reverse {
    fn name(&self) -> &'static str {
        self.name
    }
    fn driver_name(&self) -> &'static str {
        self.driver
    }
    fn priority(&self) -> i32 {
        self.priority
    }
    fn summary(&self) -> &'static str {
        "reverses"
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        &[KnownAnswer {
            plain: b"uzram",
            compressed: b"marzu",
        }]
    }
    fn prepare(&self, _: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Shared {
            broken: self.broken,
        }))
    }
}

#[derive(Clone)]
struct Shared {
    broken: bool,
}

impl Prepared for Shared {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(self.clone()))
    }
}

impl Tfm for Shared {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        let dst = dst
            .get_mut(..src.len())
            .ok_or(Error::OutputTooSmall { got })?;
        dst.iter_mut()
            .zip(src.iter().rev())
            .for_each(|(d, s)| *d = *s);
        Ok(src.len() - usize::from(self.broken))
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        Shared { broken: false }.compress(src, dst)
    }
}

fn reverse(name: &'static str, driver: &'static str, priority: i32) -> Arc<dyn Algorithm> {
    Arc::new(Reverse {
        name,
        driver,
        priority,
        broken: false,
    })
}

#[test]
fn builtin_has_every_backend_and_none_failed() {
    let (registry, failed) = Registry::builtin_checked();
    assert_eq!(failed, []);
    // The kernel's order, which listings keep; what the kernel has not comes last.
    let names = [
        "lzo-rle", "lzo", "lz4", "lz4hc", "zstd", "deflate", "842", "wk64", "lzhs", "null",
    ];
    assert_eq!(registry.names(), names);
}

#[test]
fn name_takes_the_highest_priority_and_driver_name_selects_exactly() {
    let mut registry = Registry::builtin();
    assert_eq!(registry.find("lz4").unwrap().driver_name(), "lz4-liblz4");
    assert_eq!(registry.find("lz4-flex").unwrap().driver_name(), "lz4-flex");
    registry.register(reverse("rev", "rev-a", 5)).unwrap();
    registry.register(reverse("rev", "rev-b", 9)).unwrap();
    registry.register(reverse("rev", "rev-c", 9)).unwrap();
    assert_eq!(registry.find("rev").unwrap().driver_name(), "rev-b");
    assert_eq!(registry.find("rev-a").unwrap().priority(), 5);
}

#[test]
fn lookups_that_fail_name_what_there_is() {
    let registry = Registry::builtin();
    for name in ["", "lz", "LZ4", "lz4 ", "lz44"] {
        let error = registry.find(name).err().unwrap();
        assert!(
            error.to_string().contains(&registry.names().join(", ")),
            "{error}"
        );
    }
    assert!(matches!(
        Registry::empty().find("lz4"),
        Err(Error::UnknownAlgorithm { .. })
    ));
}

#[test]
fn registration_refuses_duplicates_and_liars() {
    let mut registry = Registry::builtin();
    for driver in ["lz4-flex", "zstd"] {
        let error = registry.register(reverse("x", driver, 1)).unwrap_err();
        assert!(matches!(error, Error::DuplicateDriver { .. }), "{error}");
    }
    let liar = Reverse {
        name: "liar",
        driver: "liar",
        priority: 0,
        broken: true,
    };
    let error = registry.register(Arc::new(liar)).unwrap_err();
    assert!(matches!(error, Error::SelfTest { .. }), "{error}");
    assert!(
        registry.find("liar").is_err(),
        "what failed its self-test cannot be looked up"
    );
}

#[test]
fn parameters_are_checked_against_the_schema() {
    let registry = Registry::builtin();
    let prepare = |name: &str, text: &str| {
        let params = parse_params(text)?;
        registry
            .prepare(name, 4096, params.iter().map(|(k, v)| (k, v)))
            .map(|_| ())
    };
    assert_eq!(prepare("zstd", "level=-5"), Ok(()));
    assert_eq!(prepare("lz4", " level=8, "), Ok(()));
    assert_eq!(prepare("deflate", "level=9 deflate.winbits=-11"), Ok(()));
    for (name, text, says) in [
        ("zstd", "level=23", "-131072 to 22"),
        ("lz4hc", "level=2", "3 to 16"),
        ("deflate", "winbits=16", "-15 to 15"),
        ("deflate", "deflate.winbits=8", "9 to 15, or -9 to -15"),
        ("deflate", "zstd.winbits=9", "it takes: level, winbits"),
        ("lzo", "level=1", "it takes: no parameters"),
        ("zstd", "level=fast", "level=fast"),
        ("lz4", "level=0", "1 to 65537"),
        ("deflate", "level=13", "-1 to 12"),
        ("zstd", "speed=9", "it takes: level"),
        (
            "lzhs",
            "level=3",
            "'lzhs' has no parameter 'level' (it takes: dict)",
        ),
        ("null", "level=1", "it takes: no parameters"),
        ("zstd", "level", "key=value"),
        ("zstd", "level=99999999999999999999", "-131072 to 22"),
    ] {
        let error = prepare(name, text).unwrap_err().to_string();
        assert!(error.contains(says), "{name} {text}: {error}");
    }
}

#[test]
fn a_refused_parameter_names_the_dictionary_where_one_is_taken() {
    let registry = Registry::builtin();
    for algorithm in registry.iter() {
        let prepare = |key| registry.prepare(algorithm.driver_name(), 4096, [(key, "1")]);
        let refusal = |key| prepare(key).map(|_| ()).unwrap_err().to_string();
        let error = refusal("speed");
        let names: Vec<_> = algorithm.params().iter().map(|spec| spec.name).collect();
        let takes = match (names.join(", "), algorithm.dictionary().is_some()) {
            (names, false) if names.is_empty() => "no parameters".into(),
            (names, true) if names.is_empty() => "dict".into(),
            (names, false) => names,
            (names, true) => format!("{names}, dict"),
        };
        assert!(error.ends_with(&format!("(it takes: {takes})")), "{error}");
        // A file is for a front end to load: here it is unknown, and not what would help.
        let error = refusal("dict");
        assert!(
            !error.contains(", dict)") && !error.contains(": dict)"),
            "{error}"
        );
    }
}

#[test]
fn listing_has_the_shape_of_proc_crypto() {
    let registry = Registry::builtin();
    let text = registry.to_string();
    assert_eq!(text.lines().count(), 9 * registry.iter().count());
    let lz4 = text
        .lines()
        .skip_while(|line| *line != "name         : lz4");
    let first: Vec<_> = lz4.take(9).collect();
    assert_eq!(
        first,
        [
            "name         : lz4",
            "driver       : lz4-liblz4",
            "module       : uzram",
            "priority     : 200",
            "refcnt       : 1",
            "selftest     : passed",
            "internal     : no",
            "type         : compression",
            "",
        ]
    );
}
