//! A whole frontend that serves nobody: what there is to write for a new one. Starts it for a device and takes it down.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use uzram::Device;
use uzram_frontend::{Front, Frontend, FrontendOption, Handover, Need, Serving};
use uzram_spec::{FrontendSpec, Result};

struct NullFrontend;

struct NullFront {
    name: String,
}

impl Frontend for NullFrontend {
    fn name(&self) -> &'static str {
        "null"
    }

    fn about(&self) -> &'static str {
        "nothing: the device can be reached by nobody"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[]
    }

    fn handover(&self) -> Handover {
        Handover::Survives
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        Ok(())
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        // A real one hands `serving.device` to the threads that answer requests.
        let name = serving.name.to_owned();
        Ok(Box::new(NullFront { name }))
    }

    fn resume(&self, serving: &Serving<'_>, _word: &str) -> Result<Box<dyn Front>> {
        self.start(serving)
    }
}

impl Front for NullFront {
    fn path(&self) -> String {
        format!("null:{}", self.name)
    }

    fn resume_word(&self) -> String {
        String::new()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        Ok(None)
    }

    fn remove(&mut self) -> Result {
        Ok(())
    }
}

fn main() -> Result {
    let device = Arc::new(Device::builder(1 << 20).build()?);
    let spec = FrontendSpec::new(NullFrontend.name());
    let serving = Serving {
        device: &device,
        name: "zram0",
        dir: Path::new("/nowhere"),
        spec: &spec,
        swap: None,
    };
    let mut front = NullFrontend.start(&serving)?;
    println!("{}", front.path());
    front.remove()
}
