//! `cargo xtask kernels`: the guard on the kernels of Debian's releases, in an emulator.
//!
//! Each kernel is found and downloaded at run time, booted with the release binary and the test
//! programs in its initramfs, and asked to run them. The oldest is to refuse. Nothing of the system
//! is changed, and no root is needed but for `--record`, which also measures the machine's own
//! kernel.
//!
//! Deliberately not here: what the tests judge. They are the same programs that `cargo xtask test`
//! runs, built with optimisation because the emulator is slow.

mod archive;
mod boot;
mod chosen;
mod guest;
mod packages;
mod report;
mod results;

use std::{
    fs,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};

use self::{
    chosen::{LEFT_OUT, RUN},
    guest::Work,
    packages::Kernel,
    report::Row,
    results::{Step, outcomes},
};
use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    mirror::Mirror,
    setup::{self, Needs},
    test::binaries,
    workspace::Workspace,
};

/// A kernel to boot.
struct Bed {
    /// What it is called on the command line.
    name: &'static str,
    /// The suite that has it.
    suite: &'static str,
    /// What is expected of it.
    expected: Expected,
}

/// What is expected of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The guard works, and passes all tests but these.
    Works(&'static [&'static str]),
    /// The guard refuses to start.
    Refuses,
}

const BEDS: [Bed; 4] = [
    Bed { name: "5.10", suite: "bullseye", expected: Expected::Refuses },
    Bed { name: "6.1", suite: "bookworm", expected: Expected::Works(&NEED_TCX) },
    Bed { name: "6.12", suite: "trixie", expected: Expected::Works(&[]) },
    Bed { name: "newest", suite: "sid", expected: Expected::Works(&[]) },
];

/// Tests about TCX, which Linux has since 6.6. Everything else about a taken XDP slot runs before
/// it, too, with the filter that is used there.
const NEED_TCX: [&str; 2] = [
    "among_other_programs_at_tcx_the_guard_is_the_first",
    "where_no_hook_can_be_had_the_daemon_says_so",
];

/// What the oldest kernel lacks, as the guard says it.
const LACKING: &str = "BPF_PROG_TEST_RUN with ctx_in";

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these kernels; all if empty.
    pub only: Vec<String>,
    /// Write costs and table into the tree.
    pub record: bool,
}

/// Boots the kernels, prints the table, and fails if something in it is wrong.
pub fn kernels(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels and their guests are for x86-64 machines");
    let beds = chosen(&options.only)?;
    let compiler = setup::setup(workspace, Needs::KERNELS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &[])?;
    run(workspace, &beds, options.record)
}

/// As [`kernels`], with everything built and set up.
pub fn all(workspace: &Workspace) -> anyhow::Result<()> {
    run(workspace, &chosen(&[])?, false)
}

fn run(workspace: &Workspace, beds: &[&Bed], record: bool) -> anyhow::Result<()> {
    say_what_is_undecided(workspace)?;
    let programs = binaries::optimised(workspace, &RUN)?;
    let own = if record { own_costs(&programs)? } else { Vec::new() };
    let mirror = Mirror::of_this_machine()?;
    let rows = side_by_side(beds, |bed| {
        let row = one(workspace, bed, &mirror, &programs, record).unwrap_or_else(|error| Row {
            kernel: bed.name.into(),
            suite: bed.suite,
            loads: "not tried".into(),
            problems: vec![format!("{error:#}")],
            ..Row::default()
        });
        for problem in &row.problems {
            say(&format!("{}: {problem}", bed.name));
        }
        row
    });
    println!("\n{}", report::table(&rows));
    let wrong: Vec<&str> =
        rows.iter().filter(|row| !row.problems.is_empty()).map(|row| row.kernel.as_str()).collect();
    ensure!(wrong.is_empty(), "something is wrong on {}; see above", wrong.join(", "));
    if record {
        let costs: Vec<String> =
            rows.iter().flat_map(|row| row.budget.clone()).chain(own).collect();
        report::record(&workspace.root().join("tests/budget.txt"), &costs)?;
        say("wrote tests/budget.txt");
        if rows.len() == BEDS.len() {
            let page = report::page(workspace, &rows)?;
            fs::write(workspace.root().join("ollama-guard/docs/kernels.md"), page)?;
            say("wrote ollama-guard/docs/kernels.md");
        }
    }
    Ok(())
}

/// Does the work for each bed, as many at a time as there are processors: a guest has one, and its
/// clock does not feel the others. The rows are in the order of the beds.
fn side_by_side(beds: &[&Bed], work: impl Fn(&Bed) -> Row + Sync) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bed) = beds.get(position) else { break };
                    let row = work(bed);
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((position, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(position, _)| *position);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Bed>> {
    let known: Vec<&str> = BEDS.iter().map(|bed| bed.name).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("{unknown} is none of the kernels {}", known.join(", "));
    }
    let is_chosen = |bed: &&Bed| only.is_empty() || only.iter().any(|name| name == bed.name);
    Ok(BEDS.iter().filter(is_chosen).collect())
}

/// A test program that is in neither list is named: somebody has to decide.
fn say_what_is_undecided(workspace: &Workspace) -> anyhow::Result<()> {
    let mut undecided = Vec::new();
    for entry in fs::read_dir(workspace.root().join("tests/tests"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        // Only what needs root needs a kernel.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let is_privileged = text.contains("#[ignore = \"needs root");
        let is_left_out = LEFT_OUT.iter().any(|(names, _)| names.contains(&name));
        if is_privileged && !RUN.contains(&name) && !is_left_out {
            undecided.push(name.to_owned());
        }
    }
    undecided.sort();
    for name in undecided {
        say(&format!("NOT RUN: {name}: nobody has said in xtask/src/kernels.rs whether it can"));
    }
    Ok(())
}

/// What the programs cost on this machine's own kernel.
fn own_costs(programs: &[(String, PathBuf)]) -> anyhow::Result<Vec<String>> {
    let (_, program) =
        programs.iter().find(|(name, _)| name == "budget").context("no program `budget`")?;
    let recording = [("OLLAMA_GUARD_RECORD_BUDGET", std::ffi::OsStr::new("1"))];
    let mut command = Elevation::detect().require("measuring this kernel", program, &recording)?;
    let output = command::output(command.args(["--ignored", "--show-output"]))?;
    let costs = results::budget(&output);
    ensure!(!costs.is_empty(), "`budget` printed no costs");
    Ok(costs)
}

/// Fetches, boots and judges one kernel.
fn one(
    workspace: &Workspace,
    bed: &Bed,
    mirror: &Mirror,
    programs: &[(String, PathBuf)],
    record: bool,
) -> anyhow::Result<Row> {
    let directory = workspace.target().join("kernels").join(bed.suite);
    let kernel = packages::fetch(mirror, bed.suite, &directory)?;
    say(&format!("{}: {} ({})", bed.name, kernel.release, kernel.fetched));
    let work = match bed.expected {
        Expected::Works(without) => Work::Tests { programs, record, without },
        Expected::Refuses => Work::Refusal,
    };
    let archive = directory.join("initramfs.cpio");
    let start = Instant::now();
    guest::build(&kernel, &workspace.release_binary("ollama-guard"), &work, &archive)?;
    let megabytes = fs::metadata(&archive)?.len() as f64 / 1e6;
    say(&format!(
        "{}: initramfs of {megabytes:.0} MB, {:.1} s; booting, see {}",
        bed.name,
        start.elapsed().as_secs_f64(),
        directory.join("results.log").display()
    ));
    let said = boot::boot(&kernel.image, &archive, &directory)?;
    let steps = results::steps(&said.results);
    let mut row =
        Row { kernel: kernel.release.clone(), suite: bed.suite, wall: said.wall, ..Row::default() };
    if steps.last().is_none_or(|step| step.name != "poweroff") {
        let last = said.console.lines().rev().take(12).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        row.problems.push(format!("the guest did not come to its end:\n{last}"));
    }
    match bed.expected {
        Expected::Works(without) => {
            row.without = without;
            judge_tests(&steps, programs, &mut row);
        }
        Expected::Refuses => judge_refusal(&steps, &kernel, &mut row),
    }
    say(&format!("{}: {:.0} s", bed.name, row.wall.as_secs_f64()));
    Ok(row)
}

fn judge_tests(steps: &[Step], programs: &[(String, PathBuf)], row: &mut Row) {
    let mut largest = false;
    for (name, _) in programs {
        let Some(step) = steps.iter().find(|step| step.name == *name) else {
            row.problems.push(format!("{name} was not run"));
            continue;
        };
        let (passed, failed) = outcomes(&step.output);
        if step.status != Some(0) || !failed.is_empty() || passed.is_empty() {
            row.problems.push(format!(
                "{name}: status {:?}, failed: {}\n{}",
                step.status,
                failed.join(", "),
                step.output
            ));
        }
        largest |= passed.contains(&"the_largest_configuration_is_taken");
        row.budget.extend(results::budget(&step.output));
        row.packets.extend(results::packets(&step.output));
        row.tests.push((name.clone(), passed.len(), passed.len() + failed.len(), step.seconds));
    }
    let count = row.budget.len();
    row.loads = match (count, largest) {
        (0, _) => "no".into(),
        (_, true) => format!("{count} programs, the largest configuration"),
        (_, false) => format!("{count} programs"),
    };
    if !largest {
        row.problems.push("the largest configuration was not loaded".into());
    }
    for needed in ["usual", "one-buffer", "cut", "tc"] {
        if !row.packets.contains_key(needed) {
            row.problems.push(format!("the packet table did not run: {needed}"));
        }
    }
}

/// The kernel is to be refused by the name of what it lacks, and nothing is to be left in it.
fn judge_refusal(steps: &[Step], kernel: &Kernel, row: &mut Row) {
    let step = |name: &str| steps.iter().find(|step| step.name == name);
    row.loads = match step("refusal") {
        Some(step) if step.status == Some(2) && step.output.contains(LACKING) => {
            if !step.output.contains(&kernel.release) {
                row.problems.push(format!("the refusal does not name the kernel: {}", step.output));
            }
            format!("refused: no {LACKING}")
        }
        other => {
            row.problems.push(format!("no refusal that names what is missing: {other:?}"));
            "not refused".into()
        }
    };
    match step("left") {
        Some(step) if step.status == Some(0) && !step.output.contains("og_") => {
            // systemd is not there to load programs of its own: nothing at all may be listed.
            if !step.output.trim().is_empty() {
                row.problems.push(format!("left behind by the refusal: {}", step.output));
            }
        }
        other => row.problems.push(format!("not known what the refusal left behind: {other:?}")),
    }
}

fn say(text: &str) {
    use std::io::Write as _;
    println!("kernels: {text}");
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, status: i32, output: &str) -> Step {
        Step { name: name.into(), status: Some(status), seconds: 1.0, output: output.into() }
    }

    fn old_kernel() -> Kernel {
        Kernel {
            release: "5.10.0-32".into(),
            image: PathBuf::new(),
            modules: PathBuf::new(),
            fetched: String::new(),
        }
    }

    fn refusal(steps: &[Step]) -> Vec<String> {
        let mut row = Row::default();
        judge_refusal(steps, &old_kernel(), &mut row);
        row.problems
    }

    #[test]
    fn a_refusal_names_the_feature_and_the_kernel_and_leaves_nothing() {
        let said = format!("ollama-guard: this kernel (5.10.0-32) has no {LACKING}\n");
        let good = [step("refusal", 2, &said), step("left", 0, "\n")];
        assert_eq!(refusal(&good), [""; 0]);
        for bad in [
            [step("refusal", 0, &said), step("left", 0, "")],
            [step("refusal", 2, "this kernel (5.10.0-32) is too old"), step("left", 0, "")],
            [step("refusal", 2, &format!("no {LACKING}")), step("left", 0, "")],
            [step("refusal", 2, &said), step("left", 0, "7: xdp  name og_link")],
            [step("refusal", 2, &said), step("left", 1, "")],
        ] {
            assert_eq!(refusal(&bad).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn a_test_that_failed_or_did_not_run_is_a_problem() {
        let programs = [("budget".to_owned(), PathBuf::new()), ("kernel".into(), PathBuf::new())];
        let budget =
            "test the_largest_configuration_is_taken ... ok\nbudget: 6.1 usual/link 1 2 3\n";
        let packets = |name: &str| {
            format!(
                "packets: {name}: 7 in the kernel, on the host 0 under 14 bytes, 0 with a short \
                 linear part, 0 over a page, 0 with a cut IP header\n"
            )
        };
        let table =
            "test table ... ok\n".to_owned() + &["usual", "one-buffer", "tc"].map(packets).concat();
        let problems = |kernel: Step| {
            let mut row = Row::default();
            judge_tests(&[step("budget", 0, budget), kernel], &programs, &mut row);
            row.problems
        };
        let good = table.clone() + &packets("cut");
        assert_eq!(problems(step("kernel", 0, &good)), [""; 0]);
        assert_eq!(problems(step("kernel", 0, &table)).len(), 1, "no cuts");
        assert_eq!(problems(step("kernel", 101, &good)).len(), 1, "a bad end");
        assert_eq!(problems(step("other", 0, &good)).len(), 5, "not run");
    }

    #[test]
    fn only_kernels_that_there_are_can_be_chosen() {
        assert_eq!(chosen(&[]).map_or(0, |beds| beds.len()), BEDS.len());
        assert!(chosen(&["6.1".into()]).is_ok_and(|beds| beds.len() == 1));
        assert!(chosen(&["6.2".into()]).is_err());
    }
}
