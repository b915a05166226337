//! What the system tells of devices while they work: memory, load, temperature, power.
//!
//! NVIDIA's cards by NVML, where its library is; AMD's by the files of their driver
//! (<https://docs.kernel.org/gpu/amdgpu/thermal.html>); the processor by the kernel, and of its memory no more
//! than the hive may use. Whether a card is there at all, its folder below `/sys/bus/pci/devices` says. Reading
//! blocks for a moment.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use sysinfo::{Components, System};
use worker_contract::{Device, DeviceId, DeviceKind, DeviceLoad};

use super::control_group::{ControlGroups, MainMemory};

/// The kernel's sensors of processors.
const PROCESSOR_SENSORS: [&str; 5] =
    ["coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp"];

/// What reads.
pub(crate) struct Readings {
    system: System,
    sensors: Components,
    nvml: Option<Nvml>,
    groups: ControlGroups,
    /// What workers may have of main memory, where not all of it is theirs.
    most: Option<u64>,
    /// `/sys/bus/pci/devices`.
    pci: PathBuf,
    /// Cards whose folder was not there when it was looked for last.
    missing: BTreeSet<DeviceId>,
}

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readings").field("nvml", &self.nvml.is_some()).finish_non_exhaustive()
    }
}

impl Readings {
    pub(crate) fn new(most: Option<u64>) -> Self {
        // Most machines have no such library.
        let nvml = Nvml::init().inspect_err(|error| tracing::debug!(%error, "no NVML")).ok();
        Self {
            system: System::new(),
            sensors: Components::new_with_refreshed_list(),
            nvml,
            groups: ControlGroups::of_this_process(),
            most,
            pci: PathBuf::from("/sys/bus/pci/devices"),
            missing: BTreeSet::new(),
        }
    }

    /// Brings what is known of devices up to date. That a card is gone can be seen here; that the engine can
    /// use it again, only the engine knows: tells whether it is worth asking, since a card is back.
    pub(crate) fn update(&mut self, devices: &mut [Device]) -> bool {
        let mut is_one_back = false;
        self.system.refresh_memory();
        self.system.refresh_cpu_usage();
        self.sensors.refresh(false);
        for device in devices {
            match (device.id.kind, device.pci_address.clone()) {
                (DeviceKind::Cpu, _) => self.processor(device),
                (DeviceKind::Gpu, Some(address)) => is_one_back |= self.card(device, &address),
                (DeviceKind::Gpu, None) => {}
            }
        }
        is_one_back
    }

    fn processor(&self, device: &mut Device) {
        let memory = self.main_memory();
        (device.memory_total_bytes, device.memory_free_bytes) = (memory.total, memory.free);
        let is_of_processor =
            |label: &str| PROCESSOR_SENSORS.iter().any(|name| label.contains(name));
        let sensors = self.sensors.iter().filter(|sensor| is_of_processor(sensor.label()));
        let hottest = sensors.filter_map(sysinfo::Component::temperature).reduce(f32::max);
        device.load = DeviceLoad {
            busy_percent: Some(whole(self.system.global_cpu_usage())),
            temperature_c: hottest.map(whole),
            power_w: None,
        };
    }

    /// That of the machine, or what of it workers may have.
    fn main_memory(&self) -> MainMemory {
        let (total, free) = (self.system.total_memory(), self.system.available_memory());
        let at_most = self.most.map(|most| MainMemory { total: most, free: most });
        let limits = self.groups.memory().into_iter().chain(at_most);
        limits.fold(MainMemory { total, free }, MainMemory::min)
    }

    /// Tells whether the card was missing and is so no longer.
    fn card(&mut self, device: &mut Device, address: &str) -> bool {
        let folder = self.pci.join(address);
        // Where there are no such folders, nothing is known.
        let is_missing = self.pci.is_dir() && !folder.is_dir();
        let was_missing = if is_missing {
            !self.missing.insert(device.id)
        } else {
            self.missing.remove(&device.id)
        };
        device.is_gone |= is_missing;
        if device.is_gone {
            (device.load, device.memory_free_bytes) = (DeviceLoad::default(), 0);
        } else if self.by_nvml(device, address).is_none() {
            by_driver(device, &folder);
        }
        was_missing && !is_missing
    }

    fn by_nvml(&self, device: &mut Device, address: &str) -> Option<()> {
        let card = self.nvml.as_ref()?.device_by_pci_bus_id(address).ok()?;
        let memory = card.memory_info().ok()?;
        device.memory_total_bytes = memory.total;
        device.memory_free_bytes = memory.free;
        device.load = DeviceLoad {
            busy_percent: card.utilization_rates().ok().and_then(|use_| use_.gpu.try_into().ok()),
            temperature_c: card
                .temperature(TemperatureSensor::Gpu)
                .ok()
                .and_then(|degrees| degrees.try_into().ok()),
            power_w: card.power_usage().ok().map(|milliwatts| milliwatts / 1000),
        };
        Some(())
    }
}

/// The files of AMD's driver.
fn by_driver(device: &mut Device, folder: &Path) {
    let total: Option<u64> = number(&folder.join("mem_info_vram_total"));
    let used: Option<u64> = number(&folder.join("mem_info_vram_used"));
    if let (Some(total), Some(used)) = (total, used) {
        device.memory_total_bytes = total;
        device.memory_free_bytes = total.saturating_sub(used);
    }
    let sensors = fs::read_dir(folder.join("hwmon")).ok();
    let sensors = sensors.and_then(|mut folders| Some(folders.next()?.ok()?.path()));
    let sensor = |name: &str| sensors.as_ref().and_then(|folder| number::<i64>(&folder.join(name)));
    let microwatts = sensor("power1_average").or_else(|| sensor("power1_input"));
    device.load = DeviceLoad {
        busy_percent: number(&folder.join("gpu_busy_percent")),
        temperature_c: sensor("temp1_input").and_then(|milli| (milli / 1000).try_into().ok()),
        power_w: microwatts.and_then(|micro| (micro / 1_000_000).try_into().ok()),
    };
}

fn number<T: FromStr>(file: &Path) -> Option<T> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A reading without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float becomes the nearest whole number that fits"
)]
fn whole<T: TryFrom<i64> + Default>(reading: f32) -> T {
    T::try_from(reading.round() as i64).unwrap_or_default()
}

#[cfg(test)]
impl Readings {
    /// One that looks for cards in this folder, and knows no more of them than their drivers.
    pub(super) fn below(pci: &Path) -> Self {
        Self {
            system: System::new(),
            sensors: Components::new(),
            nvml: None,
            groups: ControlGroups::default(),
            most: None,
            pci: pci.to_owned(),
            missing: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample::device;

    #[test]
    fn the_processor_tells_its_memory_and_load() {
        let mut devices = [device("CPU-0")];
        Readings::below(Path::new("/nowhere")).update(&mut devices);
        let [processor] = devices;
        assert!(processor.memory_total_bytes > 1 << 20, "{processor:?}");
        assert!(processor.memory_free_bytes <= processor.memory_total_bytes);
        assert!(processor.load.busy_percent.is_some_and(|percent| percent <= 100));
    }

    #[test]
    fn of_main_memory_no_more_is_told_than_workers_may_have() {
        let mut readings =
            Readings { most: Some(1 << 20), ..Readings::below(Path::new("/nowhere")) };
        let mut devices = [device("CPU-0")];
        readings.update(&mut devices);
        assert_eq!(devices[0].memory_total_bytes, 1 << 20);
        assert!(devices[0].memory_free_bytes <= 1 << 20, "{devices:?}");
    }

    #[test]
    fn a_card_tells_by_the_files_of_its_driver_and_is_gone_with_them() {
        let pci = tempfile::tempdir().unwrap();
        let folder = pci.path().join("0000:03:00.0");
        fs::create_dir_all(folder.join("hwmon/hwmon3")).unwrap();
        for (file, content) in [
            ("mem_info_vram_total", "17163091968\n"),
            ("mem_info_vram_used", "1073741824\n"),
            ("gpu_busy_percent", "37\n"),
            ("hwmon/hwmon3/temp1_input", "61000\n"),
            ("hwmon/hwmon3/power1_average", "143000000\n"),
        ] {
            fs::write(folder.join(file), content).unwrap();
        }
        let mut devices = [
            Device { pci_address: Some("0000:03:00.0".into()), ..device("GPU-0") },
            device("GPU-1"),
        ];
        let mut readings = Readings::below(pci.path());
        readings.update(&mut devices);
        assert_eq!(devices[0].memory_total_bytes, 17_163_091_968);
        assert_eq!(devices[0].memory_free_bytes, 17_163_091_968 - 1_073_741_824);
        let load =
            DeviceLoad { busy_percent: Some(37), temperature_c: Some(61), power_w: Some(143) };
        assert_eq!(devices[0].load, load);

        fs::write(folder.join("gpu_busy_percent"), "no number").unwrap();
        readings.update(&mut devices);
        assert_eq!(devices[0].load.busy_percent, None);

        fs::remove_dir_all(&folder).unwrap();
        readings.update(&mut devices);
        assert!(devices[0].is_gone && devices[0].load.is_unknown());
        assert!(!devices[1].is_gone, "nobody knows where it should be");
    }

    #[test]
    #[ignore = "needs an NVIDIA card with its driver"]
    fn an_nvidia_card_tells_by_nvml_what_its_driver_knows() {
        let nvml = Nvml::init().expect("NVIDIA's library is on this machine");
        let pci = nvml.device_by_index(0).unwrap().pci_info().unwrap();
        let address = format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
        let mut devices = [Device { pci_address: Some(address), ..device("GPU-0") }];
        Readings::new(None).update(&mut devices);
        let [card] = devices;
        assert!(!card.is_gone);
        assert!(card.memory_total_bytes > 1 << 30, "{card:?}");
        assert!((1..=card.memory_total_bytes).contains(&card.memory_free_bytes), "{card:?}");
        let DeviceLoad { busy_percent, temperature_c, power_w } = card.load;
        assert!(busy_percent.is_some_and(|percent| percent <= 100), "{card:?}");
        assert!(temperature_c.is_some_and(|degrees| (5..120).contains(&degrees)), "{card:?}");
        assert!(power_w.is_some_and(|watts| (1..3000).contains(&watts)), "{card:?}");
    }

    #[test]
    fn a_card_that_is_gone_stays_so_until_the_engine_says_otherwise() {
        let pci = tempfile::tempdir().unwrap();
        let folder = pci.path().join("0000:03:00.0");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("mem_info_vram_total"), "1000").unwrap();
        fs::write(folder.join("mem_info_vram_used"), "10").unwrap();
        let card = || Device { pci_address: Some("0000:03:00.0".into()), ..device("GPU-0") };
        let mut readings = Readings::below(pci.path());
        // The engine lost it; its folder is there.
        let mut devices = [Device { is_gone: true, memory_free_bytes: 0, ..card() }];
        assert!(!readings.update(&mut devices));
        assert!(devices[0].is_gone && devices[0].memory_free_bytes == 0, "{devices:?}");

        let mut devices = [card()];
        let aside = pci.path().join("aside");
        fs::rename(&folder, &aside).unwrap();
        assert!(!readings.update(&mut devices));
        assert!(devices[0].is_gone && devices[0].memory_free_bytes == 0, "{devices:?}");
        fs::rename(&aside, &folder).unwrap();
        assert!(readings.update(&mut devices), "the engine is worth asking");
        assert!(devices[0].is_gone, "{devices:?}");
        assert!(!readings.update(&mut devices), "once");
    }
}
