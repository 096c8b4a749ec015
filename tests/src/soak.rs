//! Everything at once, for as long as one likes: floods, friends, edits, interfaces, event readers
//! and kills, on two guards at the same time.
//!
//! * [`traffic`]: strangers that never stop and a friend who asks again and again.
//! * [`scene`]: a bed, a guard, and what chance does to it. One scene's daemon is never killed: what
//!   it holds at the end of each round shows whether it leaks. The other's is killed all the time:
//!   what the kernel holds then shows whether deaths leak.
//! * [`sample`]: what is measured at the quiet point behind each round, and what must be equal.
//!
//! Chance follows from a printed seed, but for the moments: the scheduler has a say in these.

mod sample;
mod scene;
mod traffic;

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::bed::{Bed, Objects, until};

pub use sample::{Sample, Thirds};
use scene::Scene;
pub use scene::Tally;

/// Of one round, without the quiet point behind it.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds before the first sample, until everything has been done once; and in a long run, until the
/// allocator of the daemon that is never killed has come to rest: it was seen to grow from 4.7 to
/// 5.2 MB in the first 57 rounds, and then no more.
const WARM_UP: usize = 4;
const WARM_UP_IN_LONG: usize = 60;
/// Rounds that are measured at least.
const FEWEST: usize = 9;
/// How long the kernel may take to let go of what nobody holds any more.
const GONE: Duration = Duration::from_secs(20);
/// How far apart the memory of the first and of the last third may be, in percent, in a run of ten
/// minutes and more; and in a shorter one, which is too short for an allocator to come to rest: there
/// growth of 1.2 to 2.3 % was seen that did not go on.
const TOLERATED: f64 = 2.0;
const TOLERATED_IN_SHORT: f64 = 5.0;
const LONG: Duration = Duration::from_secs(600);
/// Whose memory it is, a scene each.
const OWNERS: [&str; 2] =
    ["the daemon that is never killed", "daemons that are killed, at the same age"];

/// How long, and with which seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What chance follows from.
    pub seed: u64,
    /// Of all rounds together, without the warm-up.
    pub length: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Rounds that were measured.
    pub rounds: usize,
    /// What was done in both scenes, the warm-up included.
    pub tally: Tally,
    /// Memory, by what it is.
    pub memory: Vec<(String, Thirds)>,
    /// What every quiet point had in common, a scene each.
    pub equal: Vec<Sample>,
    /// Whatever was not as it should be.
    pub findings: Vec<String>,
}

/// Plays until the time is over. What is not as it should be is a finding and no error.
///
/// # Errors
///
/// If the beds don't work.
pub fn soak(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let mut ours = Objects::default();
    let mut report = Report::default();
    {
        let beds = [Bed::new()?, Bed::new()?];
        let [first, second] = &beds;
        let mut scenes = [
            Scene::new(first, "kept", false, options.seed)?,
            Scene::new(second, "killed", true, options.seed ^ 0x5eed)?,
        ];
        let mut samples = [Vec::new(), Vec::new()];
        scenes[0].warm_up().context("warming up")?;
        let is_long = options.length >= LONG;
        for number in 0..if is_long { WARM_UP_IN_LONG } else { WARM_UP } {
            play(&mut scenes, &mut ours).with_context(|| format!("warm-up {number}"))?;
        }
        let end = Instant::now() + options.length;
        while report.rounds < FEWEST || Instant::now() < end {
            let taken =
                play(&mut scenes, &mut ours).with_context(|| format!("round {}", report.rounds))?;
            report.rounds += 1;
            for (samples, sample) in samples.iter_mut().zip(taken) {
                samples.push(sample);
            }
            say(&format!("round {}: {}", report.rounds, memory(&samples)));
        }
        for (scene, samples) in scenes.iter().zip(&samples) {
            report.findings.extend(sample::differences(scene.name(), samples));
            report.equal.extend(samples.first().cloned());
        }
        for (whose, samples) in OWNERS.iter().zip(&samples) {
            let thirds = |of: fn(&Sample) -> u64| sample::thirds(samples, of);
            report.memory.push(((*whose).into(), thirds(|sample| sample.anonymous)));
            report.memory.push((format!("maps of {whose}"), thirds(|sample| sample.map_bytes)));
        }
        report.judge_memory(if is_long { TOLERATED } else { TOLERATED_IN_SHORT });
        for scene in scenes {
            let (tally, findings) = scene.end()?;
            report.tally += tally;
            report.findings.extend(findings);
        }
    }
    // Of all that the daemons ever held at a quiet point: others may have objects of their own.
    let left = || -> Result<Objects> { Ok(Objects::now()?.within(&ours)) };
    let is_gone = until("nothing to be left in the kernel", GONE, || {
        left().is_ok_and(|left| left.is_empty())
    });
    if is_gone.is_err() {
        report.findings.push(format!("left in the kernel: {:?}", left()?));
    }
    Ok(report)
}

/// One round of both at the same time, and a sample of each.
fn play(scenes: &mut [Scene<'_>; 2], ours: &mut Objects) -> Result<[Sample; 2]> {
    fn one(scene: &mut Scene<'_>) -> Result<(Sample, Objects)> {
        scene.round(ROUND)?;
        scene.settle()?;
        Ok((scene.sample()?, scene.objects()?))
    }
    let [first, second] = scenes.each_mut();
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| one(first));
        let second = one(second);
        (first.join().unwrap_or_else(|_| Err(anyhow!("a scene panicked"))), second)
    });
    let ((first, held), (second, other)) = (first?, second?);
    for held in [held, other] {
        ours.programs.extend(held.programs);
        ours.maps.extend(held.maps);
        ours.links.extend(held.links);
    }
    Ok([first, second])
}

/// What the daemons of both scenes held last.
fn memory(samples: &[Vec<Sample>; 2]) -> String {
    let held = samples.iter().flat_map(|samples| samples.last());
    let held = held.map(|sample| {
        format!("{} KiB, {} KiB of maps", sample.anonymous / 1024, sample.map_bytes / 1024)
    });
    held.collect::<Vec<_>>().join("; ")
}

impl Report {
    /// Whether everything was as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn judge_memory(&mut self, tolerated: f64) {
        for (what, thirds) in &self.memory {
            if thirds.growth().abs() > tolerated {
                self.findings.push(format!("{what}: {thirds}, more than {tolerated} % apart"));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rounds", self.rounds)?;
        writeln!(f, "{}", self.tally)?;
        for (what, thirds) in &self.memory {
            writeln!(f, "{what}: {thirds}")?;
        }
        for sample in &self.equal {
            writeln!(f, "at every quiet point: {sample}")?;
        }
        for finding in &self.findings {
            writeln!(f, "FOUND: {finding}")?;
        }
        write!(f, "{} findings", self.findings.len())
    }
}
