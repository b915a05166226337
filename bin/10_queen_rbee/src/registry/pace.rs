//! How fast workers are, learned from their answers. Pure: `now` is passed in.
//!
//! A measurement weighs the less the more requests were beside it, and the older it is: who looked slow
//! in a crowd and got nothing since would else never show that it is not. Workers of one model on one
//! device share what they show, since the hardware is the same; what none of them has shown is taken
//! from alike workers elsewhere. Until any of them has shown how fast it is, the rates count that they report
//! themselves. How long answers are is the model's doing, and no worker's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lru::DefaultHasher;
use worker_contract::{DeviceId, DeviceKind, Timings, Usage};

use super::worker::Worker;
use super::workers::Workers;
use crate::scheduler::Speed;

/// The weight of a measurement that nothing disturbed.
const WHOLE: u64 = 1000;
/// The most weight of a worker's measurements together: what is new always counts.
const MOST: u64 = 4 * WHOLE;
/// The weight of what alike workers show, beside what a device's own workers do.
const ALIKE: u64 = WHOLE;
/// The weight of what is believed before anybody has answered.
const USUAL: u64 = WHOLE / 100;
/// The weight of what a worker reports of itself, where nothing was measured.
const TOLD: u64 = WHOLE / 2;
/// After so many seconds without another one a measurement weighs half as much.
const HALF_S: u64 = 120;
/// Prompts with fewer fresh tokens say nothing of the speed of prefill.
const MIN_FRESH_TOKENS: u32 = 16;
/// Prompts with so many fresh tokens say all of it, and those with fewer the less.
const FULL_FRESH_TOKENS: u64 = 256;
/// A prompt counts as if it had so many bytes for each of its tokens at least: those of a chat's template stand
/// for nothing that the client sent, and of a short message they are most.
const LEAST_BYTES_A_TOKEN: u32 = 3;
/// What a token takes at least, in microseconds: who seems to be faster had the answer ready, or does not count right.
const LEAST_TOKEN_US: f64 = 5.0;
/// An absurd measurement is taken for this one.
const MOST_US: u64 = 3_600_000_000;
/// What is believed of a processor before it has answered: 200 tokens of prompt a second, 25 of an answer.
const CPU: Cost = Cost { prefill_us_per_kib: 1_280_000, token_us: 40_000 };
/// What is believed of a graphics card: 3,000 tokens of prompt a second, 67 of an answer.
const GPU: Cost = Cost { prefill_us_per_kib: 85_000, token_us: 15_000 };
/// How many tokens an answer is believed to have before there was one.
const USUAL_TOKENS: u64 = 100;

/// What a worker takes for what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    prefill_us_per_kib: u64,
    token_us: u64,
}

/// A map with a quick hasher, for keys that nobody outside chooses.
type Quick<K, V> = HashMap<K, V, DefaultHasher>;

/// What one worker's answers have shown.
#[derive(Debug, Default)]
pub(super) struct Pace {
    prefill: Shown,
    /// A token of an answer; an answer without tokens, such as a vector, counts as one.
    token: Shown,
    /// How many tokens an answer has.
    tokens: Shown,
    /// A token of an answer at the highest of the rates that the worker has reported of late.
    told: Shown,
}

/// What was measured of one thing.
#[derive(Debug, Default)]
struct Shown {
    mean: Mean,
    /// When it was last.
    at: Option<Instant>,
    /// Up to when its age counts already. A small measurement makes what is older no younger.
    faded_at: Option<Instant>,
}

/// A mean, and how much it counts.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    value: u64,
    weight: u64,
}

/// What some workers have shown together.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    prefill: Mean,
    token: Mean,
    told: Mean,
}

/// What is believed of a device before anybody has answered on it.
pub(super) fn usual(device: DeviceKind) -> Speed {
    Cost::usual(device).speed(USUAL_TOKENS)
}

/// What a token of a model of so many bytes is believed to take on a device that has shown nothing, in
/// microseconds: what is believed of a device is believed of a model of 5 GiB, and small ones take some
/// time as well.
pub(crate) fn usual_token_us(device: DeviceKind, bytes: u64) -> u64 {
    let token_us = Cost::usual(device).token_us;
    let by_size = token_us.saturating_mul(bytes >> 20) / (5 << 10);
    by_size.max(token_us / 8)
}

impl Cost {
    fn usual(device: DeviceKind) -> Self {
        match device {
            DeviceKind::Cpu => CPU,
            DeviceKind::Gpu => GPU,
        }
    }

    /// What comes of it where an answer has so many tokens.
    fn speed(self, tokens: u64) -> Speed {
        let service_us = self.token_us.saturating_mul(tokens).min(MOST_US);
        Speed { prefill_us_per_kib: self.prefill_us_per_kib, service_us, tokens }
    }
}

impl Pace {
    /// Takes in how long an answer to a prompt of so many bytes took, with so many requests beside it. Of who
    /// has gone on after so many tokens of others, the prompt's time holds what these took: it tells nothing.
    pub(super) fn on_answer(
        &mut self,
        prompt_bytes: u32,
        usage: Usage,
        before: u32,
        timings: Timings,
        company: u32,
        now: Instant,
    ) {
        let weight = WHOLE / (u64::from(company) + 1);
        let micros =
            |millis: f64| if millis.is_finite() { (millis * 1000.0).max(0.0) } else { 0.0 };
        let fresh = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let is_whole = before == 0;
        let tokens = usage.completion_tokens.saturating_sub(before);
        self.tokens.take(u64::from(usage.completion_tokens), WHOLE, now);
        // Of one that came in one piece all of the time is told as the prompt's: it tells nothing of either.
        if tokens > 1 && timings.prefill_ms > 0.0 && timings.decode_ms <= 0.0 {
            return;
        }
        if is_whole && fresh >= MIN_FRESH_TOKENS && prompt_bytes > 0 && timings.prefill_ms > 0.0 {
            let part = f64::from(fresh) / f64::from(usage.prompt_tokens.max(1));
            let by_tokens = usage.prompt_tokens.saturating_mul(LEAST_BYTES_A_TOKEN);
            let kib = f64::from(prompt_bytes.max(by_tokens)) * part / 1024.0;
            let weight = weight * u64::from(fresh).min(FULL_FRESH_TOKENS) / FULL_FRESH_TOKENS;
            self.prefill.take(whole(micros(timings.prefill_ms) / kib.max(0.001)), weight, now);
        }
        let ms = if tokens == 0 { timings.prefill_ms } else { timings.decode_ms };
        let token_us = micros(ms) / f64::from(tokens.max(1));
        let may_be_so = tokens <= 1 || token_us >= LEAST_TOKEN_US;
        if may_be_so && (is_whole || tokens > 0) {
            self.token.take(whole(token_us), weight, now);
        }
    }

    /// Takes in how many tokens a worker has given in a second, as it says, and to how many requests at once.
    /// Its rate is lower than it could be where it was idle in between or busy with prompts: the best counts.
    pub(super) fn on_report(&mut self, tokens_per_second: f32, running: u32, now: Instant) {
        let before = self.told.faded(now);
        if tokens_per_second > 0.0 && running > 0 {
            let token_us = whole(f64::from(running) * 1e6 / f64::from(tokens_per_second));
            if before.weight < TOLD || token_us <= before.value {
                self.told = Shown::default();
                self.told.take(token_us, TOLD, now);
            }
        }
    }

    /// What a token takes, in microseconds, and how much that counts, however long ago it was shown.
    pub(super) fn token_us(&self) -> Option<(u64, u64)> {
        let Mean { value, weight } = self.token.mean;
        (weight > 0).then_some((value, weight))
    }

    /// What 1 KiB of prompt took, in microseconds, however long ago that was shown.
    pub(super) fn prefill_us_per_kib(&self) -> Option<u64> {
        let Mean { value, weight } = self.prefill.mean;
        (weight > 0).then_some(value)
    }

    /// When it last showed something.
    pub(super) fn shown_at(&self) -> Option<Instant> {
        self.token.at
    }
}

impl Shown {
    fn take(&mut self, value: u64, weight: u64, now: Instant) {
        let value = value.clamp(1, MOST_US);
        let counted = self.faded_at.map(|at| at + Duration::from_secs(self.halves(now) * HALF_S));
        self.mean = self.faded(now).with(Mean { value, weight });
        self.mean.weight = self.mean.weight.min(MOST);
        self.at = Some(now);
        self.faded_at = Some(counted.unwrap_or(now));
    }

    fn faded(&self, now: Instant) -> Mean {
        let halves = u32::try_from(self.halves(now)).unwrap_or(u32::MAX);
        Mean { weight: self.mean.weight.checked_shr(halves).unwrap_or(0), ..self.mean }
    }

    /// How often its weight is to be halved.
    fn halves(&self, now: Instant) -> u64 {
        self.faded_at.map_or(0, |at| now.saturating_duration_since(at).as_secs() / HALF_S)
    }
}

impl Mean {
    fn with(self, other: Self) -> Self {
        let weight = self.weight + other.weight;
        let sum = self.value * self.weight + other.value * other.weight;
        Self { value: sum.checked_div(weight).unwrap_or(0), weight }
    }
}

impl Sum {
    fn add(&mut self, pace: &Pace, now: Instant) {
        self.prefill = self.prefill.with(pace.prefill.faded(now));
        self.token = self.token.with(pace.token.faded(now));
        self.told = self.told.with(pace.told.faded(now));
    }

    /// What was reported stands for what was not measured: a queen that has just begun knows nothing else.
    fn or_told(self) -> Self {
        if self.token.weight > 0 { self } else { Self { token: self.told, ..self } }
    }

    /// What is to be expected, where `otherwise` is where nothing was shown.
    fn over(&self, otherwise: Cost, weight: u64) -> Cost {
        let over = |mean: Mean, value: u64| mean.with(Mean { value, weight }).value;
        Cost {
            prefill_us_per_kib: over(self.prefill, otherwise.prefill_us_per_kib),
            token_us: over(self.token, otherwise.token_us),
        }
    }
}

/// The numbers of a worker's hive and model. Each worker that is kept has them.
fn numbers(worker: &Worker) -> (u64, u64) {
    (worker.hive_number.unwrap_or(0), worker.model_number.unwrap_or(0))
}

impl Workers {
    /// Draws from all measurements what is to be expected of each worker.
    pub(super) fn compare_paces(&mut self, now: Instant) {
        let mut tokens: Quick<u64, Mean> = Quick::default();
        let mut alike: Quick<(u64, DeviceKind), Sum> = Quick::default();
        let mut of_place: Quick<(u64, DeviceId, u64), Sum> = Quick::default();
        let mut loads: Quick<(u64, DeviceId), u32> = Quick::default();
        for (_, worker) in self.iter() {
            let ((hive, model), Worker { device, pace, .. }) = (numbers(worker), worker);
            let length = tokens.entry(model).or_default();
            *length = length.with(pace.tokens.faded(now));
            alike.entry((model, device.kind)).or_default().add(pace, now);
            of_place.entry((hive, *device, model)).or_default().add(pace, now);
            let load = loads.entry((hive, *device)).or_default();
            *load = load.saturating_add(worker.load());
        }
        let shown = self.iter().map(|(_, worker)| {
            let ((hive, model), Worker { device, .. }) = (numbers(worker), worker);
            let get = |sum: Option<&Sum>| sum.copied().unwrap_or_default();
            let usual = Cost::usual(device.kind);
            let alike = get(alike.get(&(model, device.kind))).over(usual, USUAL);
            let of_place = get(of_place.get(&(hive, *device, model))).or_told();
            let cost = of_place.over(alike, ALIKE);
            let usual = Mean { value: USUAL_TOKENS, weight: USUAL };
            let tokens = tokens.get(&model).map_or(usual, |length| length.with(usual));
            let speed = cost.speed(tokens.value.max(1));
            let load = loads.get(&(hive, *device)).copied().unwrap_or(0);
            (speed, load.saturating_sub(worker.load()))
        });
        let shown: Vec<_> = shown.collect();
        for (worker, (speed, neighbours)) in self.iter_mut().zip(shown) {
            worker.speed = speed;
            worker.neighbours = neighbours;
        }
    }
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

    const HALF: Duration = Duration::from_secs(HALF_S);

    fn took(prefill_ms: f64, decode_ms: f64) -> Timings {
        Timings { prefill_ms, decode_ms, ..Timings::default() }
    }

    fn shown(pace: &Pace, now: Instant) -> Cost {
        let mut sum = Sum::default();
        sum.add(pace, now);
        sum.over(CPU, 0)
    }

    #[test]
    fn answers_move_the_mean_and_what_was_cached_is_left_out() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let usage = Usage { prompt_tokens: 512, cached_tokens: 256, completion_tokens: 10 };
        pace.on_answer(2048, usage, 0, took(100.0, 400.0), 0, now);
        let first = Cost { prefill_us_per_kib: 100_000, token_us: 40_000 };
        assert_eq!(shown(&pace, now), first, "half of 2 KiB in 100 ms");
        assert_eq!(pace.prefill_us_per_kib(), Some(100_000));
        assert_eq!(Pace::default().prefill_us_per_kib(), None, "what is believed is not shown");
        pace.on_answer(2048, Usage { cached_tokens: 510, ..usage }, 0, took(1.0, 300.0), 0, now);
        let second = shown(&pace, now);
        assert_eq!(second.prefill_us_per_kib, 100_000, "two tokens say nothing");
        assert_eq!(second.token_us, 35_000);
        assert_eq!(pace.tokens.mean.value, 10);
    }

    #[test]
    fn a_few_words_say_little_of_how_long_a_long_prompt_takes() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let of = |prompt_tokens| Usage { prompt_tokens, completion_tokens: 9, cached_tokens: 0 };
        // A millisecond a token, of which the template of a chat has thirty.
        pace.on_answer(4096, of(1054), 0, took(1054.0, 90.0), 0, now);
        for _ in 0..4 {
            pace.on_answer(2, of(31), 0, took(31.0, 90.0), 0, now);
        }
        let us_per_kib = pace.prefill_us_per_kib().unwrap();
        assert!((256_000..300_000).contains(&us_per_kib), "{us_per_kib} is not about 263,500");
    }

    #[test]
    fn a_few_words_now_and_then_keep_no_bad_moment_alive() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let of = |prompt_tokens| Usage { prompt_tokens, completion_tokens: 9, cached_tokens: 0 };
        pace.on_answer(4096, of(1024), 0, took(10_240.0, 90.0), 0, now);
        assert_eq!(pace.prefill_us_per_kib(), Some(2_560_000));
        for minute in 1..=16 {
            let now = now + HALF / 2 * minute;
            pace.on_answer(128, of(32), 0, took(64.0, 90.0), 0, now);
        }
        let us_per_kib = pace.prefill_us_per_kib().unwrap();
        assert!(us_per_kib < 600_000, "{us_per_kib}: it takes 512,000");
    }

    #[test]
    fn who_gave_the_end_of_an_answer_is_measured_by_that_alone() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let usage = Usage { prompt_tokens: 512, cached_tokens: 0, completion_tokens: 300 };
        pace.on_answer(2048, usage, 290, took(9000.0, 400.0), 0, now);
        assert_eq!(shown(&pace, now).token_us, 40_000, "ten tokens in 400 ms");
        assert_eq!(pace.prefill_us_per_kib(), None, "290 tokens took that time, too");
        pace.on_answer(2048, usage, 300, took(9000.0, 0.0), 0, now);
        assert_eq!(shown(&pace, now).token_us, 40_000, "it gave no token");
        assert_eq!(pace.tokens.mean.value, 300, "answers are so long");
    }

    #[test]
    fn an_answer_in_one_piece_shows_only_how_long_answers_are() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let usage = Usage { prompt_tokens: 512, cached_tokens: 0, completion_tokens: 300 };
        pace.on_answer(2048, usage, 0, took(9000.0, 0.0), 0, now);
        assert_eq!((pace.token_us(), pace.prefill_us_per_kib()), (None, None));
        assert_eq!(pace.tokens.mean.value, 300);
    }

    #[test]
    fn a_measurement_in_company_or_of_long_ago_weighs_less() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let usage = Usage { completion_tokens: 1, ..Usage::default() };
        pace.on_answer(100, usage, 0, took(0.0, 100.0), 0, now);
        pace.on_answer(100, usage, 0, took(0.0, 900.0), 3, now);
        assert_eq!(shown(&pace, now).token_us, (100_000 * 4 + 900_000) / 5);
        let mut old = Pace::default();
        old.on_answer(100, usage, 0, took(0.0, 900.0), 0, now);
        old.on_answer(100, usage, 0, took(0.0, 100.0), 0, now + HALF * 3);
        assert_eq!(shown(&old, now + HALF * 3).token_us, (900_000 + 100_000 * 8) / 9);
    }

    #[test]
    fn what_a_worker_reports_counts_until_it_has_answered() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let token_us = |pace: &Pace, now| {
            let mut sum = Sum::default();
            sum.add(pace, now);
            sum.or_told().over(CPU, 0).token_us
        };
        assert_eq!(token_us(&pace, now), 0, "it has told nothing");
        pace.on_report(0.0, 3, now);
        pace.on_report(f32::NAN, 3, now);
        pace.on_report(100.0, 0, now);
        assert_eq!(token_us(&pace, now), 0, "it was idle");
        pace.on_report(100.0, 4, now);
        assert_eq!(token_us(&pace, now), 40_000, "four requests share what it gives");
        pace.on_report(50.0, 1, now);
        assert_eq!(token_us(&pace, now), 20_000, "alone it shows more");
        pace.on_report(5.0, 1, now);
        assert_eq!(token_us(&pace, now), 20_000, "it was idle most of the time");
        let mut slower = Pace::default();
        slower.on_report(50.0, 1, now);
        slower.on_report(5.0, 1, now + HALF);
        assert_eq!(token_us(&slower, now + HALF), 200_000, "what it did before is long ago");
        let usage = Usage { completion_tokens: 1, ..Usage::default() };
        pace.on_answer(100, usage, 0, took(0.0, 7.0), 9, now);
        assert_eq!(token_us(&pace, now), 7_000, "what the queen has seen counts");
        let mut absurd = Pace::default();
        absurd.on_report(f32::MAX, u32::MAX, now);
        absurd.on_report(f32::MIN_POSITIVE, u32::MAX, now);
        assert!(token_us(&absurd, now) <= MOST_US);
    }

    #[test]
    fn who_cannot_have_computed_so_many_tokens_has_shown_nothing() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let answers = |pace: &mut Pace, completion_tokens| {
            let usage = Usage { completion_tokens, ..Usage::default() };
            pace.on_answer(100, usage, 0, took(100.0, 1600.0), 0, now);
            shown(pace, now).token_us
        };
        assert_eq!(answers(&mut pace, 8), 200_000);
        assert_eq!(answers(&mut pace, 2_000_000), 200_000, "not in 1.6 s");
        assert!(answers(&mut pace, 320_000) < 200_000, "that may just be");
    }

    #[test]
    fn absurd_measurements_are_bounded() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for absurd in [f64::INFINITY, f64::NAN, -5.0, 1e300] {
            let usage = Usage { prompt_tokens: 100, completion_tokens: 1, ..Usage::default() };
            pace.on_answer(1, usage, 0, took(absurd, absurd), u32::MAX, now);
            pace.on_answer(1, usage, 0, took(absurd, absurd), 0, now);
            let speed = shown(&pace, now);
            assert!(speed.token_us <= MOST_US && speed.prefill_us_per_kib <= MOST_US);
        }
    }
}
