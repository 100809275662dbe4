//! A `[[nbd]]` section: devices that are offered together at one address, by a process of its own (`uzram nbd`).
//!
//! Reading a section touches nothing. Whether what it says can be had is found by [`NewExports::refused`], as for devices.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use uzram_control::RunDir;
use uzram_frontend::FrontendOption;
use uzram_runtime::frontends::{self, Needs};
use uzram_runtime::nbd_exports::{self, NbdExportsSpec, OPTIONS};
use uzram_spec::{Failure, OptionValue, Result};

use crate::config::NewDevice;
use crate::problem::Origin;

/// What a section has beside the options of `uzram nbd`.
const EXPORTS: &str = "exports";
/// The option by which a section is known.
pub(crate) const LISTEN: &str = "listen";

/// Devices that are to be offered together.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExports {
    /// Where it was asked for.
    pub origin: Origin,
    /// What is offered, where, and to whom.
    pub spec: NbdExportsSpec,
}

impl NewExports {
    /// Reads a section, or says all that is wrong with it.
    pub(crate) fn read(
        origin: &Origin,
        entries: &Map<String, Value>,
    ) -> std::result::Result<NewExports, Vec<Failure>> {
        let mut failures = Vec::new();
        let (mut options, mut exports) = (BTreeMap::new(), Vec::new());
        for (key, value) in entries {
            let name = key.replace('_', "-");
            let option = OPTIONS.iter().find(|option| option.name == name);
            match (name.as_str(), option) {
                (EXPORTS, _) => exports = read_exports(value, &mut failures),
                (_, None) => failures.push(unknown(key)),
                (_, Some(option)) => match read_option(option, value) {
                    Ok(Some(value)) => drop(options.insert(name, value)),
                    Ok(None) => {}
                    Err(failure) => failures.push(failure),
                },
            }
        }
        for (name, what) in [
            (LISTEN, "unix:PATH or tcp:ADDRESS[:PORT]"),
            (EXPORTS, "names and devices, such as { builds = \"zram0\" }"),
        ] {
            if !entries.contains_key(name) {
                failures.push(Failure::usage(format!("{name}: it is missing: {what}")));
            }
        }
        let spec = NbdExportsSpec::new(options, exports);
        match failures.is_empty() {
            true => Ok(NewExports {
                origin: origin.clone(),
                spec,
            }),
            false => Err(failures),
        }
    }

    /// All that keeps it from being offered, as far as that can be seen: beside these devices, of which the configuration has some
    /// that are not there yet, and beside others of its kind.
    pub(crate) fn refused(
        &self,
        devices: &[NewDevice],
        others: &[NewExports],
        run: &RunDir,
    ) -> Vec<Failure> {
        let mut failures = self.spec.faults();
        let of_devices = devices.iter().map(|d| (&d.spec.frontend, &d.origin));
        let of_others = others
            .iter()
            .map(|other| (&other.spec.server, &other.origin));
        for (theirs, origin) in of_devices.chain(of_others) {
            if let Some((option, what)) = frontends::common_claim(&self.spec.server, theirs) {
                let message = format!("{option}: {what} is that of {origin} already");
                failures.push(Failure::usage(message));
            }
        }
        for (name, device) in &self.spec.exports {
            if let Err(failure) = self.check_device(device, devices, run) {
                let Failure { message, .. } = &failure;
                let message = format!("{EXPORTS}: {name}: {message}");
                failures.push(Failure { message, ..failure });
            }
        }
        failures
    }

    /// Refuses a device that nobody knows, or that cannot be offered here.
    fn check_device(&self, name: &str, devices: &[NewDevice], run: &RunDir) -> Result {
        let there = run.find(name).ok();
        if let Some(there) = &there {
            nbd_exports::check_frontend(name, &there.record.frontend)?;
        }
        let mut wanted = devices.iter();
        let Some(wanted) = wanted.find(|device| device.spec.name.as_deref() == Some(name)) else {
            return match there {
                Some(_) => Ok(()),
                None => Err(Failure::usage(format!(
                    "no device is called {name}, neither one that runs nor a [[device]]"
                ))),
            };
        };
        // Where that is not possible it is the device that has a problem.
        let Ok((frontend, of_device, _)) =
            frontends::resolve(&wanted.spec.frontend, Needs::of(&wanted.spec))
        else {
            return Ok(());
        };
        nbd_exports::check_frontend(name, frontend.name())?;
        match self.spec.lacks_for(&of_device) {
            Some(why) => Err(Failure::usage(format!("{name}: {why}"))),
            None => Ok(()),
        }
    }
}

/// Reads names and devices: a table, or a list of what `--export` takes. A table has no order; here its names have that of their
/// letters.
fn read_exports(value: &Value, failures: &mut Vec<Failure>) -> Vec<(String, String)> {
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{value} is no device's name in quotes"))
    };
    let read: Vec<std::result::Result<(String, String), String>> = match value {
        Value::Object(table) => {
            let one = |(name, device): (&String, &Value)| {
                let made = text(device).and_then(|device| nbd_exports::export(name, &device));
                made.map_err(|why| format!("{name}: {why}"))
            };
            table.iter().map(one).collect()
        }
        Value::Array(list) => {
            let one = |value| text(value).and_then(|text| nbd_exports::parse_export(&text));
            list.iter().map(one).collect()
        }
        _ => vec![Err("a table such as { builds = \"zram0\" }, or a list such as [\"builds=zram0\", \"zram1\"]".into())],
    };
    let mut exports = Vec::new();
    for one in read {
        match one {
            Ok(export) => exports.push(export),
            Err(why) => failures.push(Failure::usage(format!("{EXPORTS}: {why}"))),
        }
    }
    exports
}

/// Reads the value of an option; `None` for a flag that is not set.
fn read_option(option: &FrontendOption, value: &Value) -> Result<Option<OptionValue>> {
    let name = option.name;
    let value = match value {
        Value::Bool(false) => return Ok(None),
        Value::Bool(true) => OptionValue::Flag(true),
        Value::String(text) => OptionValue::Text(text.clone()),
        other => match other.as_u64() {
            Some(number) => OptionValue::Integer(number),
            None => {
                let message = format!("{name}: a text in quotes, a whole number, or true");
                return Err(Failure::usage(message));
            }
        },
    };
    let [stored, elsewhere] = ["/", "/elsewhere"].map(|at| option.check(&value, Path::new(at)));
    let stored = stored?;
    if elsewhere.as_ref() != Ok(&stored) {
        let message = format!("{name}: it is relative: give a path from the root on");
        return Err(Failure::usage(message));
    }
    match &stored {
        OptionValue::Text(text) if name == LISTEN && text.ends_with(":0") => {
            let message = format!("{name}: a port, since nobody would know which one is free");
            Err(Failure::usage(message))
        }
        _ => Ok(Some(stored)),
    }
}

fn unknown(key: &str) -> Failure {
    let options: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
    Failure::usage(format!(
        "no option '{key}': there are {EXPORTS}, {}",
        options.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use uzram_spec::{DeviceSpec, FrontendSpec};

    use super::*;

    fn read(text: &str) -> std::result::Result<NewExports, Vec<String>> {
        let entries: Map<String, Value> = toml::from_str(text).unwrap();
        let read = NewExports::read(&Origin::default(), &entries);
        read.map_err(|failures| failures.iter().map(Failure::to_string).collect())
    }

    fn pairs(spec: &NbdExportsSpec) -> Vec<(&str, &str)> {
        spec.exports
            .iter()
            .map(|(name, device)| (name.as_str(), device.as_str()))
            .collect()
    }

    #[test]
    fn a_section_is_what_the_command_line_would_be() {
        let new = read(
            "listen = 'tcp:127.0.0.1'\nallow = '10.0.0.7/8, 192.0.2.1'\nread_only = true\ninsecure = false\n\
             max-connections = 7\nexports = ['b=zram1', 'a=x=zram0', 'zram2']\n",
        )
        .unwrap();
        assert_eq!(
            pairs(&new.spec),
            [("b", "zram1"), ("a=x", "zram0"), ("zram2", "zram2")]
        );
        let command = new.spec.process("info");
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_str().unwrap())
            .collect();
        assert_eq!(
            words,
            [
                "--log",
                "info",
                "nbd",
                "--for-daemon",
                "--listen=tcp:127.0.0.1:10809",
                "--allow=10.0.0.0/8,192.0.2.1/32",
                "--read-only",
                "--max-connections=7",
                "--export=b=zram1",
                "--export=a=x=zram0",
                "--export=zram2=zram2",
            ]
        );
        let table =
            read("listen = 'unix:/run/x'\nexports = { z = 'zram0', a = 'zram1' }\n").unwrap();
        assert_eq!(pairs(&table.spec), [("a", "zram1"), ("z", "zram0")]);
        assert_eq!(table.spec.faults(), []);
    }

    #[test]
    fn all_that_is_wrong_with_a_section_is_said() {
        let said = read(
            "listen = 'unix:run/x'\ntls = 'off'\npoll = 3\nallow = 'there'\nmax-connections = 0\nread-only = 'yes'\n\
             exports = ['=zram0', 7, 'good=zram0']\n",
        )
        .unwrap_err();
        for word in [
            "listen: it is relative",
            "--tls off",
            "no option 'poll': there are exports, listen, ",
            "--allow there",
            "--max-connections 0",
            "--read-only yes",
            "exports: give NAME=DEVICE",
            "exports: 7 is no device",
        ] {
            assert!(
                said.iter().any(|line| line.contains(word)),
                "{word}: {said:#?}"
            );
        }
        assert_eq!(said.len(), 8, "{said:#?}");
        let said = read("").unwrap_err();
        assert!(
            said[0].contains("listen: it is missing") && said[1].contains("exports: it is missing")
        );
        let said = read("listen = 'tcp:127.0.0.1:0'\nexports = 'zram0'").unwrap_err();
        assert!(
            said.iter().any(|line| line.contains("listen: a port")),
            "{said:?}"
        );
        assert!(
            said.iter().any(|line| line.contains("exports: a table")),
            "{said:?}"
        );
        let said =
            read("listen = 'unix:/x'\nexports = { a = 'zram0', b = 4, c = '' }").unwrap_err();
        assert!(
            said[0].contains("b: 4 is no") && said[1].contains("c: give"),
            "{said:?}"
        );
    }

    fn device(name: &str, listen: &str) -> NewDevice {
        let nbd = FrontendSpec::new("nbd");
        NewDevice {
            origin: Origin::new(Path::new("/u"), format!("[[device]] {name}")),
            spec: DeviceSpec {
                name: Some(name.into()),
                frontend: match listen {
                    "" => nbd,
                    listen => nbd.option(LISTEN, listen),
                },
                ..DeviceSpec::default()
            },
            ..NewDevice::default()
        }
    }

    #[test]
    fn what_cannot_be_offered_is_said_without_making_anything() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        let mut vm = device("zram2", "");
        vm.spec.frontend = FrontendSpec::new("vhost-user");
        let devices = [device("zram0", ""), device("zram1", "unix:/run/own"), vm];
        let refused = |text: &str, others: &[NewExports]| -> Vec<String> {
            let refused = read(text).unwrap().refused(&devices, others, &run);
            refused.iter().map(Failure::to_string).collect()
        };
        let good = "listen = 'unix:/run/x'\nexports = ['a=zram0', 'b=zram1']";
        assert_eq!(refused(good, &[]), [""; 0]);
        let said = refused(good, &[read(good).unwrap()]);
        assert!(
            said[0].contains("listen: unix:/run/x is that of"),
            "{said:?}"
        );
        let said = refused(
            "listen = 'unix:/run/own'\nallow = '127.0.0.1'\ntls-verify-peer = true\nexports = ['a=zram0', 'a=zram9', 'c=zram2']",
            &[],
        );
        for word in [
            "--allow is for clients over tcp",
            "--tls-verify-peer needs certificates",
            "two exports are named \"a\"",
            "listen: unix:/run/own is that of /u: [[device]] zram1",
            "exports: a: no device is called zram9",
            "exports: c: zram2 is served by vhost-user",
        ] {
            assert!(
                said.iter().any(|line| line.contains(word)),
                "{word}: {said:#?}"
            );
        }
        assert_eq!(said.len(), 6, "{said:#?}");
    }
}
