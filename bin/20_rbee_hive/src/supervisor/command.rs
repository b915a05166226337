//! What a worker is started with: from a plan to a command line. Pure, but for the look which secret there is.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use worker_contract::{
    DeviceId, DeviceKind, HiveAlias, MemoryNeed, ModelAlias, Sha256Digest, WorkerId,
};

use crate::settings::base_url;

/// What one worker is to be. The ledger keeps it, so that the next hive can start the worker again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerPlan {
    pub(crate) binary: PathBuf,
    pub(crate) model: ModelAlias,
    pub(crate) model_file: PathBuf,
    pub(crate) digest: Sha256Digest,
    /// What the model sees images with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) projector: Option<PlannedProjector>,
    pub(crate) device: DeviceId,
    pub(crate) slots: u32,
    pub(crate) ctx_size: u32,
    /// What it takes of the devices' memory; empty where nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) memory: Vec<MemoryNeed>,
}

/// The projector of a planned worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedProjector {
    pub(crate) file: PathBuf,
    pub(crate) digest: Sha256Digest,
}

impl WorkerPlan {
    /// Whether all of it can be written down as text.
    pub(super) fn is_text(&self) -> bool {
        let projector = self.projector.as_ref().map(|projector| &projector.file);
        let mut paths = [&self.binary, &self.model_file].into_iter().chain(projector);
        paths.all(|path| path.to_str().is_some())
    }

    /// What it takes of its device's memory, where that is known.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let needs = || self.memory.iter().filter(|need| need.device == self.device);
        let all = || needs().map(MemoryNeed::total_bytes).fold(0, u64::saturating_add);
        needs().next().map(|_| all())
    }

    fn projector_arguments(&self) -> impl Iterator<Item = OsString> + use<> {
        let projector = self.projector.as_ref().map(|projector| projector.file.clone());
        projector.into_iter().flat_map(|file| ["--mmproj".into(), file.into()])
    }
}

/// What keeps drivers from their cards: CUDA's, ROCm's, and llama.cpp's use of Vulkan
/// (<https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html>,
/// <https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html>). The engine asks every card what it
/// has, and CUDA takes half a GiB of each that it is asked about.
const NO_CARDS: [(&str, &str); 3] = [
    ("CUDA_VISIBLE_DEVICES", "-1"),
    ("HIP_VISIBLE_DEVICES", "-1"),
    ("GGML_VK_VISIBLE_DEVICES", ""),
];

/// What all workers of a hive have in common.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) hive_id: HiveAlias,
    /// Where workers listen.
    pub(crate) host: IpAddr,
    /// The host name or IP under which the queen reaches them.
    pub(crate) advertised_host: String,
    pub(crate) queen_url: Option<String>,
    /// The secret that a worker demands and sends,
    pub(crate) token_file: PathBuf,
    /// and the one that it gets instead where this file is there.
    pub(crate) reports_token: Option<PathBuf>,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) threads: Option<u32>,
    /// What the operator adds for all workers.
    pub(crate) arguments: Vec<String>,
}

impl Surroundings {
    /// The base URL of a worker as the queen reaches it.
    pub(super) fn address(&self, port: u16) -> String {
        base_url(&self.advertised_host, port)
    }

    /// The base URL of a worker as its own hive reaches it.
    pub(super) fn own_address(&self, port: u16) -> String {
        let host = match self.host {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        base_url(&host.to_string(), port)
    }

    /// The file with a worker's secret.
    fn worker_token(&self) -> &Path {
        // Looked for at each start: a queen of an earlier rbee makes and knows none.
        let reports = self.reports_token.as_deref().filter(|file| file.exists());
        reports.unwrap_or(&self.token_file)
    }

    /// Those arguments of a worker that its memory depends on.
    pub(super) fn fit_arguments(&self, plan: &WorkerPlan) -> Vec<OsString> {
        let own = [
            ("--model", plan.model_file.clone().into()),
            ("--device", plan.device.to_string().into()),
            ("--slots", plan.slots.to_string().into()),
            ("--ctx-size", plan.ctx_size.to_string().into()),
        ];
        let own = own.into_iter().flat_map(|(name, value)| [name.into(), value]);
        own.chain(plan.projector_arguments())
            .chain(self.arguments.iter().map(OsString::from))
            .collect()
    }

    /// The variables of a worker's environment: one that has no use for cards takes nothing of them.
    pub(super) fn variables(&self, plan: &WorkerPlan) -> &'static [(&'static str, &'static str)] {
        let names_others = self.arguments.iter().any(|argument| argument.starts_with("--device"));
        if plan.device.kind == DeviceKind::Cpu && !names_others { &NO_CARDS } else { &[] }
    }

    /// The command line of a worker.
    pub(super) fn arguments(&self, plan: &WorkerPlan, id: &WorkerId, port: u16) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| {
            arguments.push(name.into());
            arguments.push(value);
        };
        add("--model", plan.model_file.clone().into());
        add("--port", port.to_string().into());
        add("--bind", self.host.to_string().into());
        add("--alias", plan.model.as_str().into());
        add("--worker-id", id.as_str().into());
        add("--hive-id", self.hive_id.as_str().into());
        add("--device", plan.device.to_string().into());
        add("--slots", plan.slots.to_string().into());
        add("--ctx-size", plan.ctx_size.to_string().into());
        add("--digest", plan.digest.as_hex().into());
        add("--advertise", self.address(port).into());
        add("--token-file", self.worker_token().into());
        let interval = self.heartbeat_interval.as_millis();
        add("--heartbeat-interval-ms", interval.to_string().into());
        if let Some(queen) = &self.queen_url {
            add("--queen", queen.into());
        }
        if let Some(threads) = self.threads {
            add("--threads", threads.to_string().into());
        }
        arguments.extend(plan.projector_arguments());
        arguments.extend(self.arguments.iter().map(OsString::from));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_told_all_that_it_needs() {
        let arguments = surroundings("127.0.0.1").arguments(&plan(), &"w-1".parse().unwrap(), 9300);
        let words: Vec<&str> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        let digest = "ab".repeat(32);
        assert_eq!(
            words.join(" "),
            format!(
                "--model /models/m.gguf --port 9300 --bind 127.0.0.1 --alias m --worker-id w-1 \
                 --hive-id localhost --device GPU-0 --slots 4 --ctx-size 8192 --digest {digest} \
                 --advertise http://gpu-1.home.arpa:9300 --token-file /secrets/local.token \
                 --heartbeat-interval-ms 2000 --queen http://127.0.0.1:8500 --threads 2 --cache-type-k q8_0"
            )
        );
    }

    #[test]
    fn a_worker_on_the_processor_is_kept_from_cards() {
        let on = |device: &str| WorkerPlan { device: device.parse().unwrap(), ..plan() };
        let ours = surroundings("127.0.0.1");
        assert_eq!(ours.variables(&on("CPU-0")).len(), 3);
        assert!(ours.variables(&on("GPU-0")).is_empty());
        let arguments = vec!["--device".to_owned(), "GPU-0,GPU-1".to_owned()];
        let told = Surroundings { arguments, ..ours };
        assert!(told.variables(&on("CPU-0")).is_empty(), "they name cards");
    }

    #[test]
    fn a_worker_of_a_model_that_sees_is_told_its_projector_and_reckoned_with_it() {
        let digest = "cd".repeat(32).parse().unwrap();
        let projector = PlannedProjector { file: "/models/p.mmproj.gguf".into(), digest };
        let (surroundings, blind) = (surroundings("127.0.0.1"), plan());
        let seeing = WorkerPlan { projector: Some(projector), ..plan() };
        let words = |arguments: Vec<OsString>| {
            let words: Vec<_> = arguments.into_iter().map(|a| a.into_string().unwrap()).collect();
            words.join(" ")
        };
        let told = |plan| words(surroundings.arguments(plan, &"w-1".parse().unwrap(), 9300));
        let reckoned = |plan| words(surroundings.fit_arguments(plan));
        for (with, without) in
            [(told(&seeing), told(&blind)), (reckoned(&seeing), reckoned(&blind))]
        {
            assert!(with.contains(" --mmproj /models/p.mmproj.gguf"), "{with}");
            assert!(!without.contains("--mmproj"), "{without}");
        }
    }

    #[test]
    fn a_worker_gets_a_secret_for_reports_only_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("localhost.token");
        let surroundings =
            Surroundings { reports_token: Some(file.clone()), ..surroundings("127.0.0.1") };
        assert_eq!(surroundings.worker_token(), Path::new("/secrets/local.token"));
        std::fs::write(&file, "secret").unwrap();
        assert_eq!(surroundings.worker_token(), file);
    }

    #[test]
    fn the_hive_asks_for_health_where_the_worker_listens() {
        for (bind, own) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("fd00::1", "[fd00::1]"),
        ] {
            assert_eq!(surroundings(bind).own_address(9300), format!("http://{own}:9300"));
        }
    }

    fn surroundings(host: &str) -> Surroundings {
        Surroundings {
            hive_id: HiveAlias::localhost(),
            host: host.parse().unwrap(),
            advertised_host: "gpu-1.home.arpa".into(),
            queen_url: Some("http://127.0.0.1:8500".into()),
            token_file: "/secrets/local.token".into(),
            reports_token: None,
            heartbeat_interval: Duration::from_secs(2),
            threads: Some(2),
            arguments: vec!["--cache-type-k".into(), "q8_0".into()],
        }
    }

    fn plan() -> WorkerPlan {
        WorkerPlan {
            binary: "/bin/worker".into(),
            model: "m".parse().unwrap(),
            model_file: "/models/m.gguf".into(),
            digest: "ab".repeat(32).parse().unwrap(),
            projector: None,
            device: "GPU-0".parse().unwrap(),
            slots: 4,
            ctx_size: 8192,
            memory: Vec::new(),
        }
    }
}
