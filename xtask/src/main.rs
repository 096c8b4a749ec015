//! The verbs of the `ollama-guard` work tree, one file each: `cargo xtask VERB`.
//!
//! CI, the README and people call these verbs and nothing else. Two rules keep them usable as the
//! first command on a fresh machine: this crate builds on plain stable Rust with nothing
//! installed, and every verb that needs more calls [`setup`] itself.
//!
//! Nothing here runs as root but what must: packages, mounts, and the programs that touch the
//! network. Compilers always run as the caller, so that `target/` stays the caller's own.

mod bench;
mod build;
mod cluster;
mod command;
mod compiler;
mod demo;
mod dist;
mod elsewhere;
mod faults;
mod fuzz;
mod image;
mod kernels;
mod lint;
mod manifests;
mod mirror;
mod package_test;
mod picture;
mod podman;
mod processors;
mod recorded;
mod run;
mod setup;
mod soak;
mod suite;
mod test;
mod workspace;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{build::Profile, fuzz::Fuzz, setup::Needs, test::Extent, workspace::Workspace};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, runs and tests ollama-guard"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what the kernel side needs (the other verbs call this themselves)
    Setup {
        /// Also what the tests and the demo need: network tools and a mounted bpffs
        #[arg(long)]
        tests: bool,
    },
    /// Build the kernel program, then the user side with the program embedded
    Build {
        /// Build the user side optimised (the default)
        #[arg(long, conflicts_with = "debug")]
        release: bool,
        /// Build the user side unoptimised; the kernel program is always optimised
        #[arg(long)]
        debug: bool,
    },
    /// Build, then run the daemon on this host's real interfaces (as root, by sudo if need be)
    Run {
        /// Passed on exactly to `ollama-guard run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build a release: program, archive, Debian package, hashes and bill of materials, in target/dist
    Dist,
    /// Build the container image: one static program, as an OCI archive in target/dist
    Image {
        /// For tests: a program that shares its dependencies with the one of `build`, and no release
        #[arg(long)]
        quick: bool,
    },
    /// Write the parts of the Kubernetes manifests that are made of other files
    Manifests,
    /// The Debian package in real Debians: installed, upgraded, rebooted, removed; and a release twice
    PackageTest {
        /// Only look at the package, without installing it
        #[arg(long)]
        quick: bool,
    },
    /// The chart in a real Kubernetes, built once of Debian's sources: a quarter of an hour, 400 MB
    Cluster(cluster::Options),
    /// Build, then show the guard at work in network namespaces of its own; under a minute
    Demo,
    /// Make every system call of the guard fail, and write the table of docs/faults.md (an hour)
    Faults {
        /// Only this phase; may be repeated
        #[arg(long = "phase", value_name = "NAME")]
        phases: Vec<String>,
        /// Beds at the same time
        #[arg(long, default_value_t = 3)]
        workers: usize,
    },
    /// Search for packets that nobody has thought of
    Fuzz {
        #[command(subcommand)]
        what: Fuzz,
    },
    /// Format, clippy for both sides, and the rules of the house
    Lint,
    /// Draw the picture of `top` in the documentation anew, and the screens that tests compare with
    Picture,
    /// Everything CI runs: lint, builds, unprivileged tests, privileged tests, the demo
    Test {
        /// Leave out what needs root: the privileged tests and the demo
        #[arg(long, conflicts_with = "all")]
        quick: bool,
        /// Also what takes long or downloads: every kernel
        #[arg(long)]
        all: bool,
    },
    /// Measure what the guard costs, beside bare XDP, nftables, ipset and LPM tries
    Bench(bench::Extent),
    /// Everything at once, for minutes: floods, edits, interfaces, event readers and kills
    Soak(soak::Limits),
    /// Run the packet table and the life cycle on Debian's kernels, emulated: downloads, minutes
    Kernels {
        /// Only this one: 5.10, 6.1, 6.12 or newest (may be repeated)
        #[arg(long, value_name = "KERNEL")]
        only: Vec<String>,
        /// Put what the programs cost into tests/budget.txt, and the table into the documentation
        #[arg(long)]
        record: bool,
    },
}

fn main() -> ExitCode {
    let Arguments { verb } = Arguments::parse();
    match dispatch(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if even the error cannot be written.
            let _ = writeln!(io::stderr(), "\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup { tests } => {
            let needs = if tests { Needs::TESTS } else { Needs::LINT };
            setup::setup(&workspace, needs).map(drop)
        }
        Verb::Build { release: _, debug } => {
            let profile = if debug { Profile::Debug } else { Profile::Release };
            build::build(&workspace, profile)
        }
        Verb::Run { args } => run::run(&workspace, &args),
        Verb::Dist => dist::dist(&workspace),
        Verb::Image { quick } => image::image(&workspace, quick),
        Verb::Manifests => manifests::manifests(&workspace),
        Verb::PackageTest { quick: true } => {
            build::build(&workspace, Profile::Release)?;
            package_test::check(&workspace).map(drop)
        }
        Verb::PackageTest { quick: false } => package_test::package_test(&workspace),
        Verb::Cluster(options) => cluster::cluster(&workspace, &options),
        Verb::Demo => demo::demo(&workspace),
        Verb::Faults { phases, workers } => faults::faults(&workspace, &phases, workers),
        Verb::Fuzz { what } => fuzz::fuzz(&workspace, &what),
        Verb::Bench(extent) => bench::bench(&workspace, &extent),
        Verb::Soak(limits) => soak::soak(&workspace, &limits),
        Verb::Lint => lint::lint(&workspace),
        Verb::Picture => picture::picture(&workspace),
        Verb::Test { quick, all } => {
            let extent = match (quick, all) {
                (true, _) => Extent::Quick,
                (_, true) => Extent::All,
                _ => Extent::Usual,
            };
            test::test(&workspace, extent)
        }
        Verb::Kernels { only, record } => {
            kernels::kernels(&workspace, &kernels::Options { only, record })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_run_is_passed_on_exactly() {
        let words = ["--interface", "a b", "--help", "--", "--x", ""];
        let line = ["cargo xtask", "run", "--"].into_iter().chain(words);
        let Verb::Run { args } = Arguments::parse_from(line).verb else { panic!("not run") };
        assert_eq!(args, words);
    }
}
