//! A simulated hive: it starts, watches and ends the workers of its machine, and reports. One that is
//! killed leaves them alone; the next one finds them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use job_server::{JobError, Outcome};
use rbee_operations::{Operation, WorkerFit, WorkerSpawn};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turmoil::net::{TcpListener, TcpStream, UdpSocket};
use worker_contract::{HiveHeartbeat, Restarts, SupervisedState, SupervisedWorker, WorkerId};

use super::machine::{Machine, Process};
use super::wire::{HIVE_PORT, JobEnd, KEEP_ALIVE};
use crate::simulation::worker::REPORTS;

/// How often it looks at its workers.
const LOOK: Duration = Duration::from_millis(50);
/// How often it reports at least.
const REPORT: Duration = Duration::from_secs(2);
/// How long a worker may say nothing.
const SILENCE: Duration = Duration::from_secs(6);
/// How long a worker may take to finish its requests before it is ended.
const GRACE: Duration = Duration::from_secs(3);

/// A machine, from the moment when it has power: its hive is there but while somebody keeps it down.
pub(super) async fn run(machine: Arc<Machine>) -> turmoil::Result {
    machine.forget_all();
    let processes = TaskTracker::new();
    loop {
        while machine.hive_is_down.load(SeqCst) {
            sleep(LOOK).await;
        }
        let life = CancellationToken::new();
        let _guard = life.clone().drop_guard();
        tokio::select! {
            biased;
            () = async {
                while !machine.hive_is_down.load(SeqCst) {
                    sleep(LOOK).await;
                }
            } => {}
            ended = live(&machine, &processes, &life) => ended?,
        }
    }
}

/// The life of one hive.
async fn live(
    machine: &Arc<Machine>,
    processes: &TaskTracker,
    life: &CancellationToken,
) -> std::io::Result<()> {
    adopt(machine);
    let listener = TcpListener::bind(("0.0.0.0", HIVE_PORT)).await?;
    let calls = async {
        let tasks = TaskTracker::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(LOOK).await;
                continue;
            };
            let hive = Hive {
                machine: Arc::clone(machine),
                processes: processes.clone(),
                life: life.clone(),
            };
            tasks.spawn(life.clone().run_until_cancelled_owned(hive.answer(stream)));
        }
    };
    tokio::select! {
        biased;
        () = calls => Ok(()),
        reported = watch_and_report(machine, processes) => reported,
    }
}

/// Of the workers that the hive before it had, those are kept that live or wait for their next process.
fn adopt(machine: &Machine) {
    let mut state = machine.state();
    state.jobs.clear();
    state.workers.retain(|_, process| process.lives() || process.restart_at.is_some());
}

async fn watch_and_report(machine: &Arc<Machine>, processes: &TaskTracker) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    let mut last: Option<(Vec<SupervisedWorker>, Instant)> = None;
    loop {
        watch(machine, processes);
        let listed = machine.listed();
        let is_same = |(before, at): &(Vec<SupervisedWorker>, Instant)| {
            *before == listed && at.elapsed() < REPORT
        };
        if !last.as_ref().is_some_and(is_same) {
            let beat = HiveHeartbeat {
                hive_id: machine.name.clone(),
                address: Some(format!("http://{}:{HIVE_PORT}", machine.name)),
                version: "0".into(),
                devices: machine.devices(),
                catalog: machine.disk.clone(),
                workers: listed.clone(),
                trouble: None,
            };
            let text = json!({ "hive": beat }).to_string();
            let _ = socket.send_to(text.as_bytes(), ("queen", REPORTS)).await;
            last = Some((listed, Instant::now()));
        }
        sleep(LOOK).await;
    }
}

/// Sees what became of each process, and starts those again that were ready once.
fn watch(machine: &Machine, processes: &TaskTracker) {
    let now = Instant::now();
    let mut state = machine.state();
    let ids: Vec<WorkerId> = state.workers.keys().cloned().collect();
    for id in ids {
        let pause = Duration::from_millis(state.rng.u64(100..2000));
        let Some(process) = state.workers.get_mut(&id) else { continue };
        if process.restart_at.is_some_and(|at| at <= now) {
            machine.start_again(&mut state, &id, processes);
            if let Some(Process { restarts: Some(restarts), .. }) = state.workers.get_mut(&id) {
                restarts.waiting = false;
            }
        } else {
            process.listen(now);
            process.watch(now + pause);
        }
    }
    state.forget_failed();
}

impl Process {
    /// Ends a process that hangs.
    fn listen(&mut self, now: Instant) {
        if !self.knobs.hangs.load(SeqCst) {
            self.silent_since = None;
        } else if now - *self.silent_since.get_or_insert(now) > SILENCE {
            self.killed.cancel();
        }
    }

    fn watch(&mut self, restart_at: Instant) {
        if self.restart_at.is_some() {
            return;
        }
        match (&self.state, self.lives()) {
            (SupervisedState::Starting { .. }, true) if !self.knobs.is_loading.load(SeqCst) => {
                self.state = SupervisedState::Ready;
            }
            (SupervisedState::Starting { .. }, false) if self.restarts.is_none() => {
                self.state = SupervisedState::Failed { reason: "it ended while it loaded".into() };
            }
            (SupervisedState::Starting { .. } | SupervisedState::Ready, false) => {
                let count = self.restarts.as_ref().map_or(0, |restarts| restarts.count) + 1;
                self.restarts = Some(Restarts { count, reason: "signal 9".into(), waiting: true });
                self.state = SupervisedState::Starting { progress: 0.0 };
                self.restart_at = Some(restart_at);
            }
            _ => {}
        }
    }
}

/// One hive, as those see it who ask it.
struct Hive {
    machine: Arc<Machine>,
    processes: TaskTracker,
    life: CancellationToken,
}

impl Hive {
    /// Answers one call.
    async fn answer(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_err() {
            return;
        }
        let Ok(mut request) = serde_json::from_str::<Value>(&line) else { return };
        let answer = match request["follow"].as_u64() {
            Some(number) => {
                let job = self.machine.state().jobs.get(&number).cloned();
                let Some(job) = job else {
                    let lost = json!({"code": "hive_restarted", "message": "it was started again"});
                    let _ = stream.write_all(format!("{lost}\n").as_bytes()).await;
                    return pending_a_moment().await;
                };
                loop {
                    if let Ok(end) = timeout(KEEP_ALIVE, job.wait()).await {
                        break end;
                    }
                    if stream.write_all(b"\n").await.is_err() {
                        return;
                    }
                }
            }
            None => match serde_json::from_value(request["submit"].take()) {
                Ok(operation) => json!({ "job": self.begin(operation) }),
                Err(_) => return,
            },
        };
        let _ = stream.write_all(format!("{answer}\n").as_bytes()).await;
        pending_a_moment().await;
    }

    /// Begins a job, which ends with the hive.
    fn begin(self, operation: Operation) -> u64 {
        let (number, end) = (self.machine.next_number(), Arc::new(JobEnd::default()));
        self.machine.state().jobs.insert(number, Arc::clone(&end));
        let (life, processes) = (self.life.clone(), self.processes.clone());
        let job = async move { end.ended(self.carry_out(operation).await) };
        processes.spawn(life.run_until_cancelled_owned(job));
        number
    }

    async fn carry_out(&self, operation: Operation) -> Result<Outcome, JobError> {
        match operation {
            Operation::WorkerSpawn(asked) => self.spawn(&asked).await,
            Operation::WorkerDelete(target) => self.delete(&target.worker_id).await,
            Operation::WorkerFit(asked) => self.fit(&asked).await,
            // It gives no worker up.
            Operation::WorkerExcuse(_) => Ok(Outcome::said("excused")),
            _ => Err(JobError::new("not_in_the_script", "what?")),
        }
    }

    async fn fit(&self, asked: &WorkerFit) -> Result<Outcome, JobError> {
        let reckoned = Duration::from_millis(self.machine.state().rng.u64(0..200));
        sleep(reckoned).await;
        let report = self.machine.fit(asked);
        let report = report.map_err(|code| JobError::new(code, "nobody can tell"))?;
        Ok(Outcome::new("reckoned", serde_json::to_value(report).unwrap()))
    }

    /// Starts a worker and waits until it is ready.
    async fn spawn(&self, asked: &WorkerSpawn) -> Result<Outcome, JobError> {
        let checked = Duration::from_millis(self.machine.state().rng.u64(0..400));
        sleep(checked).await;
        let begun = self.machine.begin(asked, &self.processes);
        let id = begun.map_err(|code| JobError::new(code, "it cannot be started"))?;
        loop {
            let listed = self.machine.state().workers.get(&id).map(|process| process.listed(&id));
            match listed.as_ref().map(|worker| &worker.state) {
                Some(SupervisedState::Starting { .. }) => sleep(LOOK).await,
                Some(SupervisedState::Ready) => {
                    return Ok(Outcome::new("ready", serde_json::to_value(&listed).unwrap()));
                }
                Some(SupervisedState::Failed { reason }) => {
                    return Err(JobError::new("worker_failed", reason));
                }
                Some(SupervisedState::Stopping) | None => {
                    return Err(JobError::new("worker_stopped", "it was stopped"));
                }
            }
        }
    }

    /// Ends a worker, which finishes what it runs, within a time.
    async fn delete(&self, id: &WorkerId) -> Result<Outcome, JobError> {
        let (knobs, killed) = {
            let mut state = self.machine.state();
            let process = state.workers.get_mut(id);
            let unknown = || JobError::new("worker_not_found", "there is no such worker");
            let process = process.ok_or_else(unknown)?;
            process.state = SupervisedState::Stopping;
            process.restart_at = None;
            process.knobs.drains.store(true, SeqCst);
            (Arc::clone(&process.knobs), process.killed.clone())
        };
        let drained = async {
            while knobs.requests.load(SeqCst) > 0 && !killed.is_cancelled() {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(GRACE, drained).await;
        killed.cancel();
        // Its last word is on its way.
        sleep(LOOK).await;
        self.machine.state().workers.remove(id);
        Ok(Outcome::said("gone"))
    }
}

/// Lets what was written arrive before the connection is closed.
async fn pending_a_moment() {
    let _ = timeout(Duration::from_millis(200), pending::<()>()).await;
}
