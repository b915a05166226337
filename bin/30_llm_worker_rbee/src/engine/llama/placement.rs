//! Where a model's layers go: which devices, how many layers, how they are shared out. Pure.

use std::fmt;
use std::str::FromStr;

use worker_contract::{DeviceId, DeviceKind};

/// Where a model's layers go.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The devices, the main one first: one processor, or one or more GPUs.
    pub devices: Vec<DeviceId>,
    /// How many layers the GPUs hold; the processor holds the rest. `None`: all of them.
    pub gpu_layers: Option<GpuLayers>,
    /// How several GPUs share the layers.
    pub split_mode: SplitMode,
    /// Each GPU's share, in any unit; empty: by free memory.
    pub tensor_split: Vec<f32>,
}

/// How many layers GPUs hold. The output layer counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit into the memory that is free.
    Auto,
    /// All of them.
    All,
    /// That many, from the last one on.
    Count(u32),
}

/// How several GPUs share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitMode {
    /// Each GPU has layers of its own, with their part of the KV cache.
    #[default]
    Layer,
    /// Each GPU has rows of every weight matrix; CUDA and ROCm can do it.
    Row,
    /// One GPU only.
    None,
}

/// A placement that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There is none.
    #[error("--device names no device")]
    NoDevice,
    /// A device is named twice.
    #[error("--device names {0} twice")]
    Twice(DeviceId),
    /// The processor among GPUs.
    #[error(
        "--device names {cpu} and {gpu}: name the GPUs only, the processor holds the layers that they do not (--n-gpu-layers)"
    )]
    Mixed {
        /// The processor.
        cpu: DeviceId,
        /// A GPU.
        gpu: DeviceId,
    },
    /// GPU layers without a GPU.
    #[error("--n-gpu-layers {layers} needs a GPU, and --device is {device}")]
    LayersWithoutGpu {
        /// What was asked for.
        layers: GpuLayers,
        /// Where.
        device: DeviceId,
    },
    /// Shares and devices do not match.
    #[error("--tensor-split has {shares} shares and --device {gpus} GPUs; give one for each")]
    ShareCount {
        /// How many shares.
        shares: usize,
        /// How many GPUs.
        gpus: usize,
    },
    /// Shares that are no shares.
    #[error("--tensor-split wants numbers from 0 on, of which one at least is not 0: 3,1")]
    ShareValue,
    /// One GPU is wanted and several are named.
    #[error("--split-mode none uses one GPU, and --device names {0}; name one")]
    SeveralForNone(usize),
    /// `auto` chooses what was also given.
    #[error(
        "--n-gpu-layers auto chooses the shares of GPUs by itself: leave --tensor-split out, or give the number of layers"
    )]
    AutoWithShares,
    /// `auto` cannot plan rows.
    #[error("--n-gpu-layers auto cannot plan --split-mode row: use layer, or give the number")]
    AutoWithRows,
}

impl Placement {
    /// Everything on one device.
    #[must_use]
    pub fn on(device: DeviceId) -> Self {
        Self {
            devices: vec![device],
            gpu_layers: None,
            split_mode: SplitMode::default(),
            tensor_split: Vec::new(),
        }
    }

    /// The device that reports name: the first one.
    #[must_use]
    pub fn main_device(&self) -> DeviceId {
        self.devices.first().copied().unwrap_or(DeviceId { kind: DeviceKind::Cpu, index: 0 })
    }

    /// Whether the processor holds everything.
    #[must_use]
    pub fn is_processor(&self) -> bool {
        self.main_device().kind == DeviceKind::Cpu
    }

    /// How many layers the GPUs hold, with what was left out filled in.
    #[must_use]
    pub fn layers(&self) -> GpuLayers {
        if self.is_processor() {
            return GpuLayers::Count(0);
        }
        self.gpu_layers.unwrap_or(GpuLayers::All)
    }

    /// Whether it makes sense, as far as that can be said without looking at the machine.
    pub fn check(&self) -> Result<(), PlacementError> {
        let devices = &self.devices;
        for (index, device) in devices.iter().enumerate() {
            if devices[..index].contains(device) {
                return Err(PlacementError::Twice(*device));
            }
        }
        let first = |kind| devices.iter().copied().find(|device| device.kind == kind);
        match (first(DeviceKind::Cpu), first(DeviceKind::Gpu)) {
            (None, None) => Err(PlacementError::NoDevice),
            (Some(cpu), Some(gpu)) => Err(PlacementError::Mixed { cpu, gpu }),
            (Some(cpu), None) => self.check_on_processor(cpu),
            (None, Some(_)) => self.check_on_gpus(),
        }
    }

    fn check_on_processor(&self, device: DeviceId) -> Result<(), PlacementError> {
        match self.gpu_layers {
            None | Some(GpuLayers::Auto | GpuLayers::Count(0)) => {}
            Some(layers) => return Err(PlacementError::LayersWithoutGpu { layers, device }),
        }
        match self.tensor_split.len() {
            0 => Ok(()),
            shares => Err(PlacementError::ShareCount { shares, gpus: 0 }),
        }
    }

    fn check_on_gpus(&self) -> Result<(), PlacementError> {
        let (gpus, shares) = (self.devices.len(), self.tensor_split.len());
        if self.split_mode == SplitMode::None && gpus > 1 {
            return Err(PlacementError::SeveralForNone(gpus));
        }
        if self.gpu_layers == Some(GpuLayers::Auto) {
            if shares > 0 {
                return Err(PlacementError::AutoWithShares);
            }
            if self.split_mode == SplitMode::Row {
                return Err(PlacementError::AutoWithRows);
            }
        }
        if shares == 0 {
            return Ok(());
        }
        if shares != gpus {
            return Err(PlacementError::ShareCount { shares, gpus });
        }
        let all_are_shares = self.tensor_split.iter().all(|s| s.is_finite() && *s >= 0.0);
        if !all_are_shares || self.tensor_split.iter().all(|share| *share == 0.0) {
            return Err(PlacementError::ShareValue);
        }
        Ok(())
    }
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            number => {
                number.parse().map(Self::Count).map_err(|_| "use auto, all or a number".into())
            }
        }
    }
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl FromStr for SplitMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "layer" => Ok(Self::Layer),
            "row" => Ok(Self::Row),
            "none" => Ok(Self::None),
            _ => Err("use layer, row or none".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_that_contradicts_itself_is_refused_with_the_reason() {
        let rows: [(&str, &str, &str, &[f32], &str); 18] = [
            ("CPU-0", "", "layer", &[], ""),
            ("CPU-0", "auto", "layer", &[], ""),
            ("CPU-0", "0", "layer", &[], ""),
            ("CPU-0", "all", "layer", &[], "--n-gpu-layers all needs a GPU"),
            ("CPU-0", "7", "layer", &[], "--n-gpu-layers 7 needs a GPU"),
            ("CPU-0", "", "layer", &[1.0], "1 shares and --device 0 GPUs"),
            ("", "", "layer", &[], "names no device"),
            ("GPU-0,GPU-0", "", "layer", &[], "names GPU-0 twice"),
            ("GPU-0,CPU-0", "", "layer", &[], "CPU-0 and GPU-0"),
            ("GPU-0", "all", "none", &[], ""),
            ("GPU-0,GPU-1", "20", "row", &[3.0, 1.0], ""),
            ("GPU-0,GPU-1", "", "layer", &[3.0], "1 shares and --device 2 GPUs"),
            ("GPU-0,GPU-1", "", "layer", &[0.0, 0.0], "numbers from 0 on"),
            ("GPU-0,GPU-1", "", "layer", &[f32::NAN, 1.0], "numbers from 0 on"),
            ("GPU-0,GPU-1", "", "layer", &[-1.0, 1.0], "numbers from 0 on"),
            ("GPU-0,GPU-1", "", "none", &[], "uses one GPU, and --device names 2"),
            ("GPU-0,GPU-1", "auto", "layer", &[1.0, 1.0], "leave --tensor-split out"),
            ("GPU-0,GPU-1", "auto", "row", &[], "cannot plan --split-mode row"),
        ];
        for (devices, layers, mode, shares, wanted) in rows {
            let devices = devices.split(',').filter(|d| !d.is_empty());
            let placement = Placement {
                devices: devices.map(|device| device.parse().unwrap()).collect(),
                gpu_layers: (!layers.is_empty()).then(|| layers.parse().unwrap()),
                split_mode: mode.parse().unwrap(),
                tensor_split: shares.to_vec(),
            };
            let said = placement.check().map_or_else(|error| error.to_string(), |()| String::new());
            let fits = if wanted.is_empty() { said.is_empty() } else { said.contains(wanted) };
            assert!(fits, "{placement:?}: {said:?}");
        }
    }

    #[test]
    fn a_gpu_holds_all_layers_and_the_processor_none_unless_told() {
        let layers = |device: &str| Placement::on(device.parse().unwrap()).layers();
        assert_eq!(layers("CPU-0"), GpuLayers::Count(0));
        assert_eq!(layers("GPU-1"), GpuLayers::All);
        for (text, layers) in
            [("auto", GpuLayers::Auto), ("all", GpuLayers::All), ("12", GpuLayers::Count(12))]
        {
            assert_eq!(text.parse(), Ok(layers));
            assert_eq!(layers.to_string(), text);
        }
        assert!("-1".parse::<GpuLayers>().is_err());
        assert!("tensor".parse::<SplitMode>().is_err());
    }
}
