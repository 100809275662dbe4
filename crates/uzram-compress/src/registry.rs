//! The registry: a value that maps names to drivers. Where several drivers serve one name the one of highest
//! priority wins; a driver name selects exactly, as `crypto_alloc_comp` does.

use std::fmt;
use std::sync::Arc;

use crate::{Algorithm, Error, Prepared, Settings, backends, conformance};

/// A set of algorithms. Cloning is cheap: the algorithms are shared.
#[derive(Clone, Default)]
pub struct Registry {
    entries: Vec<Arc<dyn Algorithm>>,
}

impl Registry {
    /// A registry without algorithms.
    pub fn empty() -> Registry {
        Registry::default()
    }

    /// All backends of this build that pass their self-test. A backend that fails is left out (its library is broken on
    /// this machine): [`Registry::builtin_checked`] says why.
    pub fn builtin() -> Registry {
        Registry::builtin_checked().0
    }

    /// As [`Registry::builtin`], with the reason for each backend that was left out.
    pub fn builtin_checked() -> (Registry, Vec<Error>) {
        let mut registry = Registry::empty();
        let failed = backends::all()
            .into_iter()
            .filter_map(|algorithm| registry.register(algorithm).err())
            .collect();
        (registry, failed)
    }

    /// Adds an algorithm after its self-test. [`Error::DuplicateDriver`] where the driver name is taken (also
    /// by another algorithm's name, which would make lookups ambiguous), [`Error::SelfTest`] where it fails.
    pub fn register(&mut self, algorithm: Arc<dyn Algorithm>) -> Result<(), Error> {
        let driver = algorithm.driver_name();
        if self
            .entries
            .iter()
            .any(|e| e.driver_name() == driver || e.name() == driver)
        {
            return Err(Error::DuplicateDriver {
                driver: driver.into(),
            });
        }
        conformance::self_test(&*algorithm).map_err(|source| Error::SelfTest {
            driver: driver.into(),
            source,
        })?;
        self.entries.push(algorithm);
        Ok(())
    }

    /// Finds by algorithm name (highest priority; of equals the first registered) or exact driver name.
    pub fn find(&self, name: &str) -> Result<&Arc<dyn Algorithm>, Error> {
        let by_driver = self.entries.iter().find(|e| e.driver_name() == name);
        let by_name = || {
            // `rev`: of equal maxima `max_by_key` returns the last, and the first registered should win.
            self.entries
                .iter()
                .rev()
                .filter(|e| e.name() == name)
                .max_by_key(|e| e.priority())
        };
        by_driver
            .or_else(by_name)
            .ok_or_else(|| Error::UnknownAlgorithm {
                name: name.into(),
                known: if self.entries.is_empty() {
                    "none".into()
                } else {
                    self.names().join(", ")
                },
            })
    }

    /// Looks up `name` and prepares it with parameters checked against its schema.
    pub fn prepare<K: AsRef<str>, V: AsRef<str>>(
        &self,
        name: &str,
        block_size: usize,
        params: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Arc<dyn Prepared>, Error> {
        let algorithm = self.find(name)?;
        algorithm.prepare(&Settings::new(&**algorithm, block_size, params)?)
    }

    /// Every driver, in registration order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Algorithm>> {
        self.entries.iter()
    }

    /// The algorithm names, each once, in registration order.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for entry in &self.entries {
            if !names.contains(&entry.name()) {
                names.push(entry.name());
            }
        }
        names
    }
}

/// The listing in the shape of `/proc/crypto`: one record a driver, fields padded to column 13, a blank line
/// after each. What is registered has passed its self-test, hence the constant.
impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "name         : {}", entry.name())?;
            writeln!(f, "driver       : {}", entry.driver_name())?;
            writeln!(f, "module       : uzram")?;
            writeln!(f, "priority     : {}", entry.priority())?;
            writeln!(f, "refcnt       : {}", Arc::strong_count(entry))?;
            writeln!(f, "selftest     : passed")?;
            writeln!(f, "internal     : no")?;
            writeln!(f, "type         : compression\n")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|e| e.driver_name()))
            .finish()
    }
}
