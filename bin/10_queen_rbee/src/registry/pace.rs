//! How fast a worker is, learned from its answers. Pure.

use worker_contract::{DeviceKind, Timings, Usage};

use crate::scheduler::Speed;

/// The part of a new measurement in the mean, in percent.
const NEW_PERCENT: u64 = 20;
/// Prompts with fewer fresh tokens say nothing of the speed of prefill.
const MIN_FRESH_TOKENS: u32 = 16;
/// What is believed of a processor before it has answered: 200 tokens of prompt a second.
const CPU: Speed = Speed { prefill_us_per_kib: 1_280_000, service_us: 4_000_000 };
/// What is believed of a graphics card: 3,000 tokens of prompt a second.
const GPU: Speed = Speed { prefill_us_per_kib: 85_000, service_us: 1_500_000 };

/// The measured speed of one worker.
#[derive(Debug, Default)]
pub(super) struct Pace {
    prefill_us_per_kib: Option<u64>,
    service_us: Option<u64>,
}

impl Pace {
    /// Takes in how long an answer to a prompt of so many bytes took.
    pub(super) fn on_answer(&mut self, prompt_bytes: u32, usage: Usage, timings: Timings) {
        let micros =
            |millis: f64| if millis.is_finite() { (millis * 1000.0).max(0.0) } else { 0.0 };
        let fresh = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        if fresh >= MIN_FRESH_TOKENS && prompt_bytes > 0 && timings.prefill_ms > 0.0 {
            let part = f64::from(fresh) / f64::from(usage.prompt_tokens.max(1));
            let kib = f64::from(prompt_bytes) * part / 1024.0;
            mix(&mut self.prefill_us_per_kib, whole(micros(timings.prefill_ms) / kib.max(0.001)));
        }
        mix(&mut self.service_us, whole(micros(timings.prefill_ms) + micros(timings.decode_ms)));
    }

    /// What is to be expected of it.
    pub(super) fn speed(&self, device: DeviceKind) -> Speed {
        let usual = match device {
            DeviceKind::Cpu => CPU,
            DeviceKind::Gpu => GPU,
        };
        Speed {
            prefill_us_per_kib: self.prefill_us_per_kib.unwrap_or(usual.prefill_us_per_kib),
            service_us: self.service_us.unwrap_or(usual.service_us),
        }
    }
}

fn mix(mean: &mut Option<u64>, measured: u64) {
    // An absurd measurement must not decide for ever.
    let measured = measured.clamp(1, 3_600_000_000);
    *mean = Some(match *mean {
        Some(mean) => (mean * (100 - NEW_PERCENT) + measured * NEW_PERCENT) / 100,
        None => measured,
    });
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is not negative, and a cast of a float saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_move_the_mean_and_what_was_cached_is_left_out() {
        let mut pace = Pace::default();
        assert_eq!(pace.speed(DeviceKind::Cpu), CPU);
        let timings = Timings { prefill_ms: 100.0, decode_ms: 400.0, ..Timings::default() };
        let usage = Usage { prompt_tokens: 512, cached_tokens: 256, completion_tokens: 10 };
        pace.on_answer(2048, usage, timings);
        let first = Speed { prefill_us_per_kib: 100_000, service_us: 500_000 };
        assert_eq!(pace.speed(DeviceKind::Cpu), first, "half of 2 KiB in 100 ms");
        pace.on_answer(
            2048,
            Usage { cached_tokens: 510, ..usage },
            Timings { prefill_ms: 1.0, ..timings },
        );
        let second = pace.speed(DeviceKind::Cpu);
        assert_eq!(second.prefill_us_per_kib, 100_000, "two tokens say nothing");
        assert_eq!(second.service_us, (500_000 * 80 + 401_000 * 20) / 100);
    }

    #[test]
    fn absurd_measurements_are_bounded() {
        let mut pace = Pace::default();
        for absurd in [f64::INFINITY, f64::NAN, -5.0, 1e300] {
            let timings = Timings { prefill_ms: absurd, decode_ms: absurd, ..Timings::default() };
            let usage = Usage { prompt_tokens: 100, ..Usage::default() };
            pace.on_answer(1, usage, timings);
            let speed = pace.speed(DeviceKind::Gpu);
            assert!(speed.service_us <= 3_600_000_000 && speed.prefill_us_per_kib <= 3_600_000_000);
        }
    }
}
