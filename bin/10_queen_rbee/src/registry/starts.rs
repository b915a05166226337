//! Starts of workers that are under way, and the memory that they will take. Pure.

use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest};

use crate::scheduler::Claim;

/// The most starts that have ended and that no hive's report has confirmed.
const MOST_ENDED: usize = 256;

/// All starts under way.
#[derive(Debug, Default)]
pub(super) struct Starts {
    last_number: u64,
    known: Vec<Start>,
}

/// A start of a worker.
#[derive(Debug)]
struct Start {
    number: u64,
    model: ModelAlias,
    /// The file that its hive had by that name.
    file: Option<Sha256Digest>,
    site: Option<ClaimedSite>,
    has_ended: bool,
}

/// A device, and what becomes of its memory.
#[derive(Debug)]
pub(super) struct ClaimedSite {
    pub(super) hive: HiveAlias,
    pub(super) device: DeviceId,
    pub(super) free_before: u64,
    pub(super) needed: u64,
    pub(super) freed: u64,
}

impl Starts {
    /// A start begins; gives its number. Where nobody knows on what device, it claims nothing.
    pub(super) fn begin(
        &mut self,
        model: &ModelAlias,
        file: Option<Sha256Digest>,
        site: Option<ClaimedSite>,
    ) -> u64 {
        self.last_number += 1;
        let (number, model) = (self.last_number, model.clone());
        self.known.push(Start { number, model, file, site, has_ended: false });
        number
    }

    /// It has ended. What it took is not in its hive's last report, so the claim stays until the next.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(start) = self.known.iter_mut().find(|start| start.number == number) {
            start.has_ended = true;
        }
        self.known.retain(|start| !start.has_ended || start.site.is_some());
        while self.known.iter().filter(|start| start.has_ended).count() > MOST_ENDED {
            let Some(oldest) = self.known.iter().position(|start| start.has_ended) else { break };
            self.known.remove(oldest);
        }
    }

    /// A hive has told what memory is free.
    pub(super) fn reported(&mut self, hive: &HiveAlias) {
        let is_told = |start: &Start| start.site.as_ref().is_some_and(|site| site.hive == *hive);
        self.known.retain(|start| !start.has_ended || !is_told(start));
    }

    /// Whether a worker of a model is being started.
    pub(super) fn is_any_of(&self, model: &ModelAlias) -> bool {
        self.known.iter().any(|start| !start.has_ended && start.model == *model)
    }

    /// Whether a worker of a model is being started on a device.
    pub(super) fn is_any_at(&self, model: &ModelAlias, at: (&HiveAlias, DeviceId)) -> bool {
        let is_there = |site: &ClaimedSite| (&site.hive, site.device) == at;
        let is_it = |start: &Start| {
            !start.has_ended && start.model == *model && start.site.as_ref().is_some_and(is_there)
        };
        self.known.iter().any(is_it)
    }

    /// Whether a worker of one of some files is being started, by whatever name.
    pub(super) fn is_any_with(&self, files: &[&Sha256Digest]) -> bool {
        let has_one = |start: &Start| start.file.as_ref().is_some_and(|file| files.contains(&file));
        !files.is_empty() && self.known.iter().any(|start| !start.has_ended && has_one(start))
    }

    /// What will be taken of devices' memory.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        self.known.iter().filter_map(|start| start.site.as_ref()).map(|site| Claim {
            hive: &site.hive,
            device: site.device,
            free_before: site.free_before,
            needed: site.needed,
            freed: site.freed,
        })
    }
}

#[cfg(test)]
impl super::Registry {
    /// How many starts are under way, or claim memory.
    pub(crate) fn claims(&self) -> usize {
        self.state().starts.known.len()
    }
}
