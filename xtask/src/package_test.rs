//! `cargo xtask package-test`: the Debian package, as a machine of its own gets it.
//!
//! Two parts. [`check`] looks at the package without installing it, in seconds: what is in it, what Debian's
//! own checker says, and the unit. The other one installs, upgrades, reboots, removes and purges it in a real
//! Debian that a real systemd boots, with servers and strangers around (the program `package` of the tests),
//! and builds the release twice to see that it is the same. The Debians are made once, by debootstrap, and
//! kept in `target/package-test`.

mod contents;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    dist::{self, Extent, Stamp},
    setup::{
        self, Needs,
        tools::{self, CARGO_DEB, ensure_package},
    },
    workspace::Workspace,
};

/// The Debians it is tried in: the oldest whose systemd is supported, and the newest release.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// What is in them beside the essential: what every Debian server has.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,iproute2,procps,init-system-helpers,usr-is-merged";
/// The unit's exposure in tenths, by systemd's own measure, must stay below.
const EXPOSURE: &str = "20";

/// Everything.
pub fn package_test(workspace: &Workspace) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    build::both_sides(workspace, &compiler, Profile::Release, &["package"])?;
    let package = check(workspace)?;
    for suite in SUITES {
        machine(workspace, &package, suite).with_context(|| format!("in Debian {suite}"))?;
    }
    dist::same_elsewhere(workspace, &compiler)
}

/// Packs what was built last, and looks at it. Returns the package.
pub fn check(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    ensure_package("lintian", "lintian", "what Debian says of the package")?;
    ensure_package("systemd-analyze", "systemd", "what systemd says of the unit")?;
    let cargo_deb = tools::ensure(workspace, &CARGO_DEB)?;
    let stamp = Stamp::of(workspace)?;
    dist::pages(workspace, &stamp)?;
    let package = dist::deb(workspace, &cargo_deb, &workspace.target(), &stamp, Extent::Check)?;
    contents::check(&package)?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--tag-display-limit", "0"]).arg(&package);
    command::run(&mut lintian).context("Debian's checker has found something")?;
    unit(workspace, &package)?;
    println!("package: {} is as it should be", package.display());
    Ok(package)
}

/// What systemd says of the unit: it understands every word of it, and finds it closed.
fn unit(workspace: &Workspace, package: &Path) -> anyhow::Result<()> {
    const PLACE: &str = "usr/lib/systemd/system";
    const UNIT: &str = "ollama-guard.service";
    let root = directory(workspace).join("unpacked");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(directory(workspace))?;
    command::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    // Verified where they lie: with the program that they start, and with each other.
    let program = root.join("usr/bin/ollama-guard");
    for name in [UNIT, "ollama-guard-pins.service"] {
        let text = fs::read_to_string(root.join(PLACE).join(name))?;
        let here = text.replace("=/usr/bin/ollama-guard", &format!("={}", program.display()));
        fs::write(root.join(name), here)?;
    }
    let unit = root.join(UNIT);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit).env("SYSTEMD_LOG_LEVEL", "warning");
    // It says what it does not like, and ends well all the same.
    let verified = verify.output().context("systemd-analyze")?;
    let said = String::from_utf8_lossy(&verified.stderr);
    ensure!(verified.status.success() && said.is_empty(), "the unit is not understood: {said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    security.arg(format!("--threshold={EXPOSURE}")).arg(&unit);
    let report = command::output(&mut security).context("the unit is more open than it may be")?;
    let total = report.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
    println!("package: {total}");
    let mut users = Command::new("systemd-sysusers");
    users.arg("--dry-run").arg(root.join("usr/lib/sysusers.d/ollama-guard.conf"));
    command::run_quietly(&mut users).context("the user is not understood")
}

/// Plays its whole life in a Debian of this suite.
fn machine(workspace: &Workspace, package: &Path, suite: &str) -> anyhow::Result<()> {
    ensure_package("debootstrap", "debootstrap", "a Debian to install it in")?;
    ensure_package("systemd-nspawn", "systemd-container", "a container that systemd boots in")?;
    let base = debian(workspace, suite)?;
    let newer = newer(workspace, package)?;
    let work = directory(workspace).join(format!("machine-{suite}"));
    println!("package: in Debian {suite}");
    let result = remove(&work).and_then(|()| {
        let program = workspace.release_binary("package");
        let mut play = Elevation::detect().require("the machine", program, &[])?;
        command::run(play.arg(base).arg(package).arg(newer).arg(&work))
    });
    // Root's files, whatever came of it; but what a failure left is looked at first.
    if result.is_ok() { remove(&work) } else { result }
}

/// A Debian in a directory. Made once.
fn debian(workspace: &Workspace, suite: &str) -> anyhow::Result<PathBuf> {
    let base = directory(workspace).join(suite);
    if base.is_dir() {
        return Ok(base);
    }
    setup::say(&format!("debootstrap {suite} into target/package-test (about a minute, 90 MB)"));
    let half = base.with_extension("new");
    remove(&half)?;
    fs::create_dir_all(directory(workspace))?;
    let mut make = Elevation::detect().require("a Debian in a directory", "debootstrap", &[])?;
    make.args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(&half);
    command::run_quietly(&mut make)?;
    let mut rename = Elevation::detect().require("a Debian in a directory", "mv", &[])?;
    command::run(rename.arg(&half).arg(&base))?;
    Ok(base)
}

/// The same package with a higher version.
fn newer(workspace: &Workspace, package: &Path) -> anyhow::Result<PathBuf> {
    let root = directory(workspace).join("newer");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    command::run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&root))?;
    let control = root.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = format!("Version: {}-1", dist::VERSION);
    ensure!(text.contains(&version), "{text}");
    fs::write(&control, text.replace(&version, &format!("Version: {}-2", dist::VERSION)))?;
    let newer = directory(workspace).join("newer.deb");
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build", "-Znone"]).arg(&root).arg(&newer);
    command::run_quietly(&mut pack)?;
    Ok(newer)
}

/// Removes what root may have made.
fn remove(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut rm = Elevation::detect().require("cleaning up", "rm", &[])?;
    command::run(rm.args(["-rf", "--one-file-system"]).arg(path))
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("package-test")
}
