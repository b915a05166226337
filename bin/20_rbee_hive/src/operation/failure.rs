//! From the errors of the parts to the one that a job ends with.

use job_server::JobError;
use narration::with_causes;

use crate::catalog::CatalogError;
use crate::device::{DeviceError, NoDevice};
use crate::download::DownloadError;
use crate::supervisor::{NoRestart, StartError, UnknownWorker};
use crate::worker_binary::AskError;

impl From<CatalogError> for JobError {
    fn from(error: CatalogError) -> Self {
        if matches!(error, CatalogError::Cancelled) {
            return Self::cancelled();
        }
        with_hint(Self::new(error.code(), with_causes(&error)), error.hint())
    }
}

impl From<&DownloadError> for JobError {
    fn from(error: &DownloadError) -> Self {
        if matches!(error, DownloadError::Cancelled) {
            return Self::cancelled();
        }
        let hint = error.hint().map(str::to_owned);
        with_hint(Self::new(error.code(), with_causes(error)), hint)
    }
}

impl From<StartError> for JobError {
    fn from(error: StartError) -> Self {
        let (code, hint) = match &error {
            StartError::Stopping => ("hive_stopping", None),
            StartError::Ports(_) => {
                let hint =
                    "delete a worker, or widen the range: [hive] worker_ports = \"9300-9399\"";
                ("no_free_port", Some(hint.to_owned()))
            }
            StartError::GivenUp { worker, .. } => {
                let hint = format!(
                    "see its log: rbee-keeper worker logs {worker}; try it again: rbee-keeper worker \
                     restart {worker}; or take it off the list: \
                     rbee-keeper worker delete {worker}"
                );
                ("worker_given_up", Some(hint))
            }
            StartError::Log(_) => ("log_not_writable", None),
            StartError::Process(_) => ("worker_start_failed", None),
        };
        with_hint(Self::new(code, with_causes(&error)), hint)
    }
}

impl From<AskError> for JobError {
    fn from(error: AskError) -> Self {
        let unusable = Self::new("worker_binary_unusable", error.told());
        match error {
            AskError::Missing(_) => unusable.hint(
                "put it beside the hive's program, or name its folder in RBEE_BIN_DIR of the hive; \
                 the hive's log says where it was looked for",
            ),
            _ => unusable,
        }
    }
}

impl From<DeviceError> for JobError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Ask(error) => error.into(),
            DeviceError::NoDevice(error @ NoDevice::Unknown { .. }) => {
                Self::new("device_not_found", error.to_string())
            }
            DeviceError::NoDevice(error @ NoDevice::Gone(_)) => {
                let hint = "the system's log tells more (dmesg); a restart of the machine may bring it back";
                Self::new("device_gone", error.to_string()).hint(hint)
            }
            DeviceError::NoDevice(error @ NoDevice::None) => {
                let hint = "see what the engine finds: llm-worker-rbee devices";
                Self::new("no_device", error.to_string()).hint(hint)
            }
        }
    }
}

impl From<UnknownWorker> for JobError {
    fn from(error: UnknownWorker) -> Self {
        Self::new("worker_not_found", error.to_string())
            .hint("see which there are: rbee-keeper worker list")
    }
}

impl From<NoRestart> for JobError {
    fn from(error: NoRestart) -> Self {
        let message = error.to_string();
        match error {
            NoRestart::Unknown(unknown) => unknown.into(),
            NoRestart::Busy(_) => Self::new("worker_busy", message),
            NoRestart::NoPlan(worker) => Self::new("worker_plan_unknown", message).hint(format!(
                "delete it and spawn another one: rbee-keeper worker delete {worker}"
            )),
        }
    }
}

fn with_hint(error: JobError, hint: Option<String>) -> JobError {
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
