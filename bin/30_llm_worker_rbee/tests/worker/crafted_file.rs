//! Files that were made to do damage: the worker refuses them itself, or dies of them alone.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use llm_worker_rbee::gguf::Header;

use crate::support::{PATIENCE, demo_model};

/// How many changed files are given to a worker.
const FILES: u64 = 128;

/// How many workers are tried side by side: one that fails stays for two seconds.
const THREADS: u64 = 4;

/// The smallest model that is there: the less there is to load, the faster the test.
fn small_model() -> PathBuf {
    let demo = demo_model();
    let tiny = demo.with_file_name("stories260K.gguf");
    if tiny.is_file() { tiny } else { demo }
}

/// How a worker ended that was given a file.
#[derive(Debug, PartialEq)]
enum End {
    Ready,
    Refused,
    Killed(i32),
}

/// Starts a worker with a file and waits until it has loaded it or ended.
fn load(file: &Path) -> (End, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"))
        .args(["--port", "0", "--threads", "1", "--ctx-size", "256", "--slots", "1", "--model"])
        .arg(file)
        // The engine's own search for a debugger takes seconds.
        .env("GGML_NO_BACKTRACE", "1")
        .env("RBEE_LOG", "info")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut end = None;
    while end.is_none() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("the model is loaded") {
            end = Some(End::Ready);
        } else if let Some(status) = child.try_wait().unwrap() {
            end = Some(match (status.code(), status.signal()) {
                (Some(1), _) => End::Refused,
                (_, Some(signal)) => End::Killed(signal),
                other => panic!("it ended with {other:?}: {said}"),
            });
        }
        assert!(Instant::now() < deadline, "neither loaded nor ended: {said}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    (end.unwrap(), std::fs::read_to_string(&log).unwrap_or_default())
}

/// Numbers that look random and are the same in each run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A copy of a model whose header is changed again and again.
struct Copy {
    file: PathBuf,
    size: u64,
    /// All before the tensors' data, unchanged.
    header: Vec<u8>,
}

impl Copy {
    fn new(model: &Path, folder: &Path, name: &str) -> Self {
        let file = folder.join(name);
        std::fs::copy(model, &file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        let size = whole.len() as u64;
        let tensors = Header::read(&whole[..], size).unwrap().tensors;
        let data: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
        let header = whole[..usize::try_from(size - data).unwrap()].to_vec();
        Self { file, size, header }
    }

    /// Writes the header with changes that depend on `seed` only, and gives it.
    fn change(&self, seed: u64) -> Vec<u8> {
        let mut numbers = Numbers(seed);
        let mut changed = self.header.clone();
        // Most files have one change: with several, hardly any passes the check.
        for _ in 0..=(numbers.next() % 8).saturating_sub(4) {
            // Half of the changes among the first keys, where the hyperparameters are.
            let most = if numbers.next().is_multiple_of(2) { 2048 } else { changed.len() };
            let within = changed.len().min(most) as u64 - 8;
            let at = usize::try_from(numbers.next() % within).unwrap();
            match numbers.next() % 3 {
                0 => changed[at] ^= 1 << (numbers.next() % 8),
                1 => changed[at] = 0xFF,
                _ => changed[at..at + 4].copy_from_slice(&[0, 0, 0, 0x80]),
            }
        }
        let mut file = OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all(&changed).unwrap();
        changed
    }
}

#[test]
fn a_changed_file_is_refused_before_llama_cpp_sees_it_or_ends_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model();
    let results: Vec<(u64, bool, End)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let copy = Copy::new(&model, folder.path(), &format!("changed-{thread}.gguf"));
                scope.spawn(move || {
                    let seeds = (0..FILES).filter(|seed| seed % THREADS == thread);
                    seeds.map(|seed| check(&copy, seed)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |passed: bool, end: &End| {
        results.iter().filter(|(_, p, e)| *p == passed && e == end).count()
    };
    let refused = count(false, &End::Refused);
    let (loaded, refused_later) = (count(true, &End::Ready), count(true, &End::Refused));
    println!("{refused} refused by the check, {refused_later} by llama.cpp, {loaded} loaded");
    let killed = results.iter().filter(|(_, _, end)| matches!(end, End::Killed(_)));
    println!("ended their process: {:?}", killed.collect::<Vec<_>>());
    assert!(refused > 0 && loaded > 0, "the changes test both sides");
    assert_eq!(load(&model).0, End::Ready, "a good file still loads");
}

/// Whether a changed file passes the check, and how the process ends that reads it.
fn check(copy: &Copy, seed: u64) -> (u64, bool, End) {
    let changed = copy.change(seed);
    let checked = Header::read(&changed[..], copy.size).and_then(|header| header.check_model());
    let Err(error) = checked else { return (seed, true, load(&copy.file).0) };
    let inspected = inspect(&copy.file);
    let said = String::from_utf8_lossy(&inspected.stderr);
    assert_eq!(inspected.status.code(), Some(1), "seed {seed}: {error}\n{said}");
    assert!(said.starts_with("error: "), "seed {seed}: {said}");
    assert!(said.contains("changed-"), "seed {seed}: {said}");
    (seed, false, End::Refused)
}

fn inspect(file: &Path) -> Output {
    let worker = env!("CARGO_BIN_EXE_llm-worker-rbee");
    Command::new(worker).arg("inspect").arg(file).output().unwrap()
}

#[test]
fn what_a_crafted_file_is_refused_for_reaches_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crafted.gguf");
    // One key with a text of 2^63 bytes.
    let text = [
        b"GGUF\x03\0\0\0".as_slice(),
        &0_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        b"k",
        &8_u32.to_le_bytes(),
        &(1_u64 << 63).to_le_bytes(),
    ];
    std::fs::write(&file, text.concat()).unwrap();
    let inspected = inspect(&file);
    let (end, log) = load(&file);
    assert_eq!(end, End::Refused, "{log}");
    assert_eq!(inspected.status.code(), Some(1));
    for said in [&log, &*String::from_utf8_lossy(&inspected.stderr)] {
        for part in ["crafted.gguf is a damaged GGUF file", "at byte 37", "at most 67108864"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}
