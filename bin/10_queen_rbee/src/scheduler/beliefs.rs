//! How fast devices are, those included that nobody has seen at work. Pure.

use std::collections::BTreeMap;

use worker_contract::{Device, DeviceKind, HiveAlias};

use super::Fleet;
use crate::registry::usual_token_us;

/// How slow a device is, the faster first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slowness {
    /// Nobody has seen a processor at work: it is the last choice.
    pub(super) is_unknown_cpu: bool,
    /// What a token takes, in steps of about 40 %: what differs by less is alike.
    pub(super) step: u32,
}

/// What is believed of a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Belief {
    /// How slow it is: at best, unless it is likely to be much slower.
    pub(super) slowness: Slowness,
    /// The step of what it does at best.
    pub(super) at_best: u32,
    /// The step that is likely. Where it is not much slower, nobody is ended for what is only believed.
    pub(super) likely: u32,
    /// It is known.
    pub(super) is_shown: bool,
}

/// What a token takes at best on devices that have shown it, by their kinds and names: one that nobody has seen at
/// work may be as fast, and a single start teaches the truth.
#[derive(Debug, Default)]
pub(super) struct Beliefs<'a> {
    kinds: BTreeMap<DeviceKind, u64>,
    names: BTreeMap<(DeviceKind, &'a str), u64>,
}

impl<'a> Beliefs<'a> {
    /// Those that follow from what devices have shown of a model.
    pub(super) fn of(fleet: &Fleet<'a>) -> Self {
        let mut beliefs = Self::default();
        if fleet.token_us.is_empty() {
            return beliefs;
        }
        for hive in &fleet.hives {
            for device in hive.devices {
                let Some(shown) = fleet.token_us.get(&(hive.id, device.id)).copied() else {
                    continue;
                };
                let (kind, name) = (device.id.kind, device.name.as_str());
                let of_kind = beliefs.kinds.entry(kind).or_insert(shown);
                *of_kind = shown.min(*of_kind);
                let of_name = beliefs.names.entry((kind, name)).or_insert(shown);
                *of_name = shown.min(*of_name);
            }
        }
        beliefs
    }

    /// What is believed of a device with the model of so many bytes.
    pub(super) fn of_device(
        &self,
        fleet: &Fleet<'_>,
        hive: &HiveAlias,
        device: &Device,
        bytes: u64,
    ) -> Belief {
        let (kind, name) = (device.id.kind, device.name.as_str());
        let shown = fleet.token_us.get(&(hive, device.id)).copied();
        let of_like = self.names.get(&(kind, name)).copied();
        let at_best = shown.or(of_like).or_else(|| self.kinds.get(&kind).copied());
        let usual = usual_token_us(kind, bytes);
        let likely = match (shown.or(of_like), at_best) {
            (Some(known), _) => known,
            // Another product than those that were seen.
            (None, at_best) => at_best.map_or(usual, |at_best| at_best.max(usual)),
        };
        let is_unknown_cpu = at_best.is_none() && kind == DeviceKind::Cpu;
        let (at_best, likely) = (step(at_best.unwrap_or(usual)), step(likely));
        // A slow product would keep the worker that it got because a fast one was taken.
        let is_much_slower = likely > at_best + 1;
        let counts = if is_much_slower { likely } else { at_best };
        let slowness = Slowness { is_unknown_cpu, step: counts };
        Belief { slowness, at_best, likely, is_shown: shown.is_some() }
    }
}

/// Which step a time belongs to.
fn step(token_us: u64) -> u32 {
    let token_us = token_us.max(1);
    let octave = token_us.ilog2();
    // By its square, the halves of an octave are told apart.
    let is_upper = u128::from(token_us).pow(2) >= 1_u128 << (2 * octave + 1);
    2 * octave + u32::from(is_upper)
}
