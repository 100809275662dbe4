//! Whatever a client writes to a control socket is answered by lines of JSON, or not at all, and does to the device what a
//! request can do.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use libfuzzer_sys::fuzz_target;
use uzram::Device;
use uzram_control::{ControlError, ControlServer, Handler, Request, Response, execute};
use uzram_fuzz::peer::{ScratchDir, talk};
use uzram_fuzz::{deep, registry};

/// Carries out requests on a device that each input has for itself.
struct OnDevice(Mutex<Arc<Device>>);

impl OnDevice {
    fn device(&self) -> std::sync::MutexGuard<'_, Arc<Device>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for OnDevice {
    fn handle(&self, request: Request) -> Result<Response, ControlError> {
        // It would write to any file of the user's.
        if let Request::SetBacking { path: Some(_), .. } = request {
            let message = "not here".into();
            return Err(ControlError { errno: 1, message });
        }
        let device = self.device().clone();
        let done = execute(&device, &request);
        if done.is_ok() && !matches!(request, Request::Ping | Request::Stat) {
            deep("a request is carried out");
        }
        done
    }
}

struct FuzzedControl {
    socket: PathBuf,
    handler: Arc<OnDevice>,
    _place: ScratchDir,
}

static CONTROL: LazyLock<FuzzedControl> = LazyLock::new(|| {
    let place = ScratchDir::new();
    let socket = place.path("control.sock");
    let handler = Arc::new(OnDevice(Mutex::new(device())));
    ControlServer::start(&socket, handler.clone()).expect("a control server");
    FuzzedControl {
        socket,
        handler,
        _place: place,
    }
});

fn device() -> Arc<Device> {
    let device = Device::builder(256 << 10)
        .max_size_bytes(1 << 20)
        .registry(registry())
        .build()
        .expect("a device");
    for page in 0..32u8 {
        let at = u64::from(page) * 4096;
        device.write_at(&[page / 2; 2048], at).expect("a write");
    }
    Arc::new(device)
}

fuzz_target!(|said: &[u8]| {
    *CONTROL.handler.device() = device();
    // Whoever says that nothing more comes may be taken for gone.
    let heard = talk(&CONTROL.socket, said, !said.contains(&b'\n'));
    for line in heard.split(|byte| *byte == b'\n') {
        let is_json = || serde_json::from_slice::<serde_json::Value>(line).is_ok();
        assert!(line.is_empty() || is_json(), "a line is no JSON");
    }
});
