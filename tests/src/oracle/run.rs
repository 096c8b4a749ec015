//! A run: batches until there is enough, and a report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use super::{
    case::Case,
    fixture,
    generator::Generator,
    lab::Lab,
    trial::{Outcome, ROLES, Trial},
    verdict::Finding,
};

/// Cases that go through the servers together.
const BATCH: usize = 500;
/// How often a finding that is no hole has to be found before it is believed.
const TIMES: usize = 3;
/// Between two times: longer than half-open connections and fragments are remembered.
const FORGETTING: Duration = Duration::from_millis(2_500);
/// Findings that are shown; the run ends when there are so many.
const ENOUGH: usize = 20;

/// How long to go on.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// At least this many frames.
    pub frames: usize,
    /// At least this long.
    pub seconds: u64,
    /// Where findings are kept.
    pub keep: PathBuf,
}

/// A seed that no run has had before, as far as a clock can tell.
#[must_use]
pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    super::dice::Dice::new(now.as_nanos() as u64 ^ u64::from(std::process::id())).roll()
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    cases: usize,
    total: Outcome,
    repeated: usize,
    elapsed: Duration,
    tally: BTreeMap<&'static str, u64>,
    kept: Vec<String>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.total.findings.is_empty()
    }

    /// Frames that were sent, not counting the copies for the other servers.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.total.frames
    }

    /// Knocks of sources that are not allowed, which the server without a guard answered.
    #[must_use]
    pub const fn knocks(&self) -> usize {
        self.total.knocks
    }

    /// Connections that guarded servers served to the end.
    #[must_use]
    pub const fn served(&self) -> usize {
        self.total.served
    }
}

/// Runs until there are enough frames and enough time has passed.
///
/// # Errors
///
/// If the lab fails. What was found is no error: it is in the report.
pub fn run(options: &Options) -> Result<Report> {
    let begin = Instant::now();
    let lab = Lab::new(&ROLES)?;
    let mut trial = Trial::new(&lab)?;
    let mut generator = Generator::new(options.seed);
    let mut report = Report {
        seed: options.seed,
        cases: 0,
        total: Outcome::default(),
        repeated: 0,
        elapsed: Duration::ZERO,
        tally: BTreeMap::new(),
        kept: Vec::new(),
    };
    while report.total.frames < options.frames || begin.elapsed().as_secs() < options.seconds {
        let cases: Vec<Case> = (0..BATCH).map(|_| generator.next_case()).collect();
        report.cases += cases.len();
        let outcome = trial.run(&cases)?;
        report.add(outcome, &mut trial, &cases)?;
        if report.total.findings.len() >= ENOUGH {
            break;
        }
    }
    // A case is kept once, with the worst that it showed.
    report.total.findings.sort_by_key(|finding| !finding.is_hole);
    let mut kept = BTreeSet::new();
    for finding in &report.total.findings {
        if finding.case.as_ref().is_some_and(|case| kept.insert(case.number)) {
            report.kept.extend(fixture::keep(&options.keep, options.seed, finding)?);
        }
    }
    report.tally = generator.tally;
    report.elapsed = begin.elapsed();
    Ok(report)
}

/// Runs some cases, each by itself in a batch with all others.
///
/// # Errors
///
/// If the lab fails.
pub fn replay(cases: &[Case]) -> Result<Vec<Finding>> {
    let lab = Lab::new(&ROLES)?;
    let mut trial = Trial::new(&lab)?;
    let outcome = trial.run(cases)?;
    confirmed(outcome.findings, &mut trial, cases).map(|(findings, _)| findings)
}

impl Report {
    fn add(&mut self, outcome: Outcome, trial: &mut Trial<'_>, cases: &[Case]) -> Result<()> {
        let total = &mut self.total;
        total.frames += outcome.frames;
        total.answered += outcome.answered;
        total.knocks += outcome.knocks;
        total.doubtful += outcome.doubtful;
        total.wild += outcome.wild;
        total.served += outcome.served;
        for (reason, count) in outcome.reasons {
            *total.reasons.entry(reason).or_default() += count;
        }
        let (findings, repeated) = confirmed(outcome.findings, trial, cases)?;
        self.total.findings.extend(findings);
        self.repeated += repeated;
        Ok(())
    }
}

/// Holes, and what else is found each time that it is looked at. A busy machine loses a frame now
/// and then; nobody gets an answer by accident.
fn confirmed(
    mut findings: Vec<Finding>,
    trial: &mut Trial<'_>,
    cases: &[Case],
) -> Result<(Vec<Finding>, usize)> {
    let (mut sure, mut repeated) = (Vec::new(), 0);
    for _ in 1..TIMES {
        sure.extend(findings.extract_if(.., |finding| finding.is_hole));
        if findings.is_empty() {
            return Ok((sure, repeated));
        }
        repeated += 1;
        std::thread::sleep(FORGETTING);
        // Sums are of all cases; anything else is of its own.
        let needs_all = findings.iter().any(|finding| finding.case.is_none());
        let suspects: Vec<Case> = cases
            .iter()
            .filter(|case| needs_all || findings.iter().any(|f| f.case.as_ref() == Some(case)))
            .cloned()
            .collect();
        let again = trial.run(&suspects)?.findings;
        let is_same = |a: &Finding, b: &Finding| a.server == b.server && a.case == b.case;
        findings = again
            .into_iter()
            .filter(|now| now.is_hole || findings.iter().any(|before| is_same(before, now)))
            .collect();
    }
    sure.extend(findings);
    Ok((sure, repeated))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { frames, answered, knocks, doubtful, wild, served, .. } = self.total;
        let share = |part: usize| 100.0 * part as f64 / self.cases.max(1) as f64;
        writeln!(
            f,
            "oracle: seed {:#018x}, {frames} frames in {} cases, {:.1} s",
            self.seed,
            self.cases,
            self.elapsed.as_secs_f64()
        )?;
        writeln!(f, "  answered without a guard: {answered} ({:.1} %)", share(answered))?;
        writeln!(f, "  of these forbidden knocks at a guarded port: {knocks}")?;
        writeln!(f, "  connections served to the end behind a guard: {served}")?;
        writeln!(f, "  undecidable or always dropped: {doubtful} ({:.1} %)", share(doubtful))?;
        writeln!(f, "  changed at random: {wild} ({:.1} %)", share(wild))?;
        writeln!(f, "  batches looked at again: {}", self.repeated)?;
        writeln!(f, "  frames by reason:")?;
        for (reason, count) in &self.total.reasons {
            writeln!(f, "    {count:8}  {reason}")?;
        }
        writeln!(f, "  cases by what is in them:")?;
        for (note, count) in &self.tally {
            writeln!(f, "    {count:8}  {note}")?;
        }
        for finding in self.total.findings.iter().take(ENOUGH) {
            let hole = if finding.is_hole { "HOLE: " } else { "" };
            writeln!(f, "\n{hole}{}: {}", finding.server, finding.what)?;
            if let Some(case) = &finding.case {
                writeln!(f, "  {}", case.name())?;
            }
        }
        if !self.kept.is_empty() {
            writeln!(f, "\nkept: {}", self.kept.join(", "))?;
        }
        let verdict = if self.is_clean() { "nothing was found" } else { "the guard is wrong" };
        write!(f, "oracle: {verdict}; the same again: --seed {:#x}", self.seed)
    }
}
