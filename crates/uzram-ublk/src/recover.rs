//! Takes a device over from a server that died or made room.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use uzram::Device;
use uzram_blockdev::{StepError, wait_until};

use crate::Error;
use crate::abi::{DevInfo, state};
use crate::control::Control;
use crate::options::{Tag, UblkOptions};
use crate::ublk::{LONGEST_PAUSE, OnDeath, Ublk, retry_while};

/// How long the driver may take to notice a server's death.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

impl Ublk {
    /// Takes over the device of that number after its server died or made room. The driver issues again the requests that
    /// were in flight. [`Error::Gone`] where the device does not exist; [`Error::Foreign`], [`Error::OtherGeometry`] or
    /// [`Error::StillServed`] where it is not to be taken. After an error the device stays for the next try.
    ///
    /// `begun` is a file that exists while this is under way. If it exists before, a server was killed in the middle. To
    /// begin again would then crash kernels before 6.16: some queues have a server and some have none, which their driver
    /// does not expect. So the queues are tried first; [`Error::Interrupted`] where that does not help.
    pub fn recover(
        device: Arc<Device>,
        id: u32,
        options: &UblkOptions,
        begun: &Path,
        on_death: &OnDeath,
    ) -> Result<Ublk, Error> {
        let mut this = Ublk::new(Control::open()?, id);
        let info = this.wait_until_quiesced(options.tag)?;
        let params = this.control.params(id)?;
        let found_bytes = params.dev_sectors << 9;
        let found_block = 1 << params.logical_bs_shift;
        let (wanted_bytes, wanted_block) = (device.size_bytes(), device.logical_block_size());
        if (found_bytes, found_block) != (wanted_bytes, wanted_block) {
            return Err(Error::OtherGeometry {
                id,
                found_bytes,
                found_block,
                wanted_bytes,
                wanted_block,
            });
        }
        let step = || StepError::at(format!("noting the takeover in {}", begun.display()));
        let resumed = begun.exists() && this.resume_takeover(&info, &device, options, on_death)?;
        if !resumed {
            fs::write(begun, b"").map_err(step())?;
            retry_while(&[Errno::BUSY], || this.control.start_recovery(id))?;
            this.start_queues(&info, &device, options, on_death)?;
        }
        this.control.end_recovery(id)?;
        fs::remove_file(begun).map_err(step())?;
        Ok(this)
    }

    /// Resumes a takeover that a killed server may have begun. Returns true if all queues have their tags now. Returns false
    /// if that server had not begun, or had done all but the last step: then it is safe to begin.
    fn resume_takeover(
        &mut self,
        info: &DevInfo,
        device: &Arc<Device>,
        options: &UblkOptions,
        on_death: &OnDeath,
    ) -> Result<bool, Error> {
        let outcomes = self.try_queues(info, device, options, on_death)?;
        if outcomes.iter().all(Result::is_ok) {
            return Ok(true);
        }
        // EINVAL: the driver still counts the dead server as this queue's, and has changed nothing.
        let has_server = |outcome: &io::Result<()>| {
            let errno = outcome.as_ref().err().and_then(Errno::from_io_error);
            errno == Some(Errno::INVAL)
        };
        if outcomes.iter().all(has_server) {
            self.join_queues();
            return Ok(false);
        }
        Err(Error::Interrupted { id: self.id() })
    }

    /// Waits until the driver has noticed that the device's server died, as [`Ublk::recover`] does. For callers that allocate
    /// memory before they take over: where memory is short, the driver may need it first.
    pub fn wait_for_death(id: u32, tag: Tag) -> Result<(), Error> {
        let mut this = Ublk::new(Control::open()?, id);
        this.wait_until_quiesced(tag).map(drop)
    }

    /// Waits for the driver to notice that the last server died.
    fn wait_until_quiesced(&mut self, tag: Tag) -> Result<DevInfo, Error> {
        let id = self.id();
        let mut info = DevInfo::default();
        let quiesced = wait_until(DEATH_LIMIT, LONGEST_PAUSE, || {
            info = self.control.info(id).map_err(|error| match error.errno() {
                // ENOENT: of the char device's path, by which the driver checks who asks.
                Some(Errno::NODEV | Errno::INVAL | Errno::NOENT) => Error::Gone { id },
                _ => error,
            })?;
            if info.server_flags != tag.0 {
                return Err(Error::Foreign { id });
            }
            match info.state {
                state::QUIESCED | state::FAIL_IO => Ok(true),
                state::DEAD => Err(Error::Gone { id }),
                state::LIVE => Ok(false),
                _ => Err(Error::StillServed { id, pid: info.pid }),
            }
        })?;
        if quiesced {
            Ok(info)
        } else {
            Err(Error::StillServed { id, pid: info.pid })
        }
    }
}
