//! What hives say of their workers. Pure: `now` is passed in.

use std::time::Instant;

use worker_contract::{
    DeviceId, HiveAlias, ModelAlias, SupervisedState, SupervisedWorker, WorkerId,
};

use super::target::{ShownSecret, parse_address};
use super::worker::Worker;
use super::workers::{MAX_OF_HIVE, Workers};

impl Workers {
    /// Takes the list of workers of a hive that has shown a secret. One that it listed before and lists no longer
    /// is gone. Gives the models and devices of those that had failed, and that somebody has taken off the list
    /// or started again.
    pub(super) fn listed(
        &mut self,
        hive: &HiveAlias,
        list: &[SupervisedWorker],
        shown: ShownSecret,
        now: Instant,
    ) -> Vec<(ModelAlias, DeviceId)> {
        let mut mended = Vec::new();
        let is_its = |listed: &&SupervisedWorker| listed.hive_id == *hive;
        let own = || list.iter().filter(is_its).take(MAX_OF_HIVE);
        let mut known = self.listed_by.get_mut(hive).map(std::mem::take).unwrap_or_default();
        // Nearly every list names those whom the one before named.
        if !own().map(|listed| &listed.worker_id).eq(&known) {
            let mut there: Vec<_> = own().map(|listed| &listed.worker_id).collect();
            there.sort_unstable();
            known.retain(|id| there.binary_search(&id).is_err());
            mended.extend(known.iter().filter_map(|id| self.left_out(hive, id)));
            known = own().map(|listed| listed.worker_id.clone()).collect();
            if list.len() > MAX_OF_HIVE {
                let (listed, taken) = (list.len(), MAX_OF_HIVE);
                tracing::warn!(%hive, listed, taken, "a hive lists more workers than one hive can have");
            }
        }
        for listed in own() {
            mended.extend(self.take_word(listed, shown, now));
        }
        match self.listed_by.get_mut(hive) {
            Some(listed) => *listed = known,
            None if known.is_empty() => {}
            None => _ = self.listed_by.insert(hive.clone(), known),
        }
        mended
    }

    /// Takes the word on one of its workers of a hive that has shown a secret.
    pub(super) fn supervised(
        &mut self,
        listed: &SupervisedWorker,
        shown: ShownSecret,
        now: Instant,
    ) {
        let _ = self.take_word(listed, shown, now);
        let (hive, id) = (&listed.hive_id, &listed.worker_id);
        if self.get(id).is_some_and(|worker| worker.is_listed_by(hive)) {
            let known = self.listed_by.entry(hive.clone()).or_default();
            if !known.contains(id) {
                known.push(id.clone());
            }
        }
    }

    /// Forgets all workers of a hive that has stopped.
    pub(super) fn remove_hive(&mut self, hive: &HiveAlias) {
        for id in self.listed_by.remove(hive).unwrap_or_default() {
            self.left_out(hive, &id);
        }
    }

    /// Forgets all workers of a hive, those that it never listed, too.
    pub(super) fn forget_hive(&mut self, hive: &HiveAlias) {
        self.listed_by.remove(hive);
        self.retain(|_, worker| {
            let is_its = worker.hive_id == *hive && !worker.is_of_server;
            if is_its {
                worker.target.gone.cancel();
            }
            !is_its
        });
    }

    /// Gives its model and device if it had failed and has been started again.
    fn take_word(
        &mut self,
        listed: &SupervisedWorker,
        shown: ShownSecret,
        now: Instant,
    ) -> Option<(ModelAlias, DeviceId)> {
        let id = &listed.worker_id;
        if self.get(id).is_none() {
            let address = parse_address(&listed.address).ok()?;
            if self.room_for(&listed.hive_id).is_err() {
                return None;
            }
            let worker = Worker::new(&listed.hive_id, &listed.model, listed.device, address, now);
            self.put(id, worker);
        }
        let known = self.get_mut(id);
        let is_its =
            |worker: &&mut Worker| worker.hive_id == listed.hive_id && !worker.is_of_server;
        let worker = known.filter(is_its)?;
        let had_failed = worker.is_given_up();
        let (was_to_live, process) = (worker.is_to_live(), worker.holder);
        let died = worker.target.died.clone();
        worker.listed = Some(listed.state.clone());
        worker.memory_bytes = listed.memory_bytes;
        worker.process(listed);
        if worker.said.is_none() {
            // Which secret it has, it shows when it speaks itself.
            worker.target.has_shown(shown.of_workers(&listed.hive_id));
        }
        let is_mended = had_failed && !worker.is_given_up();
        let mended = is_mended.then(|| (worker.model.clone(), worker.device));
        if was_to_live && died.is_cancelled() {
            let model = worker.model.clone();
            self.ends.add(process, &model, now);
        }
        mended
    }

    /// Forgets a worker that its hive has listed and does not know any more. Gives its model and device if it had
    /// failed.
    pub(super) fn left_out(
        &mut self,
        hive: &HiveAlias,
        id: &WorkerId,
    ) -> Option<(ModelAlias, DeviceId)> {
        if !self.get(id)?.is_listed_by(hive) {
            return None;
        }
        let worker = self.remove(id)?;
        worker.target.gone.cancel();
        worker.is_given_up().then_some((worker.model, worker.device))
    }
}

impl Worker {
    fn is_listed_by(&self, hive: &HiveAlias) -> bool {
        self.listed.is_some() && self.hive_id == *hive
    }

    /// Takes a hive's word on its process. What one process said is not believed of the next.
    fn process(&mut self, listed: &SupervisedWorker) {
        if matches!(listed.state, SupervisedState::Failed { .. }) {
            self.target.dies();
        }
        let before = self.process.as_ref().map(|process| process.pid);
        let has_ended = listed.is_between_processes();
        let process = self.process.get_or_insert_default();
        (process.pid, process.has_ended) = (listed.pid, has_ended);
        process.address.clone_from(&listed.address);
        let is_heard = self.said.as_ref().is_some_and(|said| said.beat.pid == listed.pid);
        if has_ended {
            if is_heard || self.said.is_none() {
                self.target.dies();
                self.said = None;
            }
            return;
        }
        let speaker = self.said.as_mut().filter(|said| said.beat.pid == listed.pid);
        if let (Some(said), SupervisedState::Ready) = (speaker, &listed.state) {
            said.vouched_for();
        }
        let is_another = before.is_some_and(|pid| pid != listed.pid);
        if is_another && !is_heard {
            self.target.dies();
            self.said = None;
            // Where nobody knows where it is, the next report may tell.
            if let Ok(address) = parse_address(&listed.address) {
                self.moved(address);
            }
        }
    }
}
