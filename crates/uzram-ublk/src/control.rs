//! The driver's control device: gives one command at a time and waits for its result, but not for ever. With some kernels a
//! command never returns, and every later one waits behind it.

use std::fs::{File, OpenOptions};
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CpuSet};
use uzram_blockdev::StepError;
use zerocopy::{FromBytes, IntoBytes};

use crate::Error;
use crate::abi::{Command, ControlCommand, DevInfo, UblkParams, flags};
use crate::fault;
use crate::sys::{ControlRing, Unanswered};

const PATH: &str = "/dev/ublk-control";
/// How long a command may take. The slowest waits for requests that this process answers meanwhile.
const LIMIT: Duration = Duration::from_secs(30);
/// The same once one has not returned.
const LIMIT_WHEN_STUCK: Duration = Duration::from_secs(3);
/// Length of [`UblkParams`] without its padding, as the driver counts it.
const PARAMS_LEN: u32 = 60;

/// The open control device.
pub(crate) struct Control {
    file: File,
    ring: ControlRing,
    /// The unprivileged device that was last made or asked about: its commands carry a path.
    unprivileged: Option<u32>,
    /// How long the next command may take.
    limit: Duration,
}

/// Why a command has no result.
enum Refusal {
    Unanswered(Unanswered, Duration),
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

/// Whether this process may make privileged devices, which have recovery and user copy.
pub(crate) fn is_privileged() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

impl Control {
    /// Opens the control device. The error says what is missing and how to get it.
    pub(crate) fn open() -> Result<Control, Error> {
        let opened = OpenOptions::new().read(true).write(true).open(PATH);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoDriver,
            io::ErrorKind::PermissionDenied => Error::NotAllowed { source },
            _ => StepError::at(format!("opening {PATH}"))(source).into(),
        })?;
        let ring = ControlRing::new().map_err(|source| Error::NoRing { source })?;
        Ok(Control {
            file,
            ring,
            unprivileged: None,
            limit: fault::limit().unwrap_or(LIMIT),
        })
    }

    /// The same for one who has other things to do than to wait for a driver that does not answer.
    pub(crate) fn open_impatient() -> Result<Control, Error> {
        let mut control = Control::open()?;
        control.limit = control.limit.min(LIMIT_WHEN_STUCK);
        Ok(control)
    }

    /// Whether this user may use the driver. True where there is none.
    pub(crate) fn is_allowed() -> bool {
        let opened = OpenOptions::new().read(true).write(true).open(PATH);
        !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    fn run(
        &mut self,
        command: Command,
        dev_id: u32,
        queue: u16,
        data: u64,
        buffer: &mut [u8],
    ) -> Result<i32, Refusal> {
        let by_path = command == Command::GetDevInfo2
            || (self.unprivileged == Some(dev_id) && command != Command::AddDev);
        let path = if by_path {
            format!("/dev/ublkc{dev_id}\0")
        } else {
            String::new()
        };
        let fields = ControlCommand {
            dev_id,
            queue_id: queue,
            len: 0,
            addr: 0,
            data,
            dev_path_len: path.len() as u16,
            pad: 0,
            reserved: 0,
        };
        let mut bytes = [path.as_bytes(), buffer].concat();
        let limit = self.limit;
        let answer = match fault::never_returns(command) {
            true => self.ring.lose(limit),
            false => {
                let file = &self.file;
                self.ring.control(file, command, fields, &mut bytes, limit)
            }
        };
        let result = answer.map_err(|unanswered| {
            self.limit = self.limit.min(LIMIT_WHEN_STUCK);
            Refusal::Unanswered(unanswered, limit)
        })?;
        buffer.copy_from_slice(&bytes[path.len()..]);
        Ok(result?)
    }

    /// What a command is refused with; `other` makes an error of what the driver answers.
    fn refused(
        command: Command,
        id: u32,
        refusal: Refusal,
        other: impl FnOnce(io::Error) -> Error,
    ) -> Error {
        match refusal {
            Refusal::Failed(error) => other(error),
            Refusal::Unanswered(unanswered, limit) => Error::Unanswered {
                command: format!("{command:?}"),
                id: (id != u32::MAX).then_some(id),
                seconds: limit.as_secs_f32().round() as u64,
                is_cancelled: unanswered.is_cancelled,
            },
        }
    }

    fn device(
        &mut self,
        command: Command,
        id: u32,
        data: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let done = self.run(command, id, u16::MAX, data, buffer);
        let at = || StepError::at(format!("ublk {command:?} of device {id}"));
        done.map_err(|refusal| Self::refused(command, id, refusal, |error| at()(error).into()))?;
        Ok(())
    }

    /// Reads the driver's features. [`Error::TooOld`] before Linux 6.5, which cannot tell.
    pub(crate) fn features(&mut self) -> Result<u64, Error> {
        let mut bits = [0; 8];
        let command = Command::GetFeatures;
        let asked = self.run(command, u32::MAX, u16::MAX, 0, &mut bits);
        let why = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotAllowed { source },
            _ => Error::TooOld { source },
        };
        asked.map_err(|refusal| Self::refused(command, u32::MAX, refusal, why))?;
        Ok(u64::from_ne_bytes(bits))
    }

    /// Makes a device. On return `info` holds what the driver chose, its number among it.
    pub(crate) fn add(&mut self, info: &mut DevInfo) -> Result<(), Error> {
        let wanted = info.dev_id;
        let added = self.device(Command::AddDev, wanted, 0, info.as_mut_bytes());
        self.note(info);
        added.map_err(|error| match error.errno() {
            Some(Errno::EXIST) => Error::Taken { id: wanted },
            Some(Errno::ACCESS) => Error::TooManyDevices,
            _ => error,
        })
    }

    pub(crate) fn info(&mut self, id: u32) -> Result<DevInfo, Error> {
        let mut info = DevInfo::default();
        self.device(Command::GetDevInfo2, id, 0, info.as_mut_bytes())?;
        self.note(&info);
        Ok(info)
    }

    fn note(&mut self, info: &DevInfo) {
        let unprivileged = info.flags & flags::UNPRIVILEGED_DEV != 0;
        self.unprivileged = unprivileged.then_some(info.dev_id);
    }

    pub(crate) fn set_params(&mut self, id: u32, params: &UblkParams) -> Result<(), Error> {
        let mut params = UblkParams {
            len: PARAMS_LEN,
            ..*params
        };
        self.device(Command::SetParams, id, 0, params.as_mut_bytes())
    }

    pub(crate) fn params(&mut self, id: u32) -> Result<UblkParams, Error> {
        let mut params = UblkParams {
            len: PARAMS_LEN,
            ..UblkParams::default()
        };
        self.device(Command::GetParams, id, 0, params.as_mut_bytes())?;
        Ok(params)
    }

    /// Reads which CPUs send requests to a queue. `None` where the driver does not say.
    pub(crate) fn affinity(&mut self, id: u32, queue: u16) -> Option<CpuSet> {
        // A mask of 1024 CPUs, like rustix's.
        let mut bytes = [0; 128];
        let data = queue.into();
        self.run(Command::GetQueueAffinity, id, queue, data, &mut bytes)
            .ok()?;
        let mut set = CpuSet::new();
        for (at, byte) in bytes.iter().enumerate() {
            (0..8)
                .filter(|bit| byte >> bit & 1 == 1)
                .for_each(|bit| set.set(at * 8 + bit));
        }
        Some(set)
    }

    /// Starts the device, whose queues have fetched all their tags, and makes its node.
    pub(crate) fn start(&mut self, id: u32) -> Result<(), Error> {
        self.device(Command::StartDev, id, std::process::id().into(), &mut [])
    }

    /// Removes the node and ends the queues.
    pub(crate) fn stop(&mut self, id: u32) -> Result<(), Error> {
        self.device(Command::StopDev, id, 0, &mut [])
    }

    /// Deletes the device; it goes when its last user does.
    pub(crate) fn delete(&mut self, id: u32) -> Result<(), Error> {
        // DelDev waits for the last user, which may be never. DelDevAsync came with Linux 6.7.
        match self.device(Command::DelDevAsync, id, 0, &mut []) {
            Err(error) if matches!(error.errno(), Some(Errno::OPNOTSUPP | Errno::INVAL)) => {
                self.device(Command::DelDev, id, 0, &mut [])
            }
            other => other,
        }
    }

    pub(crate) fn start_recovery(&mut self, id: u32) -> Result<(), Error> {
        self.device(Command::StartUserRecovery, id, 0, &mut [])
    }

    pub(crate) fn end_recovery(&mut self, id: u32) -> Result<(), Error> {
        let pid = std::process::id().into();
        self.device(Command::EndUserRecovery, id, pid, &mut [])
    }
}

const _: () = assert!(PARAMS_LEN as usize <= size_of::<UblkParams>());
/// `info` and `params` are read into types of which any bytes are valid.
const _: fn() = || {
    fn any_bytes<T: FromBytes>() {}
    any_bytes::<DevInfo>();
    any_bytes::<UblkParams>();
};
