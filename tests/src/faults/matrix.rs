//! All cases: phase, call, position and fault, and the table that comes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow};
use nix::errno::Errno;

use super::{Fault, Outcome, Phase, Stage, Target, phase::Player};
use crate::bed::Bed;

/// The errors that every call is made to fail with.
const ERRORS: [Errno; 7] = [
    Errno::EINVAL,
    Errno::ENOSPC,
    Errno::EPERM,
    Errno::ENOMEM,
    Errno::EBUSY,
    Errno::E2BIG,
    Errno::ENOENT,
];

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub phase: Phase,
    /// Which call fails.
    pub target: Target,
    /// How often that kind of call is made without a fault.
    pub of: usize,
    /// How.
    pub fault: Fault,
}

/// Takes a line about what happens.
pub type Say = dyn Fn(&str) + Sync;

/// Which of the cases to run.
#[derive(Clone, Copy, Debug)]
pub enum Selection {
    /// Every kind of call, at its first, its middle and its last position, with every fault.
    All,
    /// So many kinds of calls of each phase at most, evenly spread, each once; the seed chooses
    /// which, and fault and position of each.
    Sample {
        /// Chooses.
        seed: u64,
        /// Cases of a phase.
        most: usize,
    },
}

/// What came of the cases.
#[derive(Debug, Default)]
pub struct Matrix {
    /// Calls by phase and kind, without a fault.
    pub calls: BTreeMap<Phase, BTreeMap<String, usize>>,
    /// What came of each case.
    pub outcomes: Vec<(Case, Outcome)>,
    /// Cases that came out wrong.
    pub defects: Vec<(Case, String)>,
    /// What refusals said.
    pub words: BTreeSet<String>,
}

/// The positions of a call that is made so often.
fn positions(count: usize) -> BTreeSet<usize> {
    BTreeSet::from([0, count / 2, count.saturating_sub(1)])
}

fn faults() -> impl Iterator<Item = Fault> {
    ERRORS.into_iter().map(Fault::Error).chain([Fault::Kill])
}

impl Matrix {
    /// Plays phases, `workers` stages at the same time, and says what happens.
    ///
    /// # Errors
    ///
    /// If a bed can't be made, or a phase does not even succeed without a fault. Defects are no
    /// errors here.
    pub fn play(phases: &[Phase], selection: Selection, workers: usize, say: &Say) -> Result<Self> {
        let matrix = Mutex::new(Self::default());
        for &phase in phases {
            let bed = Bed::new()?;
            let mut stage = Stage::new(&bed)?;
            let calls = Player::new(&mut stage, phase).calls()?;
            drop(stage);
            let cases = selection.cases(phase, &calls);
            say(&format!("{phase}: {} kinds of calls, {} cases", calls.len(), cases.len()));
            locked(&matrix).calls.insert(phase, calls);
            let next = Mutex::new(cases.into_iter());
            let outcomes: Vec<Result<()>> = thread::scope(|scope| {
                let running: Vec<_> = (0..workers)
                    .map(|_| scope.spawn(|| work(phase, &next, &matrix, say)))
                    .collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?)
                    .collect()
            });
            outcomes.into_iter().collect::<Result<()>>()?;
        }
        Ok(matrix.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The table: a row for each kind of call, a column for each fault, in each cell the letters
    /// of what came of it at first, middle and last.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (phase, calls) in &self.calls {
            let _ = writeln!(text, "\n### {phase}\n");
            let names: Vec<_> = faults().map(name).collect();
            let _ = writeln!(text, "| call | made | {} |", names.join(" | "));
            let _ = writeln!(text, "| --- | ---: |{}", " --- |".repeat(names.len()));
            for (call, count) in calls {
                let _ = write!(text, "| {call} | {count} |");
                for fault in faults() {
                    let letters: BTreeSet<_> = self
                        .outcomes
                        .iter()
                        .filter(|(case, _)| {
                            case.phase == *phase && case.target.call == *call && case.fault == fault
                        })
                        .map(|(_, outcome)| outcome.letter())
                        .collect();
                    let letters: Vec<_> = letters.into_iter().collect();
                    let _ = write!(text, " {} |", letters.join("/"));
                }
                text.push('\n');
            }
        }
        text
    }
}

/// The name of a fault in the table.
fn name(fault: Fault) -> String {
    match fault {
        Fault::Error(errno) => format!("{errno:?}"),
        Fault::Kill => "kill -9".into(),
    }
}

impl Selection {
    fn cases(self, phase: Phase, calls: &BTreeMap<String, usize>) -> Vec<Case> {
        let case = |call: &String, of, position, fault| {
            let target = Target { call: call.clone(), position };
            Case { phase, target, of, fault }
        };
        match self {
            Self::All => calls
                .iter()
                .flat_map(|(call, &count)| {
                    positions(count)
                        .into_iter()
                        .flat_map(move |position| faults().map(move |fault| (position, fault)))
                        .map(move |(position, fault)| case(call, count, position, fault))
                })
                .collect(),
            Self::Sample { seed, most } => {
                let chosen = most.min(calls.len());
                let all: Vec<_> = calls.iter().collect();
                (0..chosen)
                    .filter_map(|number| {
                        let draw = seed.wrapping_add(number as u64);
                        let place = (number * all.len() / chosen + seed as usize) % all.len();
                        let (call, &count) = *all.get(place)?;
                        let fault = faults().nth(draw as usize % (ERRORS.len() + 1))?;
                        let positions: Vec<_> = positions(count).into_iter().collect();
                        let position = positions.get((draw / 8) as usize % positions.len())?;
                        Some(case(call, count, *position, fault))
                    })
                    .collect()
            }
        }
    }
}

fn work(
    phase: Phase,
    next: &Mutex<std::vec::IntoIter<Case>>,
    matrix: &Mutex<Matrix>,
    say: &Say,
) -> Result<()> {
    let bed = Bed::new()?;
    let mut stage = Stage::new(&bed)?;
    let mut player = Player::new(&mut stage, phase);
    loop {
        let Some(case) = locked(next).next() else { break };
        let begin = Instant::now();
        let played = player.play(&case.target, case.fault);
        let took = begin.elapsed();
        match played {
            Ok(outcome) => {
                say(&format!("{case}: {outcome:?}, {took:.1?}"));
                locked(matrix).outcomes.push((case, outcome));
            }
            Err(error) => {
                say(&format!("DEFECT {case}: {error:#}"));
                locked(matrix).defects.push((case, format!("{error:#}")));
            }
        }
    }
    locked(matrix).words.extend(std::mem::take(&mut player.words));
    Ok(())
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, target, of, fault } = self;
        let (call, position) = (&target.call, target.position + 1);
        write!(f, "{phase}: {call} ({position} of {of}): {}", name(*fault))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
