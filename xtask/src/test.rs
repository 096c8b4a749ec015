//! `cargo xtask test`: everything that CI runs, and a table of what became of it.
//!
//! Nothing is left out silently: what cannot run is a failure or a line of the table with the
//! reason, and a stage that was left out for want of an earlier one makes the whole fail. Every
//! test runs once: those that need root are marked `#[ignore = "needs root: cargo xtask test"]`,
//! so that the ordinary run of cargo leaves them out, and are then run from their finished
//! programs, because cargo as root would leave root's files in `target/`. Of these, the programs that
//! start daemons run a second time, with the daemons as an ordinary user.

pub mod binaries;
mod privileged;
mod table;

use anyhow::bail;

use self::table::Table;
use crate::{
    bench,
    build::{self, Profile},
    command,
    compiler::KernelCompiler,
    demo, elsewhere, image, kernels, lint, package_test, processors,
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
        table.run("the same programs on other processors", || {
            processors::check(workspace, &compiler)
        });
    } else {
        table.blocked("the same object elsewhere", "there is no object to compare with");
        table
            .blocked("the same programs on other processors", "there is no object to compare with");
    }
    if quick {
        table.left_out("package", "--quick");
        table.left_out("image", "--quick");
        table.left_out("privileged tests", "--quick");
        table.left_out("bench --quick", "--quick");
        table.left_out("demo", "--quick");
    } else if built {
        table.run("package", || package_test::check(workspace).map(drop));
        // The tests that need it say so.
        table.run("image", || image::check(workspace).map(drop));
        // Not a reason to leave the tests out: those that need it say so.
        table.run("another layout version", || elsewhere::other_layout(workspace, &compiler));
        privileged::run(workspace, &mut table);
        table.run("bench --quick", || bench::quick(workspace, &compiler));
        table.run("demo", || {
            // Built with the tests.
            let demo = workspace.debug_binary("demo");
            command::run(&mut demo::program(workspace, &demo)?)
        });
    } else {
        table.blocked("package", "nothing was built to pack");
        table.blocked("image", "nothing was built to pack");
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
