//! Whatever a client of the API sends is answered in the form of HTTP, or it is hung up on; and a request does to a device what
//! the path says.
#![no_main]

use std::io::Read;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use uzram_control::zram::{AttributeOwner, Errno, Host, HostOptions, Refusal, ShownDevice, View};
use uzram_control::{ControlError, Request, Response};
use uzram_daemon::{
    Asker, ByteStream, CreateAnswer, DeviceAnswer, Devices, HistoryAnswer, Limits, Metrics,
    SnapshotOptions, converse,
};
use uzram_fuzz::deep;
use uzram_spec::DeviceSpec;
use uzram_testkit::zram::InProcess;

/// Devices in this process.
struct InMemory(Host);

impl Devices for InMemory {
    fn view(&self) -> &dyn View {
        self
    }

    fn create(&self, spec: &DeviceSpec, _: Option<Asker>) -> Result<CreateAnswer, ControlError> {
        deep("a device is described");
        spec.check()?;
        Ok(CreateAnswer {
            name: "zram9".into(),
            path: "/dev/null".into(),
            notes: String::new(),
            identity: String::new(),
        })
    }

    fn confirm(&self, _: &str, _: &str) -> Result<(), ControlError> {
        Ok(())
    }

    fn remove(&self, _: &str, _: Option<&str>) -> Result<(), ControlError> {
        Ok(())
    }

    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError> {
        let unknown = ControlError {
            errno: 19,
            message: name.into(),
        };
        let device = uzram_control::number(name).and_then(|id| self.0.device(id));
        let live = device.and_then(|device| device.live()).ok_or(unknown)?;
        match request {
            // It would write to any file of the user's.
            Request::SetBacking { path: Some(_), .. } => Ok(Response::Done),
            request => live.ask(request.clone()),
        }
    }

    fn history(&self, name: &str) -> Result<HistoryAnswer, ControlError> {
        self.describe(Some(name))?;
        Ok(HistoryAnswer {
            name: name.into(),
            ..HistoryAnswer::default()
        })
    }

    fn metrics(&self) -> Result<Metrics, ControlError> {
        Ok(Metrics::new(Vec::new()))
    }

    fn describe(&self, _: Option<&str>) -> Result<Vec<DeviceAnswer>, ControlError> {
        let answer = |shown: ShownDevice| DeviceAnswer {
            described: None,
            name: shown.name(),
            shown,
        };
        let shown = self.0.devices().unwrap_or_default();
        Ok(shown.into_iter().map(answer).collect())
    }

    fn snapshot(
        &self,
        name: &str,
        _: SnapshotOptions,
    ) -> Result<Box<dyn ByteStream>, ControlError> {
        deep("a snapshot is asked for");
        Err(ControlError {
            errno: 19,
            message: name.into(),
        })
    }

    fn restore(
        &self,
        spec: DeviceSpec,
        mut snapshot: Box<dyn Read + Send>,
    ) -> Result<CreateAnswer, ControlError> {
        let mut read = Vec::new();
        let _ = snapshot.read_to_end(&mut read);
        self.create(&spec, None)
    }
}

impl View for InMemory {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        self.0.devices()
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.0.show(owner, attribute)
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
        let of_files = matches!(attribute, "backing_dev" | "algorithm_params");
        if of_files && value.contains(&b'/') {
            return Err(Errno::PERM.into());
        }
        self.0.store(owner, attribute, value)
    }

    fn block_state(&self, id: u32, from: u64, max: usize) -> Result<(Vec<u8>, u64), Errno> {
        self.0.block_state(id, from, max)
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        self.0.classes(id)
    }
}

static ALGORITHMS: LazyLock<bool> =
    LazyLock::new(|| uzram_control::zram::provide_algorithms(uzram_fuzz::registry()));

fuzz_target!(|said: &[u8]| {
    let _ = *ALGORITHMS;
    let engine = InProcess::new();
    let host = Host::new(Box::new(engine), HostOptions { strict: false });
    host.hot_add().expect("a device");
    let _ = host.store(AttributeOwner::Device(0), "disksize", b"256K");
    let devices = Arc::new(InMemory(host));
    let heard = converse(said, devices, Limits::default()).expect("a conversation");
    if heard.is_empty() {
        return;
    }
    // Whoever expects it is told to go on first.
    let heard = heard
        .strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&heard);
    if heard.is_empty() {
        return;
    }
    let status = heard
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
    assert!(
        status.is_some_and(|status| (200..600).contains(&status)),
        "no status"
    );
    let head = heard.windows(4).any(|bytes| bytes == b"\r\n\r\n");
    assert!(head, "a head without end");
    assert_ne!(status, Some(500), "a request failed within");
});
