//! What a hive counts, as Prometheus reads it (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! No label has a value that a client chooses: states and device ids are few.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use worker_contract::{Device, HiveHeartbeat, SupervisedState, SupervisedWorker};

/// The states of workers. Each is told, also where no worker is in it.
const STATES: [&str; 5] = ["starting", "restarting", "ready", "stopping", "failed"];

/// What the metrics are made from, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Devices, models and workers.
    pub(crate) hive: HiveHeartbeat,
    /// How often workers were started again since the hive began.
    pub(crate) restarts: u64,
    /// Bytes of models that came over the network since the hive began.
    pub(crate) downloaded_bytes: u64,
    /// What is free on the disk of the models; `None` where the system does not tell.
    pub(crate) disk_free_bytes: Option<u64>,
}

/// The sample as text.
pub(crate) fn text(sample: Sample) -> String {
    let mut registry = Registry::with_prefix("rbee_hive");
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
        tracing::error!(%error, "metrics could not be written");
    }
    text
}

/// An amount of memory of a device.
type Amount = fn(&Device) -> u64;

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let counts = STATES.map(|state| ([("state", state)], count(&self.hive.workers, state)));
        family(encoder, "workers", "Workers by their state", None, counts)?;

        let restarts = ConstCounter::new(self.restarts);
        let help = "Workers that were started again after a failure";
        let metric =
            encoder.encode_descriptor("worker_restarts", help, None, restarts.metric_type())?;
        restarts.encode(metric)?;

        let downloaded = ConstCounter::new(self.downloaded_bytes);
        let help = "Bytes of models that came over the network";
        let kind = downloaded.metric_type();
        let metric = encoder.encode_descriptor("downloaded", help, Some(&Unit::Bytes), kind)?;
        downloaded.encode(metric)?;

        let amounts: [(&str, &str, Amount); 3] = [
            ("device_memory", "Memory of a device", |device| device.memory_total_bytes),
            ("device_memory_free", "What of it is free", |device| device.memory_free_bytes),
            ("device_memory_used", "What of it is used, by whomever", |device| {
                device.memory_total_bytes.saturating_sub(device.memory_free_bytes)
            }),
        ];
        for (name, help, amount) in amounts {
            let ids = self.hive.devices.iter().map(|device| device.id.to_string());
            let values = ids.zip(self.hive.devices.iter().map(amount));
            let values = values.map(|(id, value)| ([("device", id)], value));
            family(encoder, name, help, Some(&Unit::Bytes), values)?;
        }

        let devices = &self.hive.devices;
        let busy = devices.iter().filter_map(|device| {
            Some(([("device", device.id.to_string())], device.load.busy_percent?.into()))
        });
        family(encoder, "device_busy_percent", "How busy a device is", None, busy)?;
        let degrees = devices.iter().filter_map(|device| {
            let degrees = u64::try_from(device.load.temperature_c?).ok()?;
            Some(([("device", device.id.to_string())], degrees))
        });
        family(encoder, "device_temperature_celsius", "Temperature of a device", None, degrees)?;
        let watts = devices.iter().filter_map(|device| {
            Some(([("device", device.id.to_string())], device.load.power_w?.into()))
        });
        family(encoder, "device_power_watts", "What a device draws", None, watts)?;

        let catalog = &self.hive.catalog;
        // Several names may stand for the same files.
        let files: BTreeMap<&str, u64> =
            catalog.iter().map(|model| (model.sha256.as_hex(), model.bytes_on_disk())).collect();
        let bytes = files.values().sum();
        gauge(encoder, "catalog_models", "Models on this machine", None, catalog.len() as u64)?;
        gauge(encoder, "catalog", "Size of their files", Some(&Unit::Bytes), bytes)?;
        if let Some(free) = self.disk_free_bytes {
            let help = "What is free on the disk of the models";
            gauge(encoder, "disk_free", help, Some(&Unit::Bytes), free)?;
        }
        Ok(())
    }
}

fn count(workers: &[SupervisedWorker], state: &str) -> u64 {
    let is_in = |worker: &&SupervisedWorker| {
        let name = match &worker.state {
            SupervisedState::Starting { .. } if worker.is_between_processes() => "restarting",
            SupervisedState::Starting { .. } => "starting",
            SupervisedState::Ready => "ready",
            SupervisedState::Stopping => "stopping",
            SupervisedState::Failed { .. } => "failed",
        };
        name == state
    };
    workers.iter().filter(is_in).count() as u64
}

fn family<Label: AsRef<str>>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = ([(&'static str, Label); 1], u64)>,
) -> fmt::Result {
    let metric_type = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, unit, metric_type)?;
    for ([(label, value)], amount) in values {
        let labels = [(label, value.as_ref())];
        ConstGauge::new(whole(amount)).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let gauge = ConstGauge::new(whole(value));
    let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
    gauge.encode(metric)
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use worker_contract::{DeviceLoad, HiveAlias, Restarts};

    use super::*;

    #[test]
    fn everything_is_told_with_its_value() {
        let restarts = Some(Restarts { count: 1, reason: String::new(), waiting: true });
        let between = SupervisedState::Starting { progress: 0.0 };
        let text = text(Sample {
            hive: HiveHeartbeat {
                hive_id: HiveAlias::localhost(),
                address: None,
                version: String::new(),
                devices: vec![Device {
                    id: "GPU-0".parse().unwrap(),
                    backend: "double".into(),
                    name: "a \"double\"".into(),
                    memory_total_bytes: 100,
                    memory_free_bytes: 30,
                    pci_address: None,
                    load: DeviceLoad {
                        busy_percent: Some(7),
                        temperature_c: Some(50),
                        power_w: None,
                    },
                    is_gone: false,
                }],
                catalog: Vec::new(),
                workers: vec![
                    worker(SupervisedState::Ready, None),
                    worker(SupervisedState::Ready, None),
                    worker(between, restarts),
                ],
                trouble: None,
            },
            restarts: 7,
            downloaded_bytes: 11,
            disk_free_bytes: Some(9),
        });
        for line in [
            "rbee_hive_workers{state=\"ready\"} 2",
            "rbee_hive_workers{state=\"restarting\"} 1",
            "rbee_hive_workers{state=\"failed\"} 0",
            "rbee_hive_worker_restarts_total 7",
            "rbee_hive_device_memory_bytes{device=\"GPU-0\"} 100",
            "rbee_hive_device_memory_free_bytes{device=\"GPU-0\"} 30",
            "rbee_hive_device_memory_used_bytes{device=\"GPU-0\"} 70",
            "rbee_hive_device_busy_percent{device=\"GPU-0\"} 7",
            "rbee_hive_device_temperature_celsius{device=\"GPU-0\"} 50",
            "rbee_hive_downloaded_bytes_total 11",
            "rbee_hive_catalog_models 0",
            "rbee_hive_catalog_bytes 0",
            "rbee_hive_disk_free_bytes 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    fn worker(state: SupervisedState, restarts: Option<Restarts>) -> SupervisedWorker {
        SupervisedWorker {
            worker_id: "w-1".parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            model: "m".parse().unwrap(),
            device: "GPU-0".parse().unwrap(),
            address: String::new(),
            port: 1,
            pid: 1,
            started_at: 0,
            state,
            restarts,
            memory_bytes: None,
        }
    }
}
