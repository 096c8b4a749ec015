//! `cargo xtask test`: everything that CI runs, and a table of what became of it.
//!
//! Nothing is left out silently: what cannot run is a failure or a line of the table with the
//! reason, and a stage that was left out for want of an earlier one makes the whole fail. Every
//! test runs once: those that need root are marked `#[ignore = "needs root: cargo xtask test"]`,
//! so that the ordinary run of cargo leaves them out, and are then run from their finished
//! programs, because cargo as root would leave root's files in `target/`. Of these, the programs that
//! start daemons run a second time, with the daemons as an ordinary user.

pub mod binaries;
mod table;

use std::ffi::OsStr;

use anyhow::{Context as _, bail};

use self::{
    binaries::TestBinary,
    table::{Table, Verdict},
};
use crate::{
    bench,
    build::{self, Profile},
    command::{self, Elevation},
    compiler::KernelCompiler,
    demo, elsewhere, kernels, lint, package_test,
    setup::{self, Needs},
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What needs no root.
    Quick,
    /// What CI runs.
    Usual,
    /// Also what takes long or downloads.
    All,
}

/// Runs everything of this extent.
pub fn test(workspace: &Workspace, extent: Extent) -> anyhow::Result<()> {
    let quick = extent == Extent::Quick;
    let needs = match extent {
        Extent::Quick => Needs::LINT,
        Extent::Usual => Needs::TESTS,
        Extent::All => Needs::ALL,
    };
    let compiler = setup::setup(workspace, needs)?;
    let mut table = Table::default();
    lint_stage(workspace, &compiler, &mut table);
    let kernel = table.run("kernel build", || build::kernel_side(workspace, &compiler));
    let built = if kernel {
        table.run("user build", || build::user_side(workspace, Profile::Release, &[]))
    } else {
        table.blocked("user build", "the kernel build failed")
    };
    table.run("unprivileged tests", || unprivileged(workspace));
    if built {
        table.run("the same object elsewhere", || elsewhere::same_object(workspace, &compiler));
    } else {
        table.blocked("the same object elsewhere", "there is no object to compare with");
    }
    if quick {
        table.left_out("package", "--quick");
        table.left_out("privileged tests", "--quick");
        table.left_out("bench --quick", "--quick");
        table.left_out("demo", "--quick");
    } else if built {
        table.run("package", || package_test::check(workspace).map(drop));
        // Not a reason to leave the tests out: those that need it say so.
        table.run("another layout version", || elsewhere::other_layout(workspace, &compiler));
        privileged(workspace, &mut table);
        table.run("bench --quick", || bench::quick(workspace, &compiler));
        table.run("demo", || {
            // Built with the tests.
            let demo = workspace.debug_binary("demo");
            command::run(&mut demo::program(workspace, &demo)?)
        });
    } else {
        table.blocked("package", "nothing was built to pack");
        table.blocked("privileged tests", "nothing was built to test");
        table.blocked("bench --quick", "nothing was built to measure");
        table.blocked("demo", "nothing was built to show");
    }
    if extent == Extent::All {
        if built {
            table.run("kernels", || kernels::all(workspace));
            table.run("package in machines", || package_test::package_test(workspace));
        } else {
            table.blocked("kernels", "nothing was built to boot");
            table.blocked("package in machines", "nothing was built to pack");
        }
    }
    println!("\n{table}");
    if table.is_good() { Ok(()) } else { bail!("not everything passed; see the table above") }
}

fn lint_stage(workspace: &Workspace, compiler: &KernelCompiler, table: &mut Table) {
    let mut skipped = Vec::new();
    table.run("lint", || {
        let outcome = lint::check(workspace, compiler);
        skipped = outcome.skipped;
        if outcome.failed.is_empty() { Ok(()) } else { bail!("{}", outcome.failed.join(", ")) }
    });
    for part in skipped {
        table.left_out("lint", &part);
    }
}

/// All tests that are not marked as needing root, as the caller.
fn unprivileged(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo("test");
    command::run(cargo.args(["--workspace", "--exclude", KERNEL_PACKAGE, "--no-fail-fast"]))
}

/// All tests that are marked as needing root: one row for each program that has any.
fn privileged(workspace: &Workspace, table: &mut Table) {
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
    for binary in &found {
        let stage = format!("privileged tests: {}", binary.name);
        table.run(&stage, || run_as_root(workspace, binary, GuardUser::Root));
    }
    for binary in &found {
        let stage = format!("the same, as a service: {}", binary.name);
        match ONCE.iter().find(|(name, _)| *name == binary.name) {
            Some((_, reason)) => table.left_out(&stage, reason),
            None if !binary.starts_a_daemon() => {}
            None => _ = table.run(&stage, || run_as_root(workspace, binary, GuardUser::Service)),
        }
    }
}

/// As whom the tests run daemon and command line; they themselves are root.
#[derive(Clone, Copy)]
enum GuardUser {
    Root,
    /// An ordinary user with exactly the three capabilities that are promised to be enough.
    Service,
}

/// Test programs that start daemons and need not run twice, and why.
const ONCE: [(&str, &str); 8] = [
    ("inject", "the calls that it makes fail are those of root; it passes there, too"),
    ("layout", "it chooses the users itself"),
    ("oracle", "it asks about packets, whoever loaded the programs"),
    ("soak", "it leaks or does not, whoever the daemon runs as"),
    ("strangers", "it asks about packets, whoever loaded the programs"),
    ("privileges", "it chooses the users itself"),
    ("service", "it chooses the users itself"),
    ("speed", "it measures the machine, whoever the daemon runs as"),
];

/// How long one test program may run. The longest takes three minutes; one that hangs is to be a
/// failed row, and not to keep the others from being run.
const LIMIT_SECONDS: u32 = 600;

/// One program at a time and few threads: the tests measure time and fill the network.
fn run_as_root(workspace: &Workspace, binary: &TestBinary, user: GuardUser) -> anyhow::Result<()> {
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
    command::run(&mut command).with_context(|| format!("tests of {}", binary.name))
}
