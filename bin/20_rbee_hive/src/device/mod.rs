//! The devices of this machine: which there are is what the worker's engine sees, how they are what the
//! system tells.
//!
//! Asking the engine starts a process, so the answer is kept until somebody asks for a fresh one. The
//! system is asked every few seconds, and when a worker has taken memory or given some back: whoever places the
//! next one counts on that. A device that disappears stays on the list, as gone, until the engine
//! sees it again: a card that is still on its bus may be of no use to the engine.

mod choose;
mod control_group;
mod fit;
mod promised;
mod readings;
mod reserve;
#[cfg(test)]
mod sample;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use narration::with_causes;
use tokio_util::sync::CancellationToken;
use worker_contract::{Device, DeviceId, DeviceKind, MemoryNeed};

pub(crate) use self::choose::NoDevice;
use self::choose::choose;
pub(crate) use self::fit::Fit;
use self::promised::Moment;
use self::readings::Readings;
pub(crate) use self::reserve::{Reading, Reservation, Reservations, TooLittleMemory};
use crate::changes::Changes;
use crate::worker_binary::{AskError, Mark, WorkerBinary};

/// How often the system is asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is free has changed by so much that it is told at once, in bytes.
const WORTH_TELLING: u64 = 256 << 20;

/// How long after a question that was not answered the same program is asked again.
const AGAIN: Duration = Duration::from_secs(60);

/// The most that a driver is believed to take of a card for a process, before any model: the greatest seen is
/// 0.6 GiB. More has been taken by somebody else meanwhile.
const MOST_OWN_BYTES: u64 = 1 << 30;

/// The known devices. A clone knows the same.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    binary: WorkerBinary,
    changes: Changes,
    known: Arc<Mutex<Known>>,
    readings: Arc<Mutex<Readings>>,
    /// What is read is taken in there.
    reservations: Reservations,
}

/// What the system tells at one moment.
struct Look {
    list: Vec<Device>,
    since: Moment,
}

#[derive(Debug, Default)]
struct Known {
    list: Vec<Device>,
    /// How often the engine was asked.
    asked: u64,
    /// A device was back on its bus when it was looked for, and the engine was not asked since.
    is_one_back: bool,
    /// What the driver takes of each card for a process that uses it, beside what a model needs.
    own: BTreeMap<DeviceId, u64>,
    trouble: Option<Trouble>,
}

/// The engine could not be asked.
#[derive(Debug)]
struct Trouble {
    /// Why, for whoever uses the machine.
    reason: String,
    /// By which file it was to be asked; `None` where there was none.
    file: Option<Mark>,
    at: Instant,
}

/// No device for a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The devices are not known.
    #[error("the devices of this machine are not known")]
    Ask(#[from] AskError),
    /// They are, and the right one is not among them.
    #[error(transparent)]
    NoDevice(#[from] NoDevice),
}

impl Devices {
    /// No device is known until the first [`Self::refresh`].
    pub(crate) fn new(binary: WorkerBinary, changes: Changes, reservations: Reservations) -> Self {
        let readings = Arc::new(Mutex::new(Readings::new(reservations.most())));
        Self { binary, changes, known: Arc::default(), readings, reservations }
    }

    /// The devices as they were last seen.
    pub(crate) fn list(&self) -> Vec<Device> {
        self.known().list.clone()
    }

    /// Why the engine could not be asked when that was last tried.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.known().trouble.as_ref().map(|trouble| trouble.reason.clone())
    }

    /// Asks the engine. What it does not see any more is gone.
    pub(crate) async fn refresh(&self) -> Result<(), AskError> {
        // One that is back while the engine looks may be too late for it.
        self.known().is_one_back = false;
        let file = self.binary.mark();
        let found = match self.binary.devices().await {
            Ok(found) => found,
            Err(error) => {
                self.note_trouble(&error, file);
                return Err(error);
            }
        };
        if self.known().trouble.take().is_some() {
            tracing::info!("the engine tells its devices again");
        }
        self.replace(found.clone());
        let look = self.look().await;
        self.note_own(&found, &look.list);
        self.changes.note();
        Ok(())
    }

    /// The engine's program was a process on the cards while it looked, and is none any more: what is free
    /// beyond what it saw is what it took itself.
    fn note_own(&self, by_engine: &[Device], by_system: &[Device]) {
        let mut known = self.known();
        for engine in by_engine.iter().filter(|device| device.id.kind == DeviceKind::Gpu) {
            let system = by_system.iter().find(|device| device.id == engine.id);
            let own =
                system.and_then(|it| it.memory_free_bytes.checked_sub(engine.memory_free_bytes));
            if let Some(own) = own.filter(|own| *own <= MOST_OWN_BYTES) {
                // What others do meanwhile makes it smaller, too.
                let known = known.own.entry(engine.id).or_default();
                *known = own.max(*known);
            }
        }
    }

    /// What a worker takes of devices: what its model needs, and of a card what the driver takes for it.
    pub(crate) fn with_own(&self, mut needs: Vec<MemoryNeed>) -> Vec<MemoryNeed> {
        let known = self.known();
        for need in &mut needs {
            let own = known.own.get(&need.device).copied().unwrap_or(0);
            need.compute_bytes = need.compute_bytes.saturating_add(own);
        }
        needs
    }

    /// Asks the system how the devices are.
    async fn look(&self) -> Look {
        let devices = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let (mut list, asked) = {
                let known = devices.known();
                (known.list.clone(), known.asked)
            };
            let mut readings = devices.readings.lock().unwrap_or_else(PoisonError::into_inner);
            let since = devices.reservations.moment();
            // Of each one that is told once, and whoever looks first hears it.
            let is_one_back = readings.update(&mut list);
            devices.known().is_one_back |= is_one_back;
            devices.take_in(&list, asked);
            devices.reservations.read(&list, since);
            Look { list, since }
        });
        let (list, since) = (self.list(), Moment::default());
        read.await.unwrap_or(Look { list, since })
    }

    fn note_trouble(&self, error: &AskError, file: Option<Mark>) {
        let trouble = Trouble { reason: error.told(), file, at: Instant::now() };
        let before = self.known().trouble.replace(trouble);
        if before.is_none_or(|before| before.reason != error.told()) {
            let reason = with_causes(error);
            tracing::warn!(reason, "the engine does not tell which devices this machine has");
            self.changes.note();
        }
    }

    /// Asks the system, and the engine where that is worth it.
    async fn look_closely(&self) {
        self.look().await;
        if self.is_worth_asking() {
            // What fails is noted and told there.
            let _ = self.refresh().await;
        }
    }

    /// Whether a device is back; or the engine's program has gone, or has come or changed since it could not be
    /// asked; or that was a while ago.
    fn is_worth_asking(&self) -> bool {
        let file = self.binary.mark();
        let known = self.known();
        if known.is_one_back {
            return true;
        }
        match &known.trouble {
            None => file.is_none(),
            Some(trouble) if trouble.file == file => {
                file.is_some() && trouble.at.elapsed() >= AGAIN
            }
            Some(_) => true,
        }
    }

    /// Looks every few seconds and when workers have begun or ended, until it is told to stop.
    pub(crate) async fn keep_looking(self, stop: CancellationToken) {
        self.look_every(LOOK_EVERY, stop).await;
    }

    async fn look_every(self, period: Duration, stop: CancellationToken) {
        let mut clock = tokio::time::interval(period);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = self.list();
        loop {
            tokio::select! {
                _ = clock.tick() => self.look_closely().await,
                () = self.reservations.moved() => drop(self.look().await),
                () = stop.cancelled() => return,
            }
            let list = self.list();
            if list.iter().any(|device| is_worth_telling(device, &told)) {
                self.changes.note();
                told = list;
            }
        }
    }

    /// What is free on the devices, as the system says at this moment.
    pub(crate) async fn reading(&self) -> Reading<impl Fn(DeviceId) -> Option<u64> + use<>> {
        let Look { list, since } = self.look().await;
        let free = move |id| {
            let device = list.iter().find(|device| device.id == id)?;
            (device.memory_total_bytes > 0).then_some(device.memory_free_bytes)
        };
        Reading { since, free }
    }

    /// The device for a worker; one that is not known may have come since the engine was asked.
    pub(crate) async fn choose(&self, asked: Option<DeviceId>) -> Result<DeviceId, DeviceError> {
        if let Ok(chosen) = choose(&self.known().list, asked) {
            return Ok(chosen);
        }
        self.refresh().await?;
        Ok(choose(&self.known().list, asked)?)
    }

    /// Takes the engine's list; what was there before and is not in it stays as gone.
    fn replace(&self, found: Vec<Device>) {
        let mut known = self.known();
        let missing: Vec<Device> = known
            .list
            .iter()
            .filter(|device| !found.iter().any(|other| other.id == device.id))
            .map(|device| Device { is_gone: true, memory_free_bytes: 0, ..device.clone() })
            .collect();
        let was_there = |gone: &&Device| known.list.iter().any(|d| d.id == gone.id && !d.is_gone);
        for device in missing.iter().filter(was_there) {
            tracing::warn!(device = %device.id, name = device.name, "the engine sees a device no longer");
        }
        known.asked += 1;
        known.list = found;
        known.list.extend(missing);
        known.list.sort_by_key(|device| device.id);
    }

    /// Takes what was read of the list that the engine gave when it was asked for that often. If it has given
    /// another one since, that is read next.
    fn take_in(&self, seen: &[Device], asked: u64) {
        let mut known = self.known();
        if known.asked != asked {
            return;
        }
        for (device, seen) in known.list.iter_mut().zip(seen) {
            if seen.is_gone && !device.is_gone {
                tracing::warn!(device = %device.id, name = device.name, "a device has disappeared");
                self.changes.note();
            }
            device.clone_from(seen);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_worth_telling(device: &Device, told: &[Device]) -> bool {
    let before = told.iter().find(|told| told.id == device.id);
    before.is_none_or(|told| {
        told.memory_free_bytes.abs_diff(device.memory_free_bytes) >= WORTH_TELLING
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::sample::device;
    use super::*;

    #[tokio::test]
    async fn what_is_free_is_read_and_told_when_a_worker_has_ended() {
        let (all, changes) = (Reservations::default(), Changes::default());
        let devices = Devices::new(WorkerBinary::new(None), changes.clone(), all.clone());
        let read = async || {
            while devices.list()[0].memory_free_bytes <= 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        devices.replace(vec![device("CPU-0")]);
        let worker = all.adopt(&[], &"0".repeat(64).parse().unwrap());
        let mut told = changes.subscribe();
        let ends = async {
            read().await;
            told.changed().await.unwrap();
            devices.replace(vec![device("CPU-0")]);
            drop(worker);
            read().await;
        };
        let an_hour = Duration::from_secs(3600);
        tokio::select! {
            () = devices.clone().look_every(an_hour, CancellationToken::new()) => unreachable!(),
            () = ends => {}
        }
    }

    #[tokio::test]
    async fn a_device_that_the_engine_sees_no_longer_is_gone_until_it_is_back() {
        let all = Reservations::default();
        let devices = Devices::new(WorkerBinary::new(None), Changes::default(), all);
        // A place on the bus where something is, as with a card that hangs.
        let pci = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten().next();
        let pci_address = pci.and_then(|folder| folder.file_name().into_string().ok());
        let card = || Device { pci_address: pci_address.clone(), ..device("GPU-0") };
        devices.replace(vec![device("CPU-0"), card()]);
        devices.look().await;
        assert!(devices.list().iter().all(|device| !device.is_gone));

        devices.replace(vec![device("CPU-0")]);
        devices.look().await;
        let gone: Vec<_> = devices.list().iter().map(|d| (d.id.to_string(), d.is_gone)).collect();
        assert_eq!(gone, [("CPU-0".to_owned(), false), ("GPU-0".to_owned(), true)]);
        let error = choose(&devices.list(), Some(card().id)).unwrap_err();
        assert!(matches!(error, NoDevice::Gone(_)), "{error}");

        devices.replace(vec![device("CPU-0"), card()]);
        assert!(devices.list().iter().all(|device| !device.is_gone));
    }

    #[tokio::test]
    async fn the_engine_is_asked_about_a_card_that_is_back_whoever_has_seen_that_first() {
        let (pci, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = pci.path().join("0000:03:00.0");
        let card = Device { pci_address: Some("0000:03:00.0".into()), ..device("GPU-0") };
        let list = serde_json::to_string(&[device("CPU-0"), card]).unwrap();
        let program = programs.path().join("worker");
        std::fs::write(&program, format!("#!/bin/sh\necho '{list}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let binary = WorkerBinary::new(Some(program));
        let devices = Devices {
            readings: Arc::new(Mutex::new(Readings::below(pci.path()))),
            ..Devices::new(binary, Changes::default(), Reservations::default())
        };
        let is_gone = || devices.list().iter().any(|device| device.is_gone);
        std::fs::create_dir(&folder).unwrap();
        devices.refresh().await.unwrap();
        std::fs::remove_dir(&folder).unwrap();
        devices.look_closely().await;
        assert!(is_gone());

        std::fs::create_dir(&folder).unwrap();
        // As whoever asks what is free.
        devices.look().await;
        assert!(is_gone(), "only the engine knows whether it can use it");
        devices.look_closely().await;
        assert!(!is_gone());
        let asked = devices.known().asked;
        devices.look_closely().await;
        assert_eq!(devices.known().asked, asked, "once");
    }

    #[test]
    fn what_a_driver_takes_for_a_process_is_needed_too() {
        let devices =
            Devices::new(WorkerBinary::new(None), Changes::default(), Reservations::default());
        let with_free = |id: &str, free| Device { memory_free_bytes: free, ..device(id) };
        let asked = |engine: u64, system: u64| {
            let both = |free| [with_free("CPU-0", free), with_free("GPU-0", free)];
            devices.note_own(&both(engine), &both(system));
            let need = |id: &str| MemoryNeed {
                device: id.parse().unwrap(),
                weights_bytes: 5,
                mapped_bytes: 0,
                context_bytes: 7,
                compute_bytes: 1,
            };
            let needs = devices.with_own(vec![need("CPU-0"), need("GPU-0"), need("GPU-1")]);
            needs.iter().map(|need| need.compute_bytes).collect::<Vec<_>>()
        };
        // engine, system, what is needed to compute
        assert_eq!(asked(1 << 34, (1 << 34) + 500), [1, 501, 1]);
        // Somebody else has taken or given back memory meanwhile.
        assert_eq!(asked(1 << 34, 1 << 33), [1, 501, 1]);
        assert_eq!(asked(1 << 33, 1 << 34), [1, 501, 1]);
    }
}
