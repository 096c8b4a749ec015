//! The tests that need root: one row for each program that has any, and one more where its daemons run a second
//! time, as an ordinary user.
//!
//! Most tests wait more than they work, and each has network namespaces, pins and processes of its own: so programs
//! run two at a time, but for those of [`ALONE`]. What a program prints stands together under its heading.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::{self, File},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Context as _;

use super::{
    binaries::{self, TestBinary},
    table::{Table, Verdict},
};
use crate::{
    command::{self, Elevation},
    elsewhere,
    workspace::Workspace,
};

/// Programs that run by themselves, and why.
const ALONE: [(&[&str], &str); 3] = [
    (
        &["faults", "foreign", "inject", "layout", "learn", "lifecycle", "soak"],
        "they count what the whole machine has of programs, maps and links",
    ),
    (&["lpm", "speed"], "they measure time"),
    (
        &[
            "books",
            "container",
            "drift",
            "evasion",
            "expiry",
            "hostile",
            "inner",
            "inner_life",
            "metrics",
            "ordinary",
            "oracle",
            "strangers",
            "traffic",
            "trial",
            "tunnel",
            "watch",
        ],
        "they flood the network, or keep to seconds",
    ),
];

/// Why most of [`ONCE`] run once.
const PACKETS: &str = "it asks about packets, whoever loaded the programs";
/// Test programs that start daemons and need not run twice, and why.
const ONCE: [(&str, &str); 15] = [
    ("books", PACKETS),
    ("documented", "the pages show what root sees"),
    ("evasion", PACKETS),
    ("expiry", "it asks about time, whoever the daemon runs as"),
    ("inject", "the calls that it makes fail are those of root; it passes there, too"),
    ("inner", "it asks about packets; `inner_life` is run by both"),
    ("layout", "it chooses the users itself"),
    ("oracle", PACKETS),
    ("ordinary", PACKETS),
    ("soak", "it leaks or does not, whoever the daemon runs as"),
    ("strangers", PACKETS),
    ("tunnel", PACKETS),
    ("privileges", "it chooses the users itself"),
    ("service", "it chooses the users itself"),
    ("speed", "it measures the machine, whoever the daemon runs as"),
];

/// How many programs run at a time.
const WORKERS: usize = 2;

/// How long one test program may run. The longest takes three minutes; one that hangs is to be a
/// failed row, and not to keep the others from being run.
const LIMIT_SECONDS: u32 = 900;

/// As whom the tests run daemon and command line; they themselves are root.
#[derive(Clone, Copy)]
enum GuardUser {
    Root,
    /// An ordinary user with exactly the three capabilities that are promised to be enough.
    Service,
}

/// A program, and as whom its daemons run.
struct Job<'b> {
    stage: String,
    binary: &'b TestBinary,
    user: GuardUser,
}

/// Runs all of them.
pub fn run(workspace: &Workspace, table: &mut Table) {
    let mut found = Vec::new();
    let listed = table.quiet("privileged tests", || {
        found = binaries::with_ignored_tests(workspace)?;
        // Looked up once: a password may be asked for in between, but never is it given up silently.
        Elevation::detect().require("the privileged tests", "true", &[]).map(drop)
    });
    if !listed {
        return;
    }
    if found.is_empty() {
        table.push("privileged tests", Verdict::Failed("no test is marked as needing root".into()));
    }
    let mut jobs: Vec<_> = found
        .iter()
        .map(|binary| {
            let stage = format!("privileged tests: {}", binary.name);
            Job { stage, binary, user: GuardUser::Root }
        })
        .collect();
    for binary in &found {
        let stage = format!("the same, as a service: {}", binary.name);
        match ONCE.iter().find(|(name, _)| *name == binary.name) {
            Some((_, reason)) => table.left_out(&stage, reason),
            None if !binary.starts_a_daemon() => {}
            None => jobs.push(Job { stage, binary, user: GuardUser::Service }),
        }
    }
    let is_alone =
        |job: &Job<'_>| ALONE.iter().any(|(names, _)| names.contains(&&*job.binary.name));
    let (alone, together): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_alone);
    for job in alone {
        table.run(&job.stage, || {
            let mut command = command(workspace, job.binary, job.user)?;
            command::run(&mut command).with_context(|| format!("tests of {}", job.binary.name))
        });
    }
    run_together(workspace, table, together);
}

/// Runs some at a time, and prints what each has said when it has ended.
fn run_together(workspace: &Workspace, table: &mut Table, jobs: Vec<Job<'_>>) {
    let queue = Mutex::new(VecDeque::from(jobs));
    let table = Mutex::new(table);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(job) = next() {
            let start = Instant::now();
            let (said, result) = run_apart(workspace, &job);
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.ended(&job.stage, &said, result, start.elapsed());
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
}

/// Runs one with its output in a file. Returns what it has said.
fn run_apart(workspace: &Workspace, job: &Job<'_>) -> (String, anyhow::Result<()>) {
    let name = job.stage.replace([':', ' ', ','], "-");
    let path = workspace.target().join("tmp").join(name).with_extension("log");
    let result = (|| {
        fs::create_dir_all(workspace.target().join("tmp"))?;
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut command = command(workspace, job.binary, job.user)?;
        command.stdout(file.try_clone()?).stderr(file);
        command::run(&mut command).with_context(|| format!("tests of {}", job.binary.name))
    })();
    let said = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (said.unwrap_or_default(), result)
}

/// Few threads: the tests measure time and fill the network.
fn command(
    workspace: &Workspace,
    binary: &TestBinary,
    user: GuardUser,
) -> anyhow::Result<std::process::Command> {
    let (guard, object) = (workspace.release_binary("ollama-guard"), workspace.bpf_object());
    let other = elsewhere::other_binary(workspace);
    let user = match user {
        GuardUser::Root => "root",
        GuardUser::Service => "service",
    };
    let env: [(&str, &OsStr); 5] = [
        ("OLLAMA_GUARD_TEST_AS", OsStr::new(user)),
        ("OLLAMA_GUARD_BINARY", guard.as_os_str()),
        ("OLLAMA_GUARD_BPF_OBJECT", object.as_os_str()),
        ("OLLAMA_GUARD_OTHER_LAYOUT", other.as_os_str()),
        ("CARGO_MANIFEST_DIR", binary.package_dir.as_os_str()),
    ];
    let mut command = Elevation::detect().require(&binary.name, "timeout", &env)?;
    // In the foreground: the caller's ^C reaches both.
    command.args(["--foreground", "--kill-after=20", &LIMIT_SECONDS.to_string()]);
    command.arg(&binary.program).args(["--ignored", "--test-threads", "2"]);
    // Where cargo would start it.
    command.current_dir(&binary.package_dir);
    Ok(command)
}
