//! What metrics and probes are told: the numbers of `status`, and the proof of `verify`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use ollama_guard_common::{Mode, Scope, abi::ABI_VERSION};
use tokio::{
    task::{AbortHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{backend::LiveBackend, notices::Notices, proof};
use crate::{
    dataplane::{Hook, counters::Counts, embedded_object, sha256, snapshot::ServiceState},
    guard::Handle,
    metrics::{
        Build, Cache, Configuration, Door, Kernel, Readiness, RuleCount, Sample, Service, Source,
    },
    policy::{Effect, Family},
    status::{DoorState, DoorStatus, ModeCounts, StatusReport},
    verify::{Findings, Meant, examine},
};

/// How long the guard's thread may take to count the rules: while it is busy, the last count is told.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the keeper may take to come round. It comes every other second; a list of millions of rules
/// that is being replaced may hold it up.
const ROUND: Duration = Duration::from_secs(60);
/// How often the proof is tried while rules are being edited, and how far apart.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// What the metrics' server asks.
pub(super) struct LiveSource {
    inner: Arc<Inner>,
    living: Vec<(&'static str, AbortHandle)>,
    begun: Instant,
    samples: Cache<Sample>,
    proofs: Cache<Result<Findings, String>>,
    readiness: Cache<Readiness>,
}

struct Inner {
    backend: Arc<LiveBackend>,
    handle: Handle,
    notices: Arc<Notices>,
    build: Build,
    started: Timestamp,
    /// The rules when they were counted last.
    rules: Mutex<Vec<RuleCount>>,
}

impl LiveSource {
    pub(super) fn new(backend: Arc<LiveBackend>, handle: Handle, notices: Arc<Notices>) -> Self {
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("OLLAMA_GUARD_COMMIT"),
            layout: ABI_VERSION.to_string(),
            object: sha256(embedded_object()),
        };
        let started = Timestamp::now();
        let rules = Mutex::default();
        let inner = Inner { backend, handle, notices, build, started, rules };
        Self {
            inner: Arc::new(inner),
            living: Vec::new(),
            begun: Instant::now(),
            samples: Cache::default(),
            proofs: Cache::default(),
            readiness: Cache::default(),
        }
    }

    /// Takes note of the tasks that live as long as the daemon does.
    pub(super) fn watching(
        mut self,
        living: impl IntoIterator<Item = (&'static str, AbortHandle)>,
    ) -> Self {
        self.living.extend(living);
        self
    }
}

impl Source for LiveSource {
    fn sample(&self) -> BoxFuture<'_, Arc<Sample>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(self.samples.get(async move { inner.sample().await }))
    }

    fn ailments(&self) -> Vec<String> {
        let round = self.inner.notices.last_round().unwrap_or(self.begun);
        ailments(&self.living, round.elapsed())
    }

    fn readiness(&self) -> BoxFuture<'_, Arc<Readiness>> {
        Box::pin(async {
            let inner = Arc::clone(&self.inner);
            // Dear with many rules, and so kept longer than what `status` says.
            let proof = self.proofs.get(async move { inner.prove().await }).await;
            let inner = Arc::clone(&self.inner);
            self.readiness.get(async move { inner.readiness(&proof).await }).await
        })
    }
}

impl Inner {
    async fn sample(&self) -> Sample {
        let configuration = self.backend.configuration();
        let kernel = match self.backend.report().await {
            Ok(report) => Some(kernel(report, self.count_rules().await)),
            Err(error) => {
                tracing::debug!(%error, "the state in the kernel can't be read for the metrics");
                None
            }
        };
        Sample {
            build: self.build.clone(),
            started: self.started,
            configuration: Configuration {
                is_accepted: configuration.rejected.is_none(),
                read: configuration.rejected.map_or(configuration.since, |rejected| rejected.at),
                since: configuration.since,
            },
            repairs: self.notices.repaired_so_far(),
            kernel,
        }
    }

    /// Counts the rules, or tells the last count while the guard is busy.
    async fn count_rules(&self) -> Vec<RuleCount> {
        let counting = self.handle.maintain(|guard| {
            let mut counts = BTreeMap::new();
            for rule in guard.all() {
                *counts.entry((rule.prefix.family(), rule.effect)).or_default() += 1;
            }
            counts
        });
        let counted = timeout(PATIENCE, counting).await;
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Ok(counts)) = counted {
            let kinds = [Family::V4, Family::V6]
                .into_iter()
                .flat_map(|family| [Effect::Allow, Effect::Deny].map(|effect| (family, effect)));
            let count = |(family, effect)| {
                let count = counts.get(&(family, effect)).copied().unwrap_or(0);
                RuleCount { family, effect, count }
            };
            *rules = kinds.map(count).collect();
        }
        rules.clone()
    }

    /// Sends the test packets of `verify` through the twins.
    async fn prove(&self) -> Result<Findings, String> {
        for _ in 0..ATTEMPTS {
            let report = self.backend.report().await.map_err(|error| error.to_string())?;
            let programs = proof::programs(&report, &report);
            let meant = self.handle.maintain(|guard| guard.meant()).await;
            let meant = meant.map_err(|error| error.to_string())?;
            let meant = meant.map(|(generation, image)| Meant { generation, image });
            let pins = self.backend.pins().clone();
            let examined = spawn_blocking(move || examine(&pins, meant.as_ref(), &programs)).await;
            match examined.map_err(|error| error.to_string())? {
                Ok(Some(findings)) => return Ok(findings),
                Ok(None) => sleep(PAUSE).await,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("the rules change all the time: nothing could be proven".into())
    }

    async fn readiness(&self, findings: &Result<Findings, String>) -> Readiness {
        let mut readiness = Readiness::default();
        if let Some(rejected) = self.backend.configuration().rejected {
            readiness.notes.push(format!(
                "CONFIGURATION REJECTED at {:.0}; what was in force before still is: {}",
                rejected.at, rejected.problems
            ));
        }
        let report = match self.backend.report().await {
            Ok(report) => report,
            Err(error) => {
                readiness.failures.push(error.to_string());
                return readiness;
            }
        };
        readiness.observed = observed(&report);
        match findings {
            Ok(findings) => readiness.failures.extend(failures(&report, findings)),
            Err(failure) => readiness.failures.push(failure.clone()),
        }
        if report.scope == Scope::Local.name() {
            match proof::unguarded_addresses(self.backend.pins()).await {
                Ok(unguarded) => readiness.failures.extend(unguarded),
                Err(error) => readiness.failures.push(error.to_string()),
            }
        }
        readiness
    }
}

/// The tasks that have ended, and a keeper that has not come round for so long.
fn ailments(living: &[(&'static str, AbortHandle)], round: Duration) -> Vec<String> {
    let ended = living.iter().filter(|(_, task)| task.is_finished());
    let mut ailments: Vec<_> = ended.map(|(name, _)| format!("{name} has ended")).collect();
    if round > ROUND {
        let seconds = round.as_secs();
        ailments.push(format!("the keeper of the doors has not come round for {seconds} s"));
    }
    ailments
}

/// What does not hold, but for the mode, which is told apart.
fn failures(report: &StatusReport, findings: &Findings) -> Vec<String> {
    let findings = Findings { mode: None, ..findings.clone() };
    let proof = proof::assemble(report, report, &findings).concluded();
    let mut failures = proof.failures;
    for door in proof.doors.iter().filter(|door| !door.holds) {
        failures.push(format!("{} does not hold: {}", door.name, door.failures.join("; ")));
    }
    if proof.doors.is_empty() {
        failures.push("there is no door".into());
    }
    failures
}

/// What is only observed, a sentence each.
fn observed(report: &StatusReport) -> Vec<String> {
    let mode = Mode::Observe.name();
    if report.mode == mode {
        return vec!["mode observe: what would be dropped is delivered".into()];
    }
    let observed = report.services.iter().filter(|one| one.mode == mode);
    observed
        .map(|one| {
            format!("{} is only observed: what would be dropped there is delivered", one.name)
        })
        .collect()
}

fn kernel(report: StatusReport, rules: Vec<RuleCount>) -> Kernel {
    let packets = totals(&report.counters);
    let of_doors: Vec<Counts> = report.doors.iter().filter_map(added_up).collect();
    Kernel {
        enforcing: report.enforcing,
        problems: report.problems.len(),
        mode: report.mode,
        generation: report.generation,
        prefixes: report.rules,
        rules,
        elsewhere: packets.clone().without(&of_doors),
        packets,
        services: report.services.into_iter().map(service).collect(),
        doors: report.doors.into_iter().map(door).collect(),
        books: [(Mode::Enforce, report.books.enforce), (Mode::Observe, report.books.observe)],
        ring: report.ring,
    }
}

/// What of a door's counts is in the sum of all.
fn added_up(door: &DoorStatus) -> Option<Counts> {
    let counts = door.counts.clone()?;
    Some(if door.hook == Some(Hook::Cgroup) { counts.without_passes() } else { counts })
}

fn totals(counters: &BTreeMap<String, ModeCounts>) -> Counts {
    let of = |count: fn(&ModeCounts) -> u64| {
        counters.iter().map(|(reason, counts)| (reason.clone(), count(counts))).collect()
    };
    Counts { enforce: of(|counts| counts.enforce), observe: of(|counts| counts.observe) }
}

fn service(state: ServiceState) -> Service {
    let ServiceState { name, mode, counts, .. } = state;
    Service { name, mode, packets: counts.unwrap_or_default() }
}

fn door(status: DoorStatus) -> Door {
    Door {
        is_covered: match status.state {
            DoorState::Covered => Some(true),
            DoorState::NotCovered => status.is_wrong.then_some(false),
        },
        name: status.name,
        ifindex: status.ifindex,
        hook: status.hook,
        attach: status.attach,
        behind: status.behind,
        program: status.program_id,
        packets: status.counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_has_ended_and_a_keeper_that_hangs_are_told() {
        let lives = tokio::spawn(std::future::pending::<()>());
        let ended = tokio::spawn(async {});
        let living = [("one", lives.abort_handle()), ("another", ended.abort_handle())];
        ended.await.unwrap();
        assert_eq!(ailments(&living, Duration::ZERO), ["another has ended"]);
        let hangs = ailments(&living[..1], Duration::from_secs(61));
        assert_eq!(hangs, ["the keeper of the doors has not come round for 61 s"]);
        assert_eq!(ailments(&living[..1], ROUND), [""; 0]);
    }

    #[test]
    fn what_no_door_has_counted_is_elsewhere() {
        let counts = |allowed: u64, denied: u64| {
            let enforce = [("allowed", allowed), ("denied", denied)];
            let enforce = enforce.into_iter().map(|(name, count)| (name.to_owned(), count));
            Counts { enforce: enforce.collect(), observe: BTreeMap::new() }
        };
        let doors = [counts(2, 1), counts(3, 0)];
        assert_eq!(counts(9, 1).without(&doors), counts(4, 0));
    }
}
