//! What is told to whoever wants a worker that no memory is there for: who has it, and the ways out. Pure.

use bytesize::ByteSize;
use job_server::JobError;
use rbee_operations::{LARGER_THAN_DEVICE, NOT_ENOUGH_MEMORY};
use worker_contract::DeviceId;

use crate::device::TooLittleMemory;
use crate::supervisor::Holder;

/// How many workers are named.
const MOST_NAMED: usize = 3;

/// The refusal. `holders` are the workers of the device; `devices` are all that there are.
pub(super) fn too_little_memory(
    error: &TooLittleMemory,
    mut holders: Vec<Holder>,
    devices: &[DeviceId],
) -> JobError {
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    // More than their ends would give where some read the same file: what is ruled out is so for certain.
    let held = holders.iter().map(|holder| holder.bytes).fold(0, u64::saturating_add);
    let mut message = match named(&holders) {
        None => error.to_string(),
        Some(named) => format!("{error}; {} has {named}", error.device),
    };
    let mut code = NOT_ENOUGH_MEMORY;
    if !error.would_do_with(held) {
        message.push_str("; it would have no room there without other workers either");
        holders.clear();
        code = LARGER_THAN_DEVICE;
    }
    JobError::new(code, message).hint(ways_out(error, &holders, devices).join("; "))
}

fn named(holders: &[Holder]) -> Option<String> {
    let name = |holder: &Holder| {
        let Holder { worker, model, bytes } = holder;
        format!("worker {worker} ({model}, {})", ByteSize(*bytes))
    };
    let names: Vec<String> = holders.iter().take(MOST_NAMED).map(name).collect();
    let more = match holders.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")))
}

/// `holders` are those whose end may help.
fn ways_out(error: &TooLittleMemory, holders: &[Holder], devices: &[DeviceId]) -> Vec<String> {
    let mut ways = Vec::new();
    if let Some(largest) = holders.first() {
        ways.push(format!("end a worker: rbee-keeper worker delete {}", largest.worker));
    }
    ways.push("a smaller quantization of the model needs less".to_owned());
    if error.need.context_bytes > 0 {
        ways.push("so do less context and fewer slots: --ctx-size, --slots".to_owned());
    }
    let others = devices.iter().filter(|device| **device != error.device);
    let others: Vec<String> = others.map(ToString::to_string).collect();
    if !others.is_empty() {
        ways.push(format!("another device may have room: --device {}", others.join("|")));
    }
    if error.is_for_limit() {
        ways.push("workers may have more with a larger [hive] memory".to_owned());
    }
    if error.is_for_weights_in_files() {
        ways.push(
            "where weights may be read from the disk again and again: [hive] overcommit_memory = true"
                .to_owned(),
        );
    }
    ways
}

#[cfg(test)]
mod tests {
    use worker_contract::{MemoryNeed, Sha256Digest};

    use super::*;
    use crate::device::{Reading, Reservations};

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_refusal_names_what_is_needed_what_is_free_who_has_the_rest_and_the_ways_out() {
        let all = Reservations::new(false, None);
        let error = refused(&all, need(40 * GIB, 0), 16 * GIB);
        let holders = vec![holder("w-1", 1), holder("w-2", 24)];
        let refusal = too_little_memory(&error, holders, &devices(&["CPU-0", "GPU-0"]));
        assert_eq!(refusal.code, NOT_ENOUGH_MEMORY);
        assert_eq!(
            refusal.message,
            "CPU-0 cannot hold this: 41.0 GiB are needed (weights 40.0 GiB, context 1.0 GiB, \
             computing 0 B), and 16.0 GiB are free; CPU-0 has worker w-2 (small, 24.0 GiB), worker w-1 \
             (small, 1.0 GiB)"
        );
        assert_eq!(
            refusal.hint.unwrap(),
            "end a worker: rbee-keeper worker delete w-2; a smaller quantization of the model needs \
             less; so do less context and fewer slots: --ctx-size, --slots; another device may have room: \
             --device GPU-0; where weights may be read from the disk again and again: [hive] \
             overcommit_memory = true"
        );
    }

    #[test]
    fn to_end_a_worker_is_a_way_out_only_where_the_end_of_all_would_make_room() {
        let all = Reservations::new(false, None);
        let error = refused(&all, need(40 * GIB, 0), 16 * GIB);
        for (holders, helps) in [
            (vec![], false),
            (vec![holder("w-1", 24)], false),
            (vec![holder("w-1", 25)], true),
            (vec![holder("w-1", 20), holder("w-2", 5)], true),
        ] {
            let refusal = too_little_memory(&error, holders.clone(), &devices(&["CPU-0"]));
            let hint = refusal.hint.unwrap();
            assert_eq!(hint.contains("end a worker"), helps, "{holders:?}: {hint}");
            let code = if helps { NOT_ENOUGH_MEMORY } else { LARGER_THAN_DEVICE };
            assert_eq!(refusal.code, code, "{holders:?}");
            let alone = "; it would have no room there without other workers either";
            assert_eq!(!refusal.message.ends_with(alone), helps, "{}", refusal.message);
        }
    }

    #[test]
    fn who_is_refused_for_a_limit_is_told_which() {
        let all = Reservations::new(false, Some(4 * GIB));
        let one = all.adopt(&[need(2 * GIB, 0)], &file());
        one.settled();
        let two = all.adopt(&[need(0, 0)], &file());
        let error = refused(&all, need(0, 2 * GIB), 4 * GIB);
        drop((one, two));
        let refusal = too_little_memory(&error, vec![holder("w-1", 3)], &devices(&["CPU-0"]));
        assert_eq!(
            refusal.message,
            "CPU-0 cannot hold this: 3.0 GiB are needed (weights 2.0 GiB, context 1.0 GiB, computing 0 \
             B), and workers may have 4.0 GiB in all ([hive] memory), of which 1.0 GiB are promised to \
             workers that are starting, 2.0 GiB hold the weights of running workers and 1.0 GiB are \
             what running workers have besides; CPU-0 has worker w-1 (small, 3.0 GiB)"
        );
        let hint = refusal.hint.unwrap();
        assert!(hint.contains("[hive] memory") && !hint.contains("overcommit"), "{hint}");
    }

    fn holder(worker: &str, gib: u64) -> Holder {
        let (worker, model) = (worker.parse().unwrap(), "small".parse().unwrap());
        Holder { worker, model, bytes: gib * GIB }
    }

    fn refused(all: &Reservations, need: MemoryNeed, free: u64) -> TooLittleMemory {
        let reading = Reading { since: all.moment(), free: move |_| Some(free) };
        all.reserve(&[need], &"cd".repeat(32).parse().unwrap(), &reading).unwrap_err()
    }

    fn need(mapped_bytes: u64, weights_bytes: u64) -> MemoryNeed {
        let device = "CPU-0".parse().unwrap();
        let context_bytes = GIB;
        MemoryNeed { device, weights_bytes, mapped_bytes, context_bytes, compute_bytes: 0 }
    }

    fn devices(ids: &[&str]) -> Vec<DeviceId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn file() -> Sha256Digest {
        "ab".repeat(32).parse().unwrap()
    }
}
